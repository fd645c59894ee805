//! How much a member may send, and how often a hello may be shown.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use protocol::MemberId;

use super::io::{ConnId, Ms};
use super::status::StatusLimits;

/// How the operator bounds a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a presence waits for its session to return, in milliseconds.
    pub grace_ms: Ms,
    /// Leases a mesh may have, those in grace included.
    pub capacity: usize,
    /// Nonce, ciphertext and target of one envelope, in UTF-16 units.
    pub message_units: usize,
    /// Envelopes per minute a member may send; 0 is no limit.
    pub send_rate: u32,
    /// Envelopes a member may send at once.
    pub send_burst: u32,
    /// Keep direct messages for known recipients who are away.
    pub offline_queue: bool,
    /// How long a status holds.
    pub status: StatusLimits,
    /// How long a kicked connection without a proven key stays out, in milliseconds; 0 is not at
    /// all.
    pub kick_cooldown_ms: Ms,
    /// How long a kicked session's proven key stays out, likewise.
    pub kick_session_ms: Ms,
    /// Bytes of bodies that may wait in the mesh.
    pub mesh_queue_bytes: u64,
    /// Bytes of bodies that may wait for one recipient.
    pub recipient_queue_bytes: u64,
}

/// A minute, in the bucket's grains: a token is this many grains, a millisecond brings `rate`.
const TOKEN: u64 = 60_000;

/// Token buckets, one per member, shared by all its connections.
#[derive(Debug, Default)]
pub(crate) struct Buckets(HashMap<MemberId, (u64, Ms)>);

impl Buckets {
    /// Whether there is a token to take.
    pub(crate) fn has(&self, member: &MemberId, limits: &Limits, now: Ms) -> bool {
        let rate = u64::from(limits.send_rate);
        rate == 0
            || self.0.get(member).is_none_or(|(grains, since)| {
                grains + now.saturating_sub(*since).saturating_mul(rate) >= TOKEN
            })
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, member: &MemberId, limits: &Limits, now: Ms) -> bool {
        if limits.send_rate == 0 {
            return true;
        }
        let full = u64::from(limits.send_burst) * TOKEN;
        if self.0.len() > 4096 {
            let refill = full / u64::from(limits.send_rate);
            self.0.retain(|_, (_, since)| now.saturating_sub(*since) < refill);
        }
        let (grains, since) = self.0.entry(member.clone()).or_insert((full, now));
        let earned = now.saturating_sub(*since).saturating_mul(u64::from(limits.send_rate));
        *grains = full.min(*grains + earned);
        *since = now;
        let allowed = *grains >= TOKEN;
        if allowed {
            *grains -= TOKEN;
        }
        allowed
    }
}

/// How long an accepted hello's signature is remembered: twice the clock skew allowed.
pub const REPLAY_MS: Ms = 120_000;

/// Signatures of accepted hellos: the same one again, from another connection, is a replay.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    by_signature: HashMap<Arc<str>, ConnId>,
    expiry: VecDeque<(Ms, Arc<str>)>,
}

impl Seen {
    /// Whether `conn` may use this signature; if so nobody else may, for a while.
    pub(crate) fn admit(&mut self, signature: &Arc<str>, conn: ConnId, now: Ms) -> bool {
        while let Some((_, old)) = self.expiry.pop_front_if(|(until, _)| *until <= now) {
            self.by_signature.remove(&old);
        }
        if let Some(holder) = self.by_signature.get(signature) {
            return *holder == conn;
        }
        self.by_signature.insert(signature.clone(), conn);
        self.expiry.push_back((now + REPLAY_MS, signature.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        grace_ms: 90_000,
        capacity: 100,
        message_units: 65_536,
        send_rate: 60,
        send_burst: 10,
        offline_queue: false,
        status: StatusLimits { hook_fresh_ms: 30_000, working_ms: 60_000 },
        kick_cooldown_ms: 10_000,
        kick_session_ms: 900_000,
        mesh_queue_bytes: 256 << 20,
        recipient_queue_bytes: 64 << 20,
    };

    #[test]
    fn a_member_may_burst_and_then_send_at_the_rate() {
        let (mut buckets, member) = (Buckets::default(), MemberId::from("m"));
        assert!((0..10).all(|_| buckets.take(&member, &LIMITS, 5)));
        assert!(!buckets.take(&member, &LIMITS, 5));
        assert!(!buckets.take(&member, &LIMITS, 1_004));
        assert!(buckets.take(&member, &LIMITS, 1_005));
        assert!(buckets.take(&"other".into(), &LIMITS, 1_005));
    }

    #[test]
    fn a_hello_is_accepted_from_one_connection_only() {
        let (mut seen, signature) = (Seen::default(), Arc::from("s"));
        let conn = |number| ConnId { process: 1, number };
        assert!(seen.admit(&signature, conn(1), 0));
        assert!(seen.admit(&signature, conn(1), 10), "the link may repeat it");
        assert!(!seen.admit(&signature, conn(2), REPLAY_MS - 1));
        assert!(seen.admit(&signature, conn(2), REPLAY_MS));
    }
}
