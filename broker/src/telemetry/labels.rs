//! The values labels may take. Enums, so that a metric has a bounded number of series.

use opentelemetry::KeyValue;

/// A label with its values.
pub(super) trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value, in the order of the enum.
    const VALUES: &'static [&'static str];
    /// Which value.
    fn index(self) -> usize;
}

/// The attribute sets of every value of a label, built once.
pub(super) struct Sets(Vec<[KeyValue; 1]>);

impl Sets {
    pub(super) fn of<L: Label>() -> Self {
        Self(L::VALUES.iter().map(|value| [KeyValue::new(L::NAME, *value)]).collect())
    }

    pub(super) fn get<L: Label>(&self, label: L) -> &[KeyValue] {
        self.0.get(label.index()).map_or(&[], |set| set.as_slice())
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $label:literal { $($(#[$value_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* #[doc = concat!("`", $text, "`.")] $variant),+
        }

        impl Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($text),+];
            fn index(self) -> usize {
                self as usize
            }
        }

        impl $name {
            /// The value that reads so, if there is one.
            pub fn named(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// As the label says it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

label!(
    /// Why a hello was refused: the code the client is told (protocol-core §8).
    ConnectionRejected, "reason" {
        BadSessionPubkey = "bad_session_pubkey",
        BadParentPubkey = "bad_parent_pubkey",
        AttestationMismatch = "attestation_mismatch",
        Capacity = "capacity",
        TimestampSkew = "timestamp_skew",
        Malformed = "malformed",
        BadSignature = "bad_signature",
        AttestationExpired = "attestation_expired",
        AttestationTtlTooLong = "attestation_ttl_too_long",
        AttestationMalformed = "attestation_malformed",
        AttestationBadSignature = "attestation_bad_signature",
        SessionTimestampSkew = "session_timestamp_skew",
        SessionMalformed = "session_malformed",
        SessionBadSignature = "session_bad_signature",
        Revoked = "revoked",
        Unauthorized = "unauthorized",
        ParentMemberIdMismatch = "parent_member_id_mismatch",
        /// Not the reference's: a signature seen before.
        Replayed = "replayed",
        /// Not the reference's: the member said too many hellos.
        RateLimit = "rate_limit",
        /// Not the reference's: the session was kicked a moment ago.
        Kicked = "kicked",
        /// Not the reference's: too many sockets without a hello from one address.
        HalfOpen = "half_open",
        /// Not the reference's: the store or the owner did not answer in time.
        Unavailable = "unavailable",
        /// Not the reference's: anything that has no word of its own yet.
        Other = "other",
    }
);

label!(
    /// What a delivered message was.
    Routed, "priority" {
        Now = "now",
        Next = "next",
        Low = "low",
        Stream = "stream",
    }
);

impl From<protocol::client::Priority> for Routed {
    fn from(priority: protocol::client::Priority) -> Self {
        use protocol::client::Priority;
        match priority {
            Priority::Now => Self::Now,
            Priority::Next => Self::Next,
            Priority::Low => Self::Low,
        }
    }
}

label!(
    /// Why a send was refused.
    MessageRejected, "reason" {
        RateLimit = "rate_limit",
        TooLarge = "too_large",
        NoRecipient = "no_recipient",
        ParseOrHandler = "parse_or_handler",
        /// Not the reference's: the recipient's queue is full.
        QueueFull = "queue_full",
        /// Not the reference's: the store did not answer in time.
        Unavailable = "unavailable",
        /// Not the reference's: the recipient does not let the sender write to it.
        Grants = "grants",
        /// Not the reference's: no such topic, or not one of its members.
        NoTopic = "no_topic",
    }
);

label!(
    /// Which capability a recipient had not granted.
    GrantCap, "cap" {
        Dm = "dm",
        Broadcast = "broadcast",
    }
);

label!(
    /// Whether a sweep found a stale status. The reference puts the number itself here, a new
    /// series for each.
    Flipped, "flipped" {
        Some = "some",
        None = "none",
    }
);

label!(
    /// Why a socket ended: the reason of its close frame, or who left.
    SocketClosed, "reason" {
        /// By the client.
        Client = "client",
        /// Without a close frame: the network, or the client's death.
        Lost = "lost",
        /// No pong within the time allowed.
        Stale = "stale",
        SessionReplaced = "session_replaced",
        ShuttingDown = "shutting_down",
        HelloTimeout = "hello_timeout",
        Flood = "flood",
        FrameTooLarge = "frame_too_large",
        SlowConsumer = "slow_consumer",
        Unavailable = "unavailable",
        Banned = "banned",
        Kicked = "kicked",
        /// After a refused hello; which refusal is counted by `broker_connections_rejected_total`.
        Rejected = "rejected",
        Other = "other",
    }
);

impl From<protocol::Close> for SocketClosed {
    fn from(close: protocol::Close) -> Self {
        let reason = if close.reason == "shutting down" { "shutting_down" } else { close.reason };
        Self::named(reason).unwrap_or(match close.code {
            1008 => Self::Rejected,
            _ => Self::Other,
        })
    }
}

label!(
    /// Why an accepted message reached somebody never.
    MessageDropped, "reason" {
        QueueFull = "queue_full",
        Expired = "expired",
        /// Of a member that was removed from the mesh, or for one.
        Banned = "banned",
    }
);
