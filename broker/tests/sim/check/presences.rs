//! P5: presence is continuous. Who joined and who left, from what is committed, against who is here
//! by their own account.

use std::collections::{BTreeMap, BTreeSet};

use broker::mesh::SHORT_LIVED_MS;

use crate::world::GRACE_MS;

/// What P5 allows beyond the grace.
const SLACK_MS: u64 = 5_000;
/// What a restart may forget of a running grace: the pause between two beats, and a little.
const BEAT_SLACK_MS: u64 = 1_300;

/// What a one-shot command may have waited for its answer in a new epoch, which counts from its own
/// start.
const CATCH_UP_MS: u64 = 500;

/// Whether a departure may come before its grace is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody asked for it.
    Grace,
    /// A moderator did.
    Moderated,
}

/// Per identity, see [`crate::client::Client`].
#[derive(Default)]
pub(super) struct Presences {
    /// By the audit: who has a presence, and which.
    pub(super) present: BTreeMap<u64, String>,
    identities: BTreeMap<String, u64>,
    /// When the server noticed that somebody is gone.
    departed: BTreeMap<u64, u64>,
    here: BTreeSet<u64>,
    homes: BTreeMap<u64, u64>,
    gone_since: BTreeMap<u64, u64>,
    /// Stretches without an owner or a store.
    troubles: Vec<(u64, u64)>,
    ownerless_since: Option<u64>,
    /// Whoever is here, on a node that others cannot reach: they may hold that it left then.
    cut: BTreeMap<u64, u64>,
    restarts: Vec<u64>,
    /// Whoever said goodbye: a brief one-shot command leaves at once.
    farewells: BTreeSet<u64>,
    /// By the keys they name: one-shot commands, and when each was attached.
    commands: BTreeMap<String, (u64, Option<u64>)>,
    /// Whoever's connection went on as another presence, and since when; and all of them ever.
    pub(super) replaced: BTreeMap<u64, u64>,
    succeeded: BTreeSet<u64>,
    /// By who follows on the same connection.
    former: BTreeMap<u64, u64>,
    /// Those that others were told of.
    told: BTreeSet<String>,
    /// Those that were gone before they could be anybody's news.
    brief: BTreeSet<String>,
    pub(super) reattaches: usize,
    /// Departures for which nobody asked.
    pub(super) lapsed: Vec<u64>,
}

impl Presences {
    /// A connection has gone on as another presence.
    pub(super) fn succeeded(&mut self, now: u64, identity: u64) {
        self.replaced.insert(identity, now);
        self.succeeded.insert(identity);
    }

    /// A short-lived session that is lost before it is announced has no grace.
    fn is_untold_command(&self, identity: u64) -> bool {
        let named = self.commands.iter().find(|(_, command)| command.0 == identity);
        named.is_some_and(|(key, _)| !self.told.contains(key))
    }

    /// On one connection `identity` follows `former`, who may not be gone yet.
    pub(super) fn follows(&mut self, identity: u64, former: u64) {
        self.former.insert(identity, former);
    }

    /// Whether another than this one has claimed the key.
    pub(super) fn is_claimed_by_another(&self, key: &str, identity: u64) -> bool {
        let claimer = self.commands.get(key).map(|(claimer, _)| *claimer);
        claimer.is_some_and(|who| who != identity && self.former.get(&identity) != Some(&who))
    }

    pub(super) fn owner_lost(&mut self, now: u64) {
        self.replaced.clear();
        self.ownerless_since.get_or_insert(now);
    }

    /// Another owner, or the same anew.
    pub(super) fn restarted(&mut self, now: u64) {
        self.replaced.clear();
        self.restarts.push(now);
    }

    pub(super) fn cut_off(&mut self, identity: u64, since: u64) {
        if self.here.contains(&identity) {
            self.cut.entry(identity).or_insert(since);
        }
    }

    pub(super) fn joined_again(&mut self, identity: u64) {
        self.cut.remove(&identity);
    }

    /// Whether nothing stood in the way of anybody all this time.
    pub(super) fn is_quiet(&self, from: u64, until: u64) -> bool {
        self.troubled(from, until) == 0
    }

    /// A one-shot command counts from when the owner let it in.
    pub(super) fn let_in(&mut self, now: u64, identity: u64) {
        if let Some((_, attached)) = self.commands.values_mut().find(|c| c.0 == identity) {
            attached.get_or_insert(now);
        }
    }

    pub(super) fn owner_found(&mut self, now: u64) {
        if let Some(since) = self.ownerless_since.take() {
            self.troubles.push((since, now));
        }
    }

    pub(super) fn trouble(&mut self, from: u64, until: u64) {
        self.troubles.push((from, until));
    }

    pub(super) fn identity(&self, presence: &str) -> Option<u64> {
        self.identities.get(presence).copied()
    }

    pub(super) fn presence(&self, identity: u64) -> Option<&str> {
        self.present.get(&identity).map(String::as_str)
    }

    /// The server has noticed that a client is gone.
    pub(super) fn departed(&mut self, now: u64, identity: u64, socket: u64) {
        if self.homes.get(&identity) == Some(&socket) {
            self.departed.entry(identity).or_insert(now);
        }
    }

    pub(super) fn one_shot(&mut self, identity: u64, key: String) {
        self.commands.insert(key, (identity, None));
    }

    /// The server has read the goodbye of a one-shot command. In quiet times it is gone within
    /// a moment of that.
    pub(super) fn goodbye_read(&mut self, now: u64, identity: u64) {
        let command = self.commands.iter().find(|(_, command)| command.0 == identity);
        if let Some((key, (_, Some(attached)))) = command
            && now - attached < SHORT_LIVED_MS / 2
        {
            self.brief.insert(key.clone());
        }
    }

    /// Others are told of a presence.
    pub(super) fn announced(&mut self, now: u64, event: &str, key: &str) -> Result<(), String> {
        let Some((_, attached)) = self.commands.get(key) else { return Ok(()) };
        // Whoever has not confirmed it is told again.
        let told = matches!(event, "peer_joined" | "peer_returned");
        let repeated = told && !self.told.insert(key.to_owned());
        let Some(attached) = attached.as_ref() else { return Ok(()) };
        let quiet = self.troubled(*attached, now) == 0;
        if quiet
            && self.brief.contains(key)
            && matches!(event, "peer_joined" | "peer_returned" | "peer_left")
        {
            return Err(format!("{event} of a command that was gone at once"));
        }
        if quiet
            && !repeated
            && event == "peer_joined"
            && now - attached < SHORT_LIVED_MS - CATCH_UP_MS
        {
            return Err(format!("{event} of a command after {} ms", now - attached));
        }
        Ok(())
    }

    /// The server has attached a client's connection.
    pub(super) fn attached(&mut self, identity: u64, socket: u64) {
        self.homes.insert(identity, socket);
        self.departed.remove(&identity);
    }

    /// The client has read that it is attached.
    pub(super) fn greeted(&mut self, identity: u64, presence: &str) -> Result<(), String> {
        self.here.insert(identity);
        self.gone_since.remove(&identity);
        match self.present.get(&identity) {
            Some(before) if before != presence => {
                return Err(format!("client {identity} was {before} and is {presence}"));
            }
            Some(_) => self.reattaches += 1,
            None => {}
        }
        Ok(())
    }

    /// The client has lost its connection or let it go, by its own account.
    pub(super) fn gone(&mut self, identity: u64, since: u64) {
        self.here.remove(&identity);
        let since = self.cut.remove(&identity).map_or(since, |cut| cut.min(since));
        self.gone_since.insert(identity, since);
    }

    pub(super) fn said_goodbye(&mut self, identity: u64) {
        self.farewells.insert(identity);
    }

    /// A `peer_joined` is durable.
    pub(super) fn joined(&mut self, identity: u64, presence: &str) -> Result<(), String> {
        self.identities.insert(presence.to_owned(), identity);
        match self.present.insert(identity, presence.to_owned()) {
            Some(before) => Err(format!("client {identity} joined again after {before}")),
            None => Ok(()),
        }
    }

    /// A `peer_left` is durable: nobody leaves who is here, nor early, nor late.
    pub(super) fn left(&mut self, now: u64, presence: &str, cause: Cause) -> Result<(), String> {
        let known = self.identities.get(presence).copied();
        let identity = known.ok_or_else(|| format!("{presence} left and never joined"))?;
        if self.present.remove(&identity).as_deref() != Some(presence) {
            return Err(format!("{presence} left and was not here"));
        }
        if let Some(since) = self.replaced.remove(&identity) {
            let allowed = SLACK_MS + self.troubled(since, now);
            if now - since > allowed {
                return Err(format!("client {identity} was replaced {} ms before", now - since));
            }
        }
        let departed = self.departed.remove(&identity);
        let unasked = self.succeeded.contains(&identity) || self.is_untold_command(identity);
        // Of a presence that follows under the same key nobody was told yet.
        self.told.retain(|key| self.commands.get(key).is_none_or(|(who, _)| *who != identity));
        if cause == Cause::Moderated || self.farewells.contains(&identity) || unasked {
            return Ok(());
        }
        self.lapsed.push(identity);
        let cut = self.cut.get(&identity).is_some_and(|since| since + GRACE_MS <= now);
        if self.here.contains(&identity) && !cut {
            return Err(format!("client {identity} left while it was here"));
        }
        if let Some(since) = self.gone_since.get(&identity)
            && now - since < GRACE_MS
        {
            return Err(format!("client {identity} left after {} ms", now - since));
        }
        departed.map_or(Ok(()), |since| self.in_time(now, identity, since))
    }

    /// At most grace + 5 s, not counting time without an owner.
    fn in_time(&self, now: u64, identity: u64, since: u64) -> Result<(), String> {
        let restarts = self.restarts.iter().filter(|at| **at >= since).count() as u64;
        let allowed = GRACE_MS + SLACK_MS + restarts * BEAT_SLACK_MS + self.troubled(since, now);
        let took = now - since;
        if took > allowed {
            return Err(format!("client {identity} left after {took} ms, allowed {allowed}"));
        }
        Ok(())
    }

    pub(super) fn troubled(&self, from: u64, until: u64) -> u64 {
        let open = self.ownerless_since.map(|since| (since, until));
        let mut spans: Vec<_> = self.troubles.iter().copied().chain(open).collect();
        spans.sort_unstable();
        let mut at = from;
        let mut total = 0;
        for (start, end) in spans {
            let (start, end) = (start.max(at), end.min(until));
            if end > start {
                total += end - start;
                at = end;
            }
        }
        total
    }

    /// What peers see: nobody is said to leave who is here.
    pub(super) fn seen_leaving(&self, now: u64, identity: u64) -> Result<(), String> {
        match self.gone_since.get(&identity) {
            Some(since) if now - since < GRACE_MS && self.here.contains(&identity) => {
                Err(format!("{identity} is here and was seen leaving"))
            }
            _ => Ok(()),
        }
    }
}
