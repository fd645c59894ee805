//! The promises, checked while a history runs and when it has settled. The first violation stands.

mod answers;
mod audit;
mod cluster;
mod landed;
mod leases;
mod presences;
mod recipients;
mod removals;
mod rewind;
mod saved;
mod settled;
mod status;
mod traffic;
mod watchers;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use broker::mesh::{Limits, MESH_BYTES, SHORT_LIVED_MS};
use broker::seat::{LINK_BYTES, Seat};
use protocol::{MemberId, PresenceId};
use serde_json::Value;

use answers::Answers;
use audit::Chain;
use cluster::Owners;
use leases::Leases;
use presences::Presences;
use removals::Removals;
pub(crate) use rewind::Mark;
use saved::Saved;
pub(crate) use settled::{resumed, settled};
pub(crate) use status::SeenPeer;
use status::Words;

pub(crate) use traffic::Outlet;
use traffic::Traffic;
pub(crate) use watchers::Watcher;
use watchers::Watchers;
pub(crate) use windows::Grant;
use windows::Windows;

use crate::faults::{Coverage, Fault};
use crate::store::Durable;

/// What a connection may have in memory beyond the mesh's bound.
const TIGHT_BYTES: usize = 64 * 1024;

pub(crate) struct Checker {
    seed: u64,
    violation: Option<String>,
    events: BTreeSet<(u64, String)>,
    first_id: BTreeMap<String, String>,
    answers: Answers,
    presences: Presences,
    chain: Chain,
    leases: Leases,
    windows: Windows,
    removals: Removals,
    saved: Saved,
    traffic: Traffic,
    words: Words,
    owners: Owners,
    watchers: Watchers,
    /// Bytes that may wait in the mesh, and for one recipient.
    queue_limits: (u64, u64),
    /// What the commits show to have happened.
    pub(crate) coverage: Coverage,
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            violation: None,
            presences: Presences::default(),
            events: BTreeSet::new(),
            first_id: BTreeMap::new(),
            answers: Answers::default(),
            chain: Chain::new(),
            leases: Leases::default(),
            windows: Windows::default(),
            removals: Removals::default(),
            saved: Saved::default(),
            traffic: Traffic::default(),
            words: Words::default(),
            owners: Owners::default(),
            watchers: Watchers::default(),
            queue_limits: (0, 0),
            coverage: Coverage::new(),
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

    fn fire(&mut self, fault: Fault) {
        *self.coverage.entry(fault).or_default() += 1;
    }

    fn note(&mut self, promise: &str, now: u64, verdict: Result<(), String>) {
        if let Err(text) = verdict {
            self.fail(|| format!("{promise}: {now}: {text}"));
        }
    }

    // --- what changes beside us -------------------------------------------------------------

    pub(crate) fn granted(&mut self, now: u64, grant: Grant<'_>, denied: bool) {
        if denied {
            self.fire(Fault::GrantsDeny);
        }
        self.windows.granted(now, grant, denied);
    }

    pub(crate) fn topic_changed(&mut self, now: u64, topic: &str, member: &MemberId) {
        self.windows.topic_changed(now, topic, member);
    }

    /// A member was removed, or let in again, in the store.
    pub(crate) fn removal_changed(&mut self, now: u64, member: &MemberId) {
        self.windows.removed.insert(member.clone(), now);
        self.removals.reinstated(member);
    }

    /// It was removed by somebody else than the broker.
    pub(crate) fn removed_beside(&mut self, now: u64, member: &MemberId) {
        self.removals.removed_beside(now, member);
    }

    pub(crate) fn archived(&mut self, now: u64, archived: bool) {
        self.windows.archived = Some(now);
        self.removals.archived(now, archived);
    }

    pub(crate) fn role_changed(&mut self, now: u64, member: &MemberId) {
        self.windows.roles.insert(member.clone(), now);
    }

    /// Somebody asks who is here, and is told.
    pub(crate) fn lists(&mut self, now: u64, identity: u64) {
        let Some(member) = self.traffic.member(identity).cloned() else { return };
        let verdict = self.may_act(now, &member, "is shown who is here");
        self.note("removals", now, verdict);
    }

    /// What the histories allow.
    pub(crate) fn limits(&mut self, limits: &Limits) {
        self.queue_limits = (limits.mesh_queue_bytes, limits.recipient_queue_bytes);
        self.windows.short_queues = limits.recipient_queue_bytes < 10_000;
    }

    pub(crate) fn is_banned(&self, member: &MemberId) -> bool {
        self.removals.is_banned(member)
    }

    /// A moderation verb is on its way to the owner.
    pub(crate) fn commanded(&mut self, now: u64, key: String, identity: u64, kicks: bool) {
        if let Some(caller) = self.traffic.member(identity).cloned() {
            self.removals.commanded(now, key, caller, kicks);
        }
    }

    /// A moderator was told whom it ended.
    pub(crate) fn moderated(&mut self, now: u64, names: &[&str]) {
        let verdict = self.removals.answered(names);
        self.note("moderation", now, verdict);
    }

    pub(crate) fn counts_from(&mut self, presence: &PresenceId, base: u64) {
        self.saved.told(presence, base);
    }

    pub(crate) fn left_group(&mut self, identity: u64) {
        self.saved.left_group(identity);
    }

    /// Others are told of a presence.
    pub(crate) fn announced(&mut self, now: u64, event: &str, data: &Value) {
        let key = data["pubkey"].as_str().unwrap_or_default();
        let verdict = self.presences.announced(now, event, key);
        self.note("P5", now, verdict);
    }

    pub(crate) fn goodbye_read(&mut self, now: u64, identity: u64) {
        self.presences.goodbye_read(now, identity);
    }

    pub(crate) fn said_goodbye(&mut self, identity: u64) {
        self.presences.said_goodbye(identity);
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
        self.presences.owner_lost(now);
    }

    pub(crate) fn owner_found(&mut self, now: u64) {
        self.presences.owner_found(now);
        self.words.forget(now);
    }

    pub(crate) fn trouble(&mut self, from: u64, until: u64) {
        self.presences.trouble(from, until);
    }

    /// The node of a client is cut off: others may hold that it left then.
    pub(crate) fn cut_off(&mut self, identity: u64, since: u64) {
        self.presences.cut_off(identity, since);
    }

    /// Everybody must have heard of it again.
    pub(crate) fn joined_again(&mut self, identity: u64) {
        self.presences.joined_again(identity);
    }

    /// The owner has let somebody in.
    pub(crate) fn let_in(&mut self, now: u64, identity: u64) {
        self.presences.let_in(now, identity);
    }

    /// The mesh has another owner; `heard` says who is told of everything at this moment.
    pub(crate) fn owner_changed(&mut self, now: u64, heard: impl Fn(u64) -> bool) {
        self.watchers.owner_changed(now, heard);
    }

    /// From then on a client hears nothing, though it may believe to be here.
    pub(crate) fn hears_nothing(&mut self, identity: u64, since: u64) {
        self.watchers.gone(since, identity);
    }

    /// Whoever is here must know who else is.
    pub(crate) fn watched(&mut self, now: u64, watcher: &Watcher<'_>) {
        let may_pass = |came, went| {
            let known = came + 2 * SHORT_LIVED_MS;
            went < known || !self.presences.is_quiet(came, known)
        };
        if let Some(missed) = self.watchers.missed(watcher, may_pass) {
            self.fail(|| format!("P5: {now}: {missed}"));
        }
    }

    /// P6: a hello that somebody else has said was accepted.
    pub(crate) fn replay_accepted(&mut self, now: u64, index: usize) {
        self.fail(|| format!("replay: {now}: client {index} was let in with another's hello"));
    }

    /// A connection goes on as another presence: the former ends at once.
    pub(crate) fn replaced(&mut self, now: u64, identity: u64) {
        self.presences.succeeded(now, identity);
    }

    /// On one connection somebody follows another.
    pub(crate) fn follows(&mut self, identity: u64, former: u64) {
        self.presences.follows(identity, former);
    }

    /// Whatever was under way may take its time.
    pub(crate) fn forgive(&mut self) {
        self.presences.replaced.clear();
    }

    /// The server has noticed that a client is gone.
    pub(crate) fn departed(&mut self, now: u64, identity: u64, socket: u64) {
        self.presences.departed(now, identity, socket);
    }

    /// The server has attached a client's connection.
    pub(crate) fn attached(&mut self, identity: u64, socket: u64) {
        self.presences.attached(identity, socket);
    }

    /// The client has read that it is attached, which the broker wrote at `written`.
    pub(crate) fn greeted(
        &mut self,
        now: u64,
        (identity, socket): (u64, u64),
        written: u64,
        presence: &str,
    ) {
        // After another hello on one connection what was not confirmed comes again.
        self.events.retain(|(other, _)| *other != socket);
        self.watchers.greeted(now, identity, written, presence);
        let verdict = self.presences.greeted(identity, presence);
        self.note("P5", now, verdict);
    }

    /// The client has lost its connection or let it go, by its own account.
    pub(crate) fn gone(&mut self, identity: u64, since: u64) {
        self.presences.gone(identity, since);
    }

    pub(crate) fn reattaches(&self) -> usize {
        self.presences.reattaches
    }

    /// P5, from what peers see: nothing twice on a connection, nobody leaving who is here.
    pub(crate) fn event(
        &mut self,
        now: u64,
        (watcher, socket): (u64, u64),
        subject: Option<u64>,
        frame: &Value,
    ) {
        let id = frame["messageId"].as_str().unwrap_or_default().to_owned();
        if !self.events.insert((socket, id)) {
            self.fail(|| format!("P5: {now}: client {watcher} was told twice: {frame}"));
        }
        let verdict = self.watchers.told(watcher, frame);
        self.note("P5", now, verdict.map_err(|text| format!("client {watcher}: {text}")));
        if let Some(identity) = subject
            && frame["event"] == "peer_left"
        {
            let verdict = self.presences.seen_leaving(now, identity);
            self.note("P5", now, verdict);
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
        let verdict = self.answers.answered(now, socket, text);
        self.note("P9", now, verdict);
    }

    /// P9: the connection has been closed, by name, or by the peer.
    pub(crate) fn connection_ended(&mut self, now: u64, socket: u64) {
        let verdict = self.answers.ended(now, socket);
        self.note("P9", now, verdict);
    }

    /// Its process stands still: what it owes is owed by nobody until it wakes, and then is lost.
    pub(crate) fn connection_frozen(&mut self, socket: u64) {
        self.answers.forget(socket);
    }

    /// P9: everything was answered in the end.
    pub(crate) fn all_answered(&mut self, now: u64) {
        let verdict = self.answers.unanswered(now);
        self.note("P9", now, verdict);
    }

    /// P5 and P7: the caller is here, and everybody once.
    pub(crate) fn peers_list(&mut self, now: u64, caller: (&str, bool), frame: &Value) {
        let (caller, hidden) = caller;
        let peers = frame["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let sessions: Vec<_> = peers.iter().filter_map(|peer| peer["sessionId"].as_str()).collect();
        let once: BTreeSet<_> = sessions.iter().collect();
        // Whoever is just leaving does not see itself if it is hidden.
        if once.len() != sessions.len() || !(hidden || sessions.contains(&caller)) {
            self.fail(|| format!("P7: {now}: {caller} was shown {sessions:?}"));
        }
    }

    /// A sibling may have hidden its member.
    pub(crate) fn is_hidden(&self, identity: u64) -> bool {
        let presence = self.presences.presence(identity);
        let body = presence.and_then(|presence| self.leases.all.get(&presence.into()));
        body.is_some_and(|body| !body.visible)
    }

    /// P7: whoever has a lease may come back to it, however full the mesh is.
    pub(crate) fn refused(&mut self, now: u64, identity: u64, frame: &Value, store: &Durable) {
        let mut leases = store.leases.keys();
        if frame["code"] == "capacity"
            && leases.any(|presence| lease_owner(store, presence.as_str()) == Some(identity))
        {
            self.fail(|| format!("P7: {now}: client {identity} has a lease and finds no room"));
        }
    }

    /// P8: memory stays within its bound, plus what each connection may add.
    pub(crate) fn bounds(&mut self, now: u64, seat: Option<&Seat>) {
        let links = seat.map_or((0, 0), Seat::links);
        if links.1 > links.0 * LINK_BYTES {
            self.fail(|| format!("P8: {now}: {} bytes wait on {} links", links.1, links.0));
        }
        if let Some(mesh) = seat.and_then(Seat::mesh)
            && mesh.cached_bytes() > MESH_BYTES + mesh.leases() * TIGHT_BYTES
        {
            let bytes = mesh.cached_bytes();
            self.fail(|| format!("P8: {now}: {bytes} bytes in memory"));
        }
    }
}

fn lease_owner(store: &Durable, presence: &str) -> Option<u64> {
    let (row, _) = store.leases.get(&presence.into())?;
    let record: Value = serde_json::from_str(&row.body).ok()?;
    record["pid"].as_u64()
}
