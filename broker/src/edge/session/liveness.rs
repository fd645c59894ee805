//! Whether a connection's peer is still there: when it is pinged, and when it counts as gone.
//!
//! Guarantees: a peer is dropped when nothing at all has come from it for [`STALE_MS`], at that
//! moment and not at the next ping; never while it is not read, nor for time in which the node
//! itself stood still. A half-open connection sends nothing, so anything that comes shows life.

use crate::mesh::io::Ms;

/// How often a peer is pinged.
pub const PING_MS: Ms = 30_000;
/// A peer that has sent nothing for so long, pongs included, is gone.
pub const STALE_MS: Ms = 75_000;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    Gone,
}

/// See the module. Of a connection that is attached.
#[derive(Debug)]
pub(super) struct Liveness {
    ping_at: Ms,
    /// When the peer last showed that it lives, or could not.
    heard: Ms,
    /// The socket is not being read: what the peer sends waits in its buffers.
    unread: bool,
}

impl Liveness {
    /// It is attached from `now` on.
    pub(super) fn new(now: Ms) -> Self {
        Self { ping_at: now + PING_MS, heard: now, unread: false }
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self, now: Ms) {
        self.heard = now;
    }

    /// Whether the socket is being read from now on. When reading resumes the wait begins anew: a
    /// pong may lie behind much that was not read.
    pub(super) fn reads(&mut self, now: Ms, reads: bool) {
        if reads && self.unread {
            self.heard = now;
        }
        self.unread = !reads;
    }

    /// When [`check`](Self::check) has something to say.
    pub(super) fn deadline(&self) -> Ms {
        self.ping_at.min(self.gone_at())
    }

    fn gone_at(&self) -> Ms {
        if self.unread { Ms::MAX } else { self.heard.saturating_add(STALE_MS) }
    }

    /// The node stood still until `now`: who was silent meanwhile may have answered, or was not
    /// asked. It is asked now, and given the whole time to answer.
    pub(super) fn stood_still(&mut self, now: Ms) {
        self.heard = now;
        self.ping_at = now;
    }

    /// What is due.
    pub(super) fn check(&mut self, now: Ms) -> Due {
        if self.gone_at() <= now {
            Due::Gone
        } else if self.ping_at <= now {
            self.ping_at = now + PING_MS;
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}
