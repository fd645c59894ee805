//! Whom a `send` is for (protocol-core §4.1): resolved once, when it is accepted.

use super::roster::{Lease, LeaseNo, Roster};
use crate::model::Recipient;

/// Why there is nobody to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// A direct target without a lease.
    Absent,
    /// A topic that does not exist.
    NoTopic,
}

/// Who gets it, and whether it was addressed to one or to many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// One session or member.
    Direct(Recipient),
    /// Each visible lease of other members that fits, in grace or online. May be empty.
    Many(Vec<Recipient>),
}

/// Resolves `target`, as sent by the lease `from`.
pub(crate) fn resolve(roster: &Roster, from: LeaseNo, target: &str) -> Result<Resolved, Nobody> {
    match target.split_at_checked(1) {
        _ if target == "*" || target == "@all" => Ok(many(roster, from, |_| true)),
        Some(("@", group)) => Ok(many(roster, from, |lease| lease.record.in_group(group))),
        Some(("#", _)) => Err(Nobody::NoTopic),
        _ => direct(roster, from, target).map(Resolved::Direct).ok_or(Nobody::Absent),
    }
}

fn many(roster: &Roster, from: LeaseNo, fits: impl Fn(&Lease) -> bool) -> Resolved {
    let member = roster.get(from).map(|lease| &lease.record.member);
    let others = roster.iter().filter(|(_, lease)| Some(&lease.record.member) != member);
    let chosen =
        others.filter(|(_, lease)| lease.record.visible && lease.is_eligible() && fits(lease));
    Resolved::Many(chosen.map(|(_, lease)| lease.own()).collect())
}

fn direct(roster: &Roster, from: LeaseNo, target: &str) -> Option<Recipient> {
    let sender = roster.get(from)?;
    let eligible = |no: LeaseNo, lease: &Lease| no != from && lease.is_eligible();
    let others = || roster.addressed(target).filter(|(no, lease)| eligible(*no, lease));
    let by_session = |lease: &Lease| lease.record.session_pubkey.as_deref() == Some(target);
    // What was proven beats what was only claimed, and the key's own queue a look-alike's.
    let doubts = |lease: &Lease| (!lease.record.proven, lease.record.twin);
    let session = others().filter(|(_, l)| by_session(l)).min_by_key(|(_, l)| doubts(l));
    if let Some((_, lease)) = session {
        return Some(lease.own());
    }
    let (_, lease) = others().next()?;
    if lease.record.member != sender.record.member {
        return Some(Recipient::Member(lease.record.member.clone()));
    }
    // Mail to one's own member goes to a sibling, not back to the sender; to a session if there is
    // one, because members' own sockets drop what comes from their member (protocol-core §11.2).
    let best = others().min_by_key(|(no, l)| (!l.record.proven, l.conn().is_none(), *no))?;
    Some(best.1.own())
}
