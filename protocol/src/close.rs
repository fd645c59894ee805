//! Why a socket ends: the code and the reason a peer is told, and the name a metric carries.

/// A close frame. RFC 6455 §7.4 gives the meaning of the 1xxx codes; 4xxx are the mesh's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// The reason string, a stable name.
    pub reason: &'static str,
}

/// The presence was taken over by a newer connection.
pub const SESSION_REPLACED: Close = Close { code: 1000, reason: "session_replaced" };
/// This node is going away; reconnect.
pub const SHUTTING_DOWN: Close = Close { code: 1001, reason: "shutting down" };
/// No hello within the time allowed.
pub const HELLO_TIMEOUT: Close = Close { code: 1008, reason: "hello_timeout" };
/// Too many frames of other verbs than `send` and `client_ack`, or too many malformed ones.
pub const FLOOD: Close = Close { code: 1008, reason: "flood" };
/// A frame above the node's frame limit.
pub const FRAME_TOO_LARGE: Close = Close { code: 1009, reason: "frame_too_large" };
/// The peer does not read what is sent to it.
pub const SLOW_CONSUMER: Close = Close { code: 1013, reason: "slow_consumer" };
/// The broker cannot answer a hello now; try again.
pub const UNAVAILABLE: Close = Close { code: 1013, reason: "unavailable" };
/// A moderator ended the connection; it may come back.
pub const DISCONNECTED: Close = Close { code: 1000, reason: "disconnected" };
/// The same, for not having been heard of.
pub const DISCONNECTED_STALE: Close = Close { code: 1000, reason: "disconnected_stale" };
/// A moderator ended the session; it stays out for a while.
pub const KICKED: Close = Close { code: 4001, reason: "kicked" };
/// The same, for not having been heard of.
pub const KICKED_STALE: Close = Close { code: 4001, reason: "kicked_stale" };
/// The member has been removed from the mesh.
pub const BANNED: Close = Close { code: 4002, reason: "banned" };

/// Another process bears this node's name now.
pub const NODE_SUPERSEDED: Close = Close { code: 1001, reason: "node_superseded" };

/// Every close frame there is, but for refused hellos.
const ALL: [Close; 13] = [
    SESSION_REPLACED,
    SHUTTING_DOWN,
    HELLO_TIMEOUT,
    FLOOD,
    FRAME_TOO_LARGE,
    SLOW_CONSUMER,
    UNAVAILABLE,
    DISCONNECTED,
    DISCONNECTED_STALE,
    KICKED,
    KICKED_STALE,
    BANNED,
    NODE_SUPERSEDED,
];

/// The rejections with which a hello can be refused by the owner of its mesh.
const REJECTIONS: [&str; 9] = [
    "unauthorized",
    "revoked",
    "member_id_mismatch",
    "parent_member_id_mismatch",
    "capacity",
    "replayed",
    "malformed",
    "unavailable",
    "kicked",
];

impl Close {
    /// The close frame of this code and name, as another node says it; [`UNAVAILABLE`] if it is
    /// none of ours.
    pub fn named(code: u16, reason: &str) -> Self {
        let rejected = REJECTIONS.into_iter().map(Self::rejected);
        let mut known = ALL.into_iter().chain(rejected);
        let named = |close: &Self| close.code == code && close.reason == reason;
        known.find(named).unwrap_or(UNAVAILABLE)
    }

    /// A hello refused with this rejection code (protocol-core §2): policy violation.
    pub const fn rejected(code: &'static str) -> Self {
        Self { code: 1008, reason: code }
    }
}
