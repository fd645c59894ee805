//! The promises when a history has settled: faults over, everybody back who will be.

use std::collections::{BTreeMap, BTreeSet};

use broker::mesh::Mesh;
use broker::model::{AcceptKey, Lane, Recipient, Seq};
use protocol::MessageId;
use protocol::client::Status;

use super::Watcher;
use crate::client::{Client, Target};
use crate::world::World;

/// A client waits so long before it tries again, and is answered.
const RETRY_MS: u64 = 20_000;
/// When the faults are over, nodes may take so long to agree on who runs the mesh.
const SETTLE_MS: u64 = 30_000;
/// Owners a mesh may have for no other reason than that nodes start, and for each fault.
const RAISES: usize = 8;
const RAISES_PER_FAULT: usize = 3;

/// All promises about what has happened by the end, faults over and everybody back who will be.
pub(crate) fn settled(world: &mut World) {
    let mut failures = Vec::new();
    once(world, &mut failures);
    delivered(world, &mut failures);
    drained(world, &mut failures);
    histories(world, &mut failures);
    ordered(world, &mut failures);
    present(world, &mut failures);
    stranded(world, &mut failures);
    moving(world, &mut failures);
    moderating(world, &mut failures);
    world.watch_all();
    world.check.all_answered(world.now);
    if let Some(first) = failures.into_iter().next() {
        world.check.fail(|| first);
    }
}

/// No livelock: what these said on their connections has been answered, if they are still there. Who
/// may not say so much is told so.
pub(crate) fn resumed(world: &mut World, said: &[(usize, u64, String)]) {
    let limited = world.is_rate_limited();
    let silent = said.iter().find(|(index, socket, body)| {
        let client = &world.clients[*index];
        client.socket == Some(*socket) && client.unacked.contains_key(body) && !limited
    });
    if let Some((index, _, body)) = silent.cloned() {
        let now = world.now;
        world.check.fail(|| format!("liveness: {now}: {body} of client {index} is not answered"));
    }
    if said.is_empty() && !world.check.failed() {
        let now = world.now;
        world.check.fail(|| format!("liveness: {now}: nobody is back"));
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

/// P2: what was acked has arrived wherever its recipient is, or still waits, or was taken back.
fn delivered(world: &World, failures: &mut Vec<String>) {
    let waiting: BTreeSet<_> = world.store.now.deliveries.iter().map(|(_, seq)| *seq).collect();
    for sender in &world.clients {
        for (body, (id, _)) in &sender.acked {
            if world.lost_tail.contains(id) {
                continue;
            }
            let rows = &world.store.now.envelopes;
            let row = MessageId::position(id).and_then(|seq| rows.get(&seq));
            let Some(row) = row.filter(|row| row.envelope.id.as_str() == id) else {
                failures.push(format!("P2: {id} was acked and is not stored"));
                continue;
            };
            for recipient in &row.recipients {
                let seq = row.envelope.seq;
                let excused = world.was_purged(recipient, seq)
                    || world.check.was_withheld(recipient, seq)
                    || world.store.now.undeliverable.contains(&seq);
                if !waiting.contains(&seq) && !excused && !world.check.has(recipient, id) {
                    let from = sender.index;
                    failures.push(format!("P2: {body} ({id}) from {from} to {recipient} is lost"));
                }
            }
        }
    }
}

/// Nobody who is here and may be disturbed has anything waiting; nobody works for ever.
fn drained(world: &mut World, failures: &mut Vec<String>) {
    let Some(owner) = world.owner() else {
        return failures.push("P2: nobody runs the mesh".to_owned());
    };
    let peers = world.peers(owner);
    let busy: BTreeSet<_> = peers
        .iter()
        .filter(|peer| peer.status != Status::Idle)
        .map(|peer| peer.session_id.as_str())
        .collect();
    if let Some(peer) = peers.iter().find(|peer| peer.status == Status::Working) {
        failures.push(format!("status: {} still works", peer.session_id));
    }
    let shown: BTreeSet<_> = peers.iter().map(|peer| peer.session_id.as_str()).collect();
    for (queue, seq) in &world.store.now.deliveries {
        let takes = |client: &Client| {
            let session = client.session_id.as_str();
            // Of whom is hidden the status is not known here.
            let idle = shown.contains(session) && !busy.contains(session);
            client.attached && (queue.lane == Lane::Urgent || idle)
        };
        if world.clients.iter().any(|client| client.owns(&queue.recipient) && takes(client)) {
            failures.push(format!("P2: {seq} still waits for {}, who is here", queue.recipient));
        }
    }
}

/// P2: nothing waits for a presence that has ended, where nobody would look for it.
fn stranded(world: &World, failures: &mut Vec<String>) {
    for (queue, seq) in &world.store.now.deliveries {
        if let Recipient::Presence(presence) = &queue.recipient
            && !world.store.now.leases.contains_key(presence)
        {
            failures.push(format!("P2: {seq} waits for {presence}, which has ended"));
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
                    let Some((id, message)) = sender.acked.get(body) else { continue };
                    let own = match message.target {
                        Target::Session(other) => other == to.index,
                        // What an ended presence left to its member is not addressed to us.
                        Target::All | Target::Group(_) | Target::Topic(_) => {
                            addressed(world, id, to)
                        }
                        _ => false,
                    };
                    if message.sockets != [*socket]
                        || !own
                        || to.address() == to.member_keys.public_hex()
                    {
                        continue;
                    }
                    // Kept from it for a while, it may come later than what was not.
                    if world.check.may_have_waited(id, to, world) {
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

fn addressed(world: &World, id: &str, to: &Client) -> bool {
    let own = Recipient::Session(to.address().into());
    let row = MessageId::position(id).and_then(|seq| world.store.now.envelopes.get(&seq));
    row.is_some_and(|row| row.envelope.id.as_str() == id && row.recipients.contains(&own))
}

/// P5 and P7: whoever is here has one lease, whoever is gone has none, and the owner agrees.
fn present(world: &mut World, failures: &mut Vec<String>) {
    let leases = world.store.now.leases.len();
    let here = world.clients.iter().filter(|client| client.attached).count();
    if leases != here {
        failures.push(format!("P7: {here} clients are here, the store has {leases} leases"));
    }
    let owner = world.owner().and_then(|id| world.processes[&id].seat.mesh());
    let counted = owner.map(Mesh::leases);
    if counted != Some(leases) {
        failures.push(format!("P7: the owner counts {counted:?} leases, the store {leases}"));
    }
    for client in &world.clients {
        if client.back_at.is_some() && !client.attached {
            failures.push(format!("client {} wants to be here and is not", client.index));
        }
    }
}

/// No livelock: everything that was to be accepted is, and the mesh stays where it is.
fn moving(world: &World, failures: &mut Vec<String>) {
    for client in world.clients.iter().filter(|client| client.attached) {
        let waits = client.unacked.values().find(|m| m.sent_at + RETRY_MS < world.now);
        if let Some(message) = waits.filter(|message| message.key.is_some()) {
            failures.push(format!("liveness: {} of {} is not acked", message.body, client.index));
        }
    }
    let raises = world.check.raises_since(world.calm_since + SETTLE_MS);
    if raises > 0 {
        failures.push(format!("liveness: {raises} owners of a mesh that nobody disturbs"));
    }
    let (raises, reasons) = (world.check.raises_since(0), world.reasons());
    if raises > RAISES + RAISES_PER_FAULT * reasons {
        failures.push(format!("liveness: {raises} owners for {reasons} reasons"));
    }
}

/// What the owner holds of roles is what the store says.
fn moderating(world: &World, failures: &mut Vec<String>) {
    for (row, _) in world.store.now.leases.values() {
        let body: serde_json::Value = serde_json::from_str(&row.body).expect("JSON");
        let may = world.store.now.members[&row.member].may_moderate();
        if body["moderator"] != may {
            failures.push(format!("roles: {} of {} moderates: {}", row.presence, row.member, !may));
        }
    }
}

/// Each topic message is in a history once, and nothing else is.
fn histories(world: &World, failures: &mut Vec<String>) {
    let written = world.store.now.history.iter().map(|history| &history.envelope.id);
    let ids: BTreeSet<_> = written.clone().collect();
    let sent = world.store.now.envelopes.values().filter(|r| r.envelope.target.starts_with('#'));
    let sent: BTreeSet<_> = sent.map(|row| &row.envelope.id).collect();
    if ids != sent || written.count() != sent.len() {
        failures.push("topics: the histories are not what was sent to topics".to_owned());
    }
}

impl World {
    /// P5: whoever is here knows who else is.
    fn watch_all(&mut self) {
        let now = self.now;
        for client in self.clients.iter().filter(|client| client.attached) {
            let member = client.member_id();
            let subject = (client.address(), client.name());
            let identity = client.identity;
            self.check.watched(now, &Watcher { identity, member: &member, subject });
        }
    }

    /// From its own queue, or from its member's, which inherited it.
    fn was_purged(&self, recipient: &Recipient, seq: Seq) -> bool {
        let purged = &self.store.now.purged;
        let heir = self.check.heir(recipient);
        purged.contains(&(recipient.clone(), seq))
            || heir.is_some_and(|heir| purged.contains(&(heir, seq)))
    }
}
