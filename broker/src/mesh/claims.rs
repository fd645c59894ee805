//! Session keys that plain hellos claim without proof.
//!
//! A claim is a hint for replies to a command that runs now. It counts only while the key is no
//! member's, nobody has proven it, and no other member's presence claims it; what is sealed to it is
//! for that presence alone, and ends with it (`departure`). The store says which keys are members' or
//! proven: with each hello, and with the grants, which are read again when somebody sends.

use std::sync::Arc;

use protocol::close;

use super::io::{Attach, Now, Question, SessionKey};
use super::pipeline::Left;
use super::roster::Lease;
use super::state::Mesh;
use crate::model::Member;

impl Mesh {
    /// A claim of a key that a living presence of another member claims, or any has proven, does not
    /// count: the hello is as one without it.
    pub(super) fn check_claim(&self, attach: &mut Attach, member: &Member) {
        let SessionKey::Claimed(key) = &attach.session else { return };
        let other = |lease: &Lease| lease.record.proven || lease.record.member != member.id;
        if self.roster.naming(key).any(|(_, lease)| lease.is_eligible() && other(lease)) {
            attach.session = SessionKey::Absent;
        }
    }

    /// The key turns out to be somebody's: a presence that claims it ends, without a grace, and its
    /// client may say hello again, as itself.
    pub(super) fn end_claims(&mut self, now: Now, key: &str) {
        let key = key.to_ascii_lowercase();
        let claims = |lease: &Lease| lease.is_eligible() && lease.claimed_key().is_some();
        let ended = self.roster.naming(&key).filter(|(_, lease)| claims(lease));
        for (no, conn) in ended.map(|(no, lease)| (no, lease.conn())).collect::<Vec<_>>() {
            let conns = conn.map(|conn| (conn, close::SESSION_REPLACED)).into_iter().collect();
            self.leave(now, no, Left { conns, ..Left::default() });
        }
    }

    /// What all members let others do, and whose the claimed keys are.
    pub(super) fn grants_question(&self) -> Question {
        let claimed = self.roster.iter().filter_map(|(_, lease)| lease.claimed_key().cloned());
        let claims: Vec<Arc<str>> = claimed.collect();
        Question::Grants { claims }
    }
}
