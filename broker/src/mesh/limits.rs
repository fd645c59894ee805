//! How much a member may send, and how often a hello may be shown.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

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
    /// Leases one member may have where there are other members.
    pub member_sessions: usize,
    /// Hellos per minute one member may say; 0 is no limit. As many at once as the mesh has places.
    pub hello_rate: u32,
}

impl Limits {
    /// How often one member may send.
    pub(crate) fn sends(&self) -> Rate {
        Rate { per_minute: self.send_rate, burst: self.send_burst }
    }

    /// How often one member may say hello: all its sessions may come back at once.
    pub(crate) fn hellos(&self) -> Rate {
        let burst = u32::try_from(self.capacity).unwrap_or(u32::MAX);
        Rate { per_minute: self.hello_rate, burst }
    }
}

/// What a token bucket holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Tokens that come in a minute; 0 is no limit.
    pub(crate) per_minute: u32,
    /// Tokens it has room for.
    pub(crate) burst: u32,
}

/// A minute, in the bucket's grains: a token is this many grains, a millisecond brings `rate`.
const TOKEN: u64 = 60_000;

/// Token buckets (RFC 2697's single rate, counted in tokens), one per member.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    levels: HashMap<K, (u64, Ms)>,
    /// With so many levels, those that are full again are dropped.
    prune_at: usize,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// All full.
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, levels: HashMap::new(), prune_at: PRUNE_FROM }
    }

    /// Whether there is a token to take.
    pub(crate) fn has(&self, member: &K, now: Ms) -> bool {
        let rate = u64::from(self.rate.per_minute);
        rate == 0
            || self.levels.get(member).is_none_or(|(grains, since)| {
                grains + now.saturating_sub(*since).saturating_mul(rate) >= TOKEN
            })
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, member: &K, now: Ms) -> bool {
        let rate = u64::from(self.rate.per_minute);
        if rate == 0 {
            return true;
        }
        let full = u64::from(self.rate.burst) * TOKEN;
        if self.levels.len() >= self.prune_at {
            let refill = full / rate;
            self.levels.retain(|_, (_, since)| now.saturating_sub(*since) < refill);
            // Twice as many: walking over all of them costs each of those that come a step or two.
            self.prune_at = PRUNE_FROM.max(2 * self.levels.len());
        }
        let (grains, since) = self.levels.entry(member.clone()).or_insert((full, now));
        let earned = now.saturating_sub(*since).saturating_mul(rate);
        *grains = full.min(*grains + earned);
        *since = now;
        let allowed = *grains >= TOKEN;
        if allowed {
            *grains -= TOKEN;
        }
        allowed
    }

    /// A token was taken for nothing.
    pub(crate) fn give_back(&mut self, member: &K) {
        if let Some((grains, _)) = self.levels.get_mut(member) {
            *grains = (u64::from(self.rate.burst) * TOKEN).min(*grains + TOKEN);
        }
    }
}

/// Fewer levels than these are never looked through.
const PRUNE_FROM: usize = 4096;

/// How long an accepted hello's signature is remembered: twice the clock skew allowed.
pub const REPLAY_MS: Ms = 120_000;

/// Signatures of accepted hellos: the same one again, from another connection, is a replay.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    by_signature: HashMap<Arc<str>, ConnId>,
    expiry: VecDeque<(Ms, Arc<str>)>,
}

impl Seen {
    /// Whether another connection than `conn` has used this signature of late.
    pub(crate) fn is_taken(&mut self, signature: &Arc<str>, conn: ConnId, now: Ms) -> bool {
        self.expire(now);
        self.by_signature.get(signature).is_some_and(|holder| *holder != conn)
    }

    /// Whether `conn` may use this signature; if so nobody else may, for a while.
    pub(crate) fn admit(&mut self, signature: &Arc<str>, conn: ConnId, now: Ms) -> bool {
        self.expire(now);
        if let Some(holder) = self.by_signature.get(signature) {
            return *holder == conn;
        }
        self.by_signature.insert(signature.clone(), conn);
        self.expiry.push_back((now + REPLAY_MS, signature.clone()));
        true
    }

    fn expire(&mut self, now: Ms) {
        while let Some((_, old)) = self.expiry.pop_front_if(|(until, _)| *until <= now) {
            self.by_signature.remove(&old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_may_burst_and_then_go_on_at_the_rate() {
        let mut buckets = Buckets::new(Rate { per_minute: 60, burst: 10 });
        assert!((0..10).all(|_| buckets.take(&"m", 5)));
        assert!(!buckets.take(&"m", 5));
        assert!(!buckets.take(&"m", 1_004));
        assert!(buckets.take(&"m", 1_005));
        assert!(buckets.take(&"other", 1_005));
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
