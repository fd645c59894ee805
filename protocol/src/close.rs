//! Why a socket ends: the code and the reason a peer is told, and the name a metric carries.

/// A close frame. RFC 6455 §7.4 gives the meaning of the 1xxx codes; 4xxx are the mesh's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The close code.
    pub code: u16,
    /// The reason string, a stable name.
    pub reason: &'static str,
}

/// Declares close frames, and the list of all of them, from which another node's word is understood.
macro_rules! closes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        $($(#[$doc])* pub const $name: Close = Close { code: $code, reason: $reason };)*

        /// Every close frame of an attached peer, or of a hello that the owner of its mesh refuses.
        const ALL: &[Close] = &[$($name),*];
    };
}

closes! {
    /// The presence was taken over by a newer connection.
    SESSION_REPLACED = 1000, "session_replaced";
    /// This node is going away; reconnect.
    SHUTTING_DOWN = 1001, "shutting down";
    /// No hello within the time allowed.
    HELLO_TIMEOUT = 1008, "hello_timeout";
    /// Too many frames of other verbs than `send` and `client_ack`, or too many malformed ones.
    FLOOD = 1008, "flood";
    /// A frame above the node's frame limit.
    FRAME_TOO_LARGE = 1009, "frame_too_large";
    /// The peer does not read what is sent to it.
    SLOW_CONSUMER = 1013, "slow_consumer";
    /// The broker cannot answer a hello now; try again.
    UNAVAILABLE = 1013, "unavailable";
    /// A moderator ended the connection; it may come back.
    DISCONNECTED = 1000, "disconnected";
    /// The same, for not having been heard of.
    DISCONNECTED_STALE = 1000, "disconnected_stale";
    /// A moderator ended the session; it stays out for a while.
    KICKED = 4001, "kicked";
    /// The same, for not having been heard of.
    KICKED_STALE = 4001, "kicked_stale";
    /// The member has been removed from the mesh.
    BANNED = 4002, "banned";
    /// Another process bears this node's name now.
    NODE_SUPERSEDED = 1001, "node_superseded";
    /// A hello whose key is no member's, or whose mesh is closed (protocol-core §2, as all below).
    UNAUTHORIZED = 1008, "unauthorized";
    /// A hello that names another member than its key is.
    MEMBER_ID_MISMATCH = 1008, "member_id_mismatch";
    /// The same of a session's parent.
    PARENT_MEMBER_ID_MISMATCH = 1008, "parent_member_id_mismatch";
    /// The mesh is full, or the member has as many sessions as it may.
    CAPACITY = 1008, "capacity";
    /// A hello that was said before, on another connection.
    REPLAYED = 1008, "replayed";
    /// A hello that makes no sense.
    MALFORMED = 1008, "malformed";
    /// A member says hello too often.
    RATE_LIMIT = 1008, "rate_limit";
}

impl Close {
    /// The close frame of this code and name, as another node says it; [`UNAVAILABLE`] if it is
    /// none of ours.
    pub fn named(code: u16, reason: &str) -> Self {
        let named = |close: &&Self| close.code == code && close.reason == reason;
        ALL.iter().find(named).copied().unwrap_or(UNAVAILABLE)
    }

    /// A hello refused with this rejection code before its mesh is asked (protocol-core §2): policy violation.
    pub const fn rejected(code: &'static str) -> Self {
        Self { code: 1008, reason: code }
    }
}
