//! Whom an accepted envelope goes to: exactly those that the leases of that moment say. Units are
//! in the order in which the rules made up their mind, so that moment is the unit's own place.

use std::collections::BTreeSet;

use broker::model::{Accept, Capability, Recipient, Unit, Write};
use protocol::PresenceId;

use super::leases::{Body, Leases};
use super::windows::{KNOWN_MS, Windows, at};
use crate::store::Durable;

/// Checks one accepted envelope. `sender` is the presence it came from.
pub(super) fn check(
    unit: &Unit,
    accept: &Accept,
    sender: Option<&PresenceId>,
    leases: &Leases,
    windows: &Windows,
    store: &Durable,
) -> Result<(), String> {
    let envelope = &accept.envelope;
    let histories: Vec<_> = unit
        .0
        .iter()
        .filter_map(|write| match write {
            Write::History(history) => Some(history),
            _ => None,
        })
        .collect();
    let Some(spec) = envelope.target.strip_prefix('#') else {
        if !histories.is_empty() {
            return Err(format!("{} to {} is in a history", envelope.id, envelope.target));
        }
        return match envelope.target.as_str() {
            "*" | "@all" => to_many(accept, leases, windows, &|_| true),
            group => match group.strip_prefix('@') {
                Some(group) => to_many(accept, leases, windows, &|body| body.in_group(group)),
                None => Ok(()),
            },
        };
    };
    let topic = store.topic(spec).ok_or_else(|| format!("{} to no topic", envelope.id))?;
    let [history] = histories[..] else {
        return Err(format!("{} is in {} histories", envelope.id, histories.len()));
    };
    if history.topic != topic.id || history.envelope.id != envelope.id {
        return Err(format!("{} is in the wrong history", envelope.id));
    }
    let now = at(envelope);
    let is_in =
        |body: &Body| topic.members.contains(&body.member) && !store.members[&body.member].revoked;
    let settled = |body: &Body| windows.topic_settled(now, &topic.id, &body.member);
    let others = leases.all.iter().filter(|(presence, _)| Some(*presence) != sender);
    judge(
        accept,
        others.map(|(presence, body)| {
            (
                body.own(presence),
                is_in(body),
                settled(body)
                    && windows.removal_settled(now, &body.member)
                    && !body.may_be_no_recipient()
                    && !windows.short_queues,
            )
        }),
    )
}

fn to_many(
    accept: &Accept,
    leases: &Leases,
    windows: &Windows,
    fits: &dyn Fn(&Body) -> bool,
) -> Result<(), String> {
    let envelope = &accept.envelope;
    let (from, now) = (&envelope.sender.member, at(envelope));
    let known = now.saturating_sub(KNOWN_MS);
    judge(
        accept,
        leases.all.iter().map(|(presence, body)| {
            let grant = (&body.member, from, Capability::Broadcast);
            let fits = body.member != *from && body.visible && fits(body);
            let denied = windows.denied_throughout(grant, known, now);
            let settled = denied || !windows.denied_within(grant, known, now);
            let settled = settled && !body.may_be_no_recipient() && !windows.short_queues;
            (body.own(presence), fits && !denied, settled)
        }),
    )
}

/// Each lease's queue, whether it is to get the envelope, and whether that is certain.
fn judge(
    accept: &Accept,
    leases: impl Iterator<Item = (Recipient, bool, bool)>,
) -> Result<(), String> {
    let id = &accept.envelope.id;
    let mut left: BTreeSet<&Recipient> = accept.recipients.iter().collect();
    if left.len() != accept.recipients.len() {
        return Err(format!("{id} has a recipient twice"));
    }
    for (recipient, wanted, certain) in leases {
        if left.remove(&recipient) != wanted && certain {
            let what = if wanted { "is left out of" } else { "must not get" };
            let (from, to) = (&accept.envelope.sender.name, &accept.envelope.target);
            return Err(format!("{recipient} {what} {id} from {from} to {to}"));
        }
    }
    match left.first() {
        Some(stranger) => Err(format!("{stranger}, who is not here, is to get {id}")),
        None => Ok(()),
    }
}
