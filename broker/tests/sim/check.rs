//! The promises, checked while a history runs and when it has settled. The first violation stands.

mod answers;
mod settled;

use std::collections::{BTreeMap, BTreeSet};

use broker::mesh::{MESH_BYTES, Mesh};
use serde_json::Value;

use answers::Answers;
pub(crate) use settled::settled;

use crate::client::Client;
use crate::store::Durable;
use crate::world::GRACE_MS;

/// What a connection may have in memory beyond the mesh's bound.
const TIGHT_BYTES: usize = 64 * 1024;
/// What P5 allows beyond the grace.
const SLACK_MS: u64 = 5_000;
/// What a restart may forget of a running grace: the pause between two beats, and a little.
const BEAT_SLACK_MS: u64 = 1_300;

pub(crate) struct Checker {
    seed: u64,
    violation: Option<String>,
    audited: usize,
    /// Per client: its lease's presence, while it has one.
    presences: BTreeMap<String, usize>,
    present: BTreeMap<usize, String>,
    departed: BTreeMap<usize, u64>,
    here: BTreeSet<usize>,
    homes: BTreeMap<usize, u64>,
    gone_since: BTreeMap<usize, u64>,
    /// Stretches without an owner or a store.
    troubles: Vec<(u64, u64)>,
    ownerless_since: Option<u64>,
    restarts: Vec<u64>,
    events: BTreeSet<(u64, String)>,
    first_id: BTreeMap<String, String>,
    answers: Answers,
    pub(crate) reattaches: usize,
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            violation: None,
            audited: 0,
            presences: BTreeMap::new(),
            present: BTreeMap::new(),
            departed: BTreeMap::new(),
            here: BTreeSet::new(),
            homes: BTreeMap::new(),
            gone_since: BTreeMap::new(),
            troubles: Vec::new(),
            ownerless_since: None,
            restarts: Vec::new(),
            events: BTreeSet::new(),
            first_id: BTreeMap::new(),
            answers: Answers::default(),
            reattaches: 0,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.violation.is_some()
    }

    pub(crate) fn verdict(self) -> Result<(), String> {
        self.violation.map_or(Ok(()), Err)
    }

    fn fail(&mut self, text: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(format!("seed {}: {}", self.seed, text()));
        }
    }

    // --- while it runs ---------------------------------------------------------------------

    /// P1: an ack is about to be written; the envelope must be durable.
    pub(crate) fn acked(&mut self, id: &str, store: &Durable) {
        let durable = store.accepted.values().any(|known| known.message.as_str() == id)
            || store.envelopes.values().any(|row| row.envelope.id.as_str() == id);
        if !durable {
            self.fail(|| format!("P1: {id} is acked and not durable"));
        }
    }

    /// P3: one key, one message.
    pub(crate) fn same_ack(&mut self, key: &str, first: &str, again: &str) {
        if first != again {
            self.fail(|| format!("P3: {key} was acked as {first} and as {again}"));
        }
    }

    /// P3 and the body: what arrives is what was sent, under one id.
    pub(crate) fn pushed(&mut self, body: &str, id: &str) {
        if !body.starts_with("body-") {
            return self.fail(|| format!("P2: {id} arrived with the body {body:?}"));
        }
        let first = self.first_id.entry(body.to_owned()).or_insert_with(|| id.to_owned()).clone();
        if first != id {
            self.fail(|| format!("P3: {body} arrived as {first} and as {id}"));
        }
    }

    pub(crate) fn owner_lost(&mut self, now: u64) {
        self.ownerless_since.get_or_insert(now);
        self.restarts.push(now);
    }

    pub(crate) fn owner_found(&mut self, now: u64) {
        if let Some(since) = self.ownerless_since.take() {
            self.troubles.push((since, now));
        }
    }

    pub(crate) fn trouble(&mut self, from: u64, until: u64) {
        self.troubles.push((from, until));
    }

    /// The server has noticed that a client is gone.
    pub(crate) fn departed(&mut self, now: u64, client: usize, socket: u64) {
        if self.homes.get(&client) == Some(&socket) {
            self.departed.entry(client).or_insert(now);
        }
    }

    /// The server has attached a client's connection.
    pub(crate) fn attached(&mut self, client: usize, socket: u64) {
        self.homes.insert(client, socket);
        self.departed.remove(&client);
    }

    pub(crate) fn greeted(&mut self, now: u64, client: usize, presence: &str) {
        self.here.insert(client);
        match self.present.get(&client) {
            Some(before) if before != presence => {
                let text = format!("P5: {now}: client {client} was {before} and is {presence}");
                self.fail(|| text);
            }
            Some(_) => self.reattaches += 1,
            None => {}
        }
    }

    /// Whether the client's own view says it is here; called before a commit is judged.
    pub(crate) fn views(&mut self, clients: &[Client]) {
        self.here = clients.iter().filter(|c| c.attached).map(|c| c.index).collect();
        self.gone_since = clients.iter().filter_map(|c| Some((c.index, c.gone_since?))).collect();
        self.presences.extend(clients.iter().filter_map(|c| Some((c.presence.clone()?, c.index))));
    }

    /// P5, from the audit trail: joined and left alternate, and nobody leaves who is here.
    pub(crate) fn committed(&mut self, now: u64, store: &Durable) {
        let fresh: Vec<_> = store.audit[self.audited..].to_vec();
        self.audited = store.audit.len();
        for (_, row, presence) in fresh {
            let key = lease_owner(store, &presence);
            let client = key.or_else(|| self.presences.get(&presence).copied());
            let Some(client) = client else { continue };
            if row.event == "peer_joined" {
                if let Some(before) = self.present.insert(client, presence.clone()) {
                    self.fail(|| format!("P5: {now}: client {client} joined again after {before}"));
                }
                self.presences.insert(presence, client);
            } else {
                let was = self.present.remove(&client);
                if was.as_deref() != Some(&presence) {
                    self.fail(|| format!("P5: {now}: {presence} left and was not here"));
                }
                self.judge_departure(now, client);
            }
        }
    }

    fn judge_departure(&mut self, now: u64, client: usize) {
        if self.here.contains(&client) {
            self.fail(|| format!("P5: {now}: client {client} left while it was here"));
        }
        if let Some(since) = self.gone_since.get(&client)
            && now - since < GRACE_MS
        {
            let away = now - since;
            self.fail(|| format!("P5: {now}: client {client} left after {away} ms"));
        }
        if let Some(since) = self.departed.remove(&client) {
            self.in_time(now, client, since);
        }
    }

    /// P5: at most grace + 5 s, not counting time without an owner.
    fn in_time(&mut self, now: u64, client: usize, since: u64) {
        let restarts = self.restarts.iter().filter(|at| **at >= since).count() as u64;
        let allowed = GRACE_MS + SLACK_MS + restarts * BEAT_SLACK_MS + self.troubled(since, now);
        if now - since > allowed {
            let took = now - since;
            self.fail(|| {
                format!("P5: {now}: client {client} left after {took} ms, allowed {allowed}")
            });
        }
    }

    fn troubled(&self, from: u64, until: u64) -> u64 {
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

    /// P5, from what peers see: nothing twice on a connection, nobody leaving who is here.
    pub(crate) fn event(
        &mut self,
        now: u64,
        (watcher, socket): (usize, u64),
        subject: Option<(usize, bool)>,
        frame: &Value,
    ) {
        let id = frame["messageId"].as_str().unwrap_or_default().to_owned();
        if !self.events.insert((socket, id)) {
            self.fail(|| format!("P5: {now}: client {watcher} was told twice: {frame}"));
        }
        if let Some((client, true)) = subject
            && frame["event"] == "peer_left"
            && self.gone_since.get(&client).is_some_and(|since| now - since < GRACE_MS)
        {
            self.fail(|| format!("P5: {now}: {watcher} saw {client} leave, who is here"));
        }
    }

    /// P6: whatever is written (envelopes, leases, audit) is written by the owner of that moment.
    pub(crate) fn landed(&mut self, now: u64, epoch: u64, current: u64) {
        if epoch != current {
            self.fail(|| format!("P6: {now}: epoch {epoch} wrote under epoch {current}"));
        }
    }

    /// P6: two owners have not written to one place.
    pub(crate) fn clash(&mut self, now: u64, clash: Option<String>) {
        if let Some(clash) = clash {
            self.fail(|| format!("P6: {now}: {clash}"));
        }
    }

    /// P9: a request was read.
    pub(crate) fn asked(&mut self, now: u64, socket: u64, text: &str) {
        self.answers.asked(now, socket, text);
    }

    /// P9: a frame is being written.
    pub(crate) fn answered(&mut self, now: u64, socket: u64, text: &str) {
        let late = self.answers.answered(now, socket, text);
        self.late(now, late);
    }

    /// P9: the connection has been closed, by name, or by the peer.
    pub(crate) fn connection_ended(&mut self, now: u64, socket: u64) {
        let late = self.answers.ended(now, socket);
        self.late(now, late);
    }

    /// Its process stands still: what it owes is owed by nobody until it wakes, and then is lost.
    pub(crate) fn connection_frozen(&mut self, socket: u64) {
        self.answers.forget(socket);
    }

    fn late(&mut self, now: u64, late: Option<String>) {
        if let Some(late) = late {
            self.fail(|| format!("P9: {now}: {late}"));
        }
    }

    /// P9: everything was answered in the end.
    pub(crate) fn all_answered(&mut self, now: u64) {
        let silence = self.answers.unanswered(now);
        self.late(now, silence);
    }

    /// P5 and P7: the caller is here, and everybody once.
    pub(crate) fn peers_list(&mut self, now: u64, caller: &str, frame: &Value) {
        let peers = frame["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let sessions: Vec<_> = peers.iter().filter_map(|peer| peer["sessionId"].as_str()).collect();
        let once: BTreeSet<_> = sessions.iter().collect();
        if once.len() != sessions.len() || !sessions.contains(&caller) {
            self.fail(|| format!("P7: {now}: {caller} was shown {sessions:?}"));
        }
    }

    /// P7: whoever has a lease may come back to it, however full the mesh is.
    pub(crate) fn refused(&mut self, now: u64, client: usize, frame: &Value, store: &Durable) {
        let mut leases = store.leases.keys();
        if frame["code"] == "capacity"
            && leases.any(|presence| lease_owner(store, presence.as_str()) == Some(client))
        {
            self.fail(|| format!("P7: {now}: client {client} has a lease and finds no room"));
        }
    }

    /// P8: memory stays within its bound, plus what each connection may add.
    pub(crate) fn bounds(&mut self, now: u64, mesh: Option<&Mesh>) {
        if let Some(mesh) = mesh
            && mesh.cached_bytes() > MESH_BYTES + mesh.leases() * TIGHT_BYTES
        {
            let bytes = mesh.cached_bytes();
            self.fail(|| format!("P8: {now}: {bytes} bytes in memory"));
        }
    }
}

fn lease_owner(store: &Durable, presence: &str) -> Option<usize> {
    let (row, _) = store.leases.get(&presence.into())?;
    let record: Value = serde_json::from_str(&row.body).ok()?;
    record["pid"].as_u64().map(|pid| pid as usize)
}
