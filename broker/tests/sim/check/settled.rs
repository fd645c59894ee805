//! The promises when a history has settled: faults over, everybody back who will be.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::{AcceptKey, Recipient};

use crate::client::{Client, Target};
use crate::world::World;

/// All promises about what has happened by the end, faults over and everybody back who will be.
pub(crate) fn settled(world: &mut World) {
    let mut failures = Vec::new();
    once(world, &mut failures);
    delivered(world, &mut failures);
    ordered(world, &mut failures);
    present(world, &mut failures);
    stranded(world, &mut failures);
    world.check.all_answered(world.now);
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
                        Target::All => addressed(world, id, to),
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

fn addressed(world: &World, id: &str, to: &Client) -> bool {
    let own = Recipient::Session(to.address().into());
    let mut rows = world.store.now.envelopes.values();
    rows.any(|row| row.envelope.id.as_str() == id && row.recipients.contains(&own))
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
