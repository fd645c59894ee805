//! The promises, checked while a history runs and when it has settled. The first violation stands.

use std::collections::{BTreeMap, BTreeSet};

use broker::mesh::{MESH_BYTES, Mesh};
use broker::model::{AcceptKey, Recipient};
use serde_json::Value;

use crate::client::{Client, Target};
use crate::store::Durable;
use crate::world::{GRACE_MS, World};

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
    pub(crate) envelopes: usize,
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
            envelopes: 0,
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

    /// P8: memory stays within its bound, plus what a single mesh's windows may add.
    pub(crate) fn bounds(&mut self, now: u64, mesh: Option<&Mesh>) {
        if let Some(mesh) = mesh
            && mesh.cached_bytes() > MESH_BYTES + 2 * 1024 * 1024
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

// --- when it has settled -------------------------------------------------------------------

/// All promises about what has happened by the end, faults over and everybody back who will be.
pub(crate) fn settled(world: &mut World) {
    let mut failures = Vec::new();
    once(world, &mut failures);
    delivered(world, &mut failures);
    ordered(world, &mut failures);
    present(world, &mut failures);
    world.check.envelopes = world.store.now.envelopes.len();
    if let Some(first) = failures.into_iter().next() {
        world.check.fail(|| first);
    }
}

/// P3, in the store.
fn once(world: &World, failures: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for row in world.store.now.envelopes.values() {
        let key = (row.envelope.sender.member.clone(), row.envelope.key.clone());
        if matches!(key.1, AcceptKey::Client(_)) && !seen.insert(key.clone()) {
            failures.push(format!("P3: {key:?} is stored twice"));
        }
    }
}

/// P2: what was acked has arrived wherever its recipient is.
fn delivered(world: &World, failures: &mut Vec<String>) {
    for sender in &world.clients {
        for (body, (id, message)) in &sender.acked {
            let row = world.store.now.envelopes.values().find(|r| r.envelope.id.as_str() == id);
            let Some(row) = row else {
                failures.push(format!("P2: {id} was acked and is not stored"));
                continue;
            };
            let has = |client: &Client| client.received.iter().any(|(_, b, _)| b == body);
            for recipient in &row.recipients {
                if !arrived(world, recipient, &has) {
                    failures.push(format!(
                        "P2: {body} ({id}) from {} to {recipient} never arrived",
                        sender.index
                    ));
                }
            }
            if let Target::Session(to) = message.target
                && world.clients[to].attached
                && !has(&world.clients[to])
            {
                failures.push(format!("P2: {body} to session of {to} never arrived"));
            }
        }
    }
    for (queue, seq) in &world.store.now.deliveries {
        let here = world.clients.iter().any(|c| {
            c.attached
                && (queue.recipient == Recipient::Session(c.address().into())
                    || queue.recipient == Recipient::Member(c.member_id().into())
                    || c.presence
                        .as_deref()
                        .is_some_and(|p| queue.recipient == Recipient::Presence(p.into())))
        });
        if here {
            failures.push(format!("P2: {seq} still waits for {}, who is here", queue.recipient));
        }
    }
}

fn arrived(world: &World, recipient: &Recipient, has: &dyn Fn(&Client) -> bool) -> bool {
    let of_member = |member: usize| {
        let mut mates = world.clients.iter().filter(|c| c.member == member).peekable();
        let here = world.clients.iter().any(|c| c.member == member && c.attached);
        !here || mates.any(has)
    };
    match recipient {
        Recipient::Session(key) => {
            let client = world.clients.iter().find(|c| c.address() == **key);
            client.is_none_or(|client| !client.attached || has(client))
        }
        Recipient::Presence(id) => {
            let holder = world.clients.iter().find(|c| c.presence.as_deref() == Some(id.as_str()));
            match holder {
                Some(client) if client.attached => has(client) || of_member(client.member),
                Some(client) => of_member(client.member),
                None => true,
            }
        }
        Recipient::Member(id) => {
            let member = id.as_str().trim_start_matches("member-").parse().unwrap_or(0);
            of_member(member)
        }
    }
}

/// P4: per sender connection and recipient session, in send order for each priority.
fn ordered(world: &World, failures: &mut Vec<String>) {
    for sender in &world.clients {
        for (socket, bodies) in &sender.written {
            for to in &world.clients {
                let mut last: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
                for (_, body, _) in &to.received {
                    let Some((_, message)) = sender.acked.get(body) else { continue };
                    let own = match message.target {
                        Target::Session(other) => other == to.index,
                        Target::All => true,
                        _ => false,
                    };
                    if message.sockets != [*socket]
                        || !own
                        || to.address() == to.member_keys.public_hex()
                    {
                        continue;
                    }
                    let Some(place) = bodies.iter().position(|b| b == body) else { continue };
                    if let Some((before, earlier)) = last.insert(message.priority, (place, body))
                        && before > place
                    {
                        failures.push(format!(
                            "P4: {} got {body} after {earlier}, sent later by {}",
                            to.index, sender.index
                        ));
                    }
                }
            }
        }
    }
}

/// P5 and P7: whoever is here has one lease, whoever is gone has none, and the owner agrees.
fn present(world: &mut World, failures: &mut Vec<String>) {
    let leases = world.store.now.leases.len();
    let here = world.clients.iter().filter(|client| client.attached).count();
    if leases != here {
        failures.push(format!("P7: {here} clients are here, the store has {leases} leases"));
    }
    let counted = world.current().map(|id| world.processes[&id].mesh.leases());
    if counted != Some(leases) {
        failures.push(format!("P7: the owner counts {counted:?} leases, the store {leases}"));
    }
    for client in &world.clients {
        if client.back_at.is_some() && !client.attached {
            failures.push(format!("client {} wants to be here and is not", client.index));
        }
    }
}
