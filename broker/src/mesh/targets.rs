//! Whom a `send` is for (protocol-core §4.1): resolved once, when it is accepted.

use protocol::MemberId;

use super::roster::{Lease, LeaseNo, Roster};
use crate::model::{Recipient, Topic};

/// Why there is nobody to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// A direct target without a lease.
    Absent,
    /// A topic that does not exist.
    NoTopic,
    /// A topic that the sender is not in.
    NotInTopic,
}

/// A recipient's queue, and the member whose grants count.
pub(crate) type Reached = (Recipient, MemberId);

/// Who gets it, and whether it was addressed to one or to many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// One session or member.
    Direct(Reached),
    /// Each visible lease of other members that fits, in grace or online. May be empty.
    Many(Vec<Reached>),
}

/// Whether a target is addressed to many, however few they are: `*`, a group or a topic.
pub(crate) fn is_many(target: &str) -> bool {
    target == "*" || target.starts_with(['@', '#'])
}

/// Resolves `target`, as sent by the lease `from`.
pub(crate) fn resolve(
    roster: &Roster,
    from: LeaseNo,
    target: &str,
    topic: Option<&Topic>,
) -> Result<Resolved, Nobody> {
    match target.split_at_checked(1) {
        _ if target == "*" || target == "@all" => Ok(many(roster, from, |_| true)),
        Some(("@", group)) => Ok(many(roster, from, |lease| lease.record.in_group(group))),
        Some(("#", _)) => in_topic(roster, from, topic.ok_or(Nobody::NoTopic)?),
        _ => direct(roster, from, target).map(Resolved::Direct).ok_or(Nobody::Absent),
    }
}

fn many(roster: &Roster, from: LeaseNo, fits: impl Fn(&Lease) -> bool) -> Resolved {
    let member = roster.get(from).map(|lease| &lease.record.member);
    let others = roster.iter().filter(|(_, lease)| Some(&lease.record.member) != member);
    let chosen =
        others.filter(|(_, lease)| lease.record.visible && lease.is_recipient() && fits(lease));
    Resolved::Many(chosen.map(|(_, lease)| reached(lease)).collect())
}

fn reached(lease: &Lease) -> Reached {
    (lease.own(), lease.record.member.clone())
}

/// Each other lease of the topic's members, whether it is visible or not: they asked for it.
fn in_topic(roster: &Roster, from: LeaseNo, topic: &Topic) -> Result<Resolved, Nobody> {
    let is_in = |lease: &Lease| topic.members.contains(&lease.record.member);
    if !roster.get(from).is_some_and(is_in) {
        return Err(Nobody::NotInTopic);
    }
    let others = roster.iter().filter(|(no, lease)| *no != from && lease.is_recipient());
    let chosen = others.filter(|(_, lease)| is_in(lease));
    Ok(Resolved::Many(chosen.map(|(_, lease)| reached(lease)).collect()))
}

/// A proven session, a member, a claimed key: in this order, so that no claim takes another's mail.
fn direct(roster: &Roster, from: LeaseNo, target: &str) -> Option<Reached> {
    let sender = roster.get(from)?;
    let fits = |no: LeaseNo, lease: &Lease| no != from && lease.is_recipient();
    let named = |proven: bool| {
        let proof = move |lease: &Lease| lease.record.proven == proven;
        roster.naming(target).find(|(no, lease)| fits(*no, lease) && proof(lease))
    };
    if let Some((_, lease)) = named(true) {
        return Some(reached(lease));
    }
    let of_member = |lease: &Lease| *lease.record.member_pubkey == *target;
    let others =
        || roster.addressed(target).filter(|(no, lease)| fits(*no, lease) && of_member(lease));
    let Some((_, lease)) = others().next() else {
        return named(false).map(|(_, lease)| reached(lease));
    };
    if lease.record.member != sender.record.member {
        let member = lease.record.member.clone();
        return Some((Recipient::Member(member.clone()), member));
    }
    // Mail to one's own member goes to a sibling, not back to the sender: to one that is here, and
    // rather to a session, because members' own sockets drop what comes from their member
    // (protocol-core §11.2). A short-lived session comes last.
    let order = |l: &Lease| (l.is_short_lived(), l.conn().is_none(), !l.record.proven);
    let best = others().min_by_key(|(no, l)| (order(l), *no))?;
    Some(reached(best.1))
}
