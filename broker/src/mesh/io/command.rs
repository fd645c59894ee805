//! What edges ask of the owner.

use std::sync::Arc;

use protocol::MemberId;
use protocol::client::{ClientAck, Profile, Request, Send, Verb};
use serde::{Deserialize, Serialize};

use super::{ConnId, Ms};
use crate::model::Epoch;

/// What an edge asks of the owner, numbered per connection by the link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A hello whose signatures the edge has checked.
    Attach(Box<Attach>),
    /// The socket has closed. Behind everything that was read from it.
    Detach {
        /// The peer said goodbye (a close frame), or just went.
        clean: bool,
        /// The socket goes on under another hello: the presence keys it may have in this mesh. A
        /// presence under another key is replaced, and ends at once.
        #[serde(default)]
        next: Option<Vec<String>>,
    },
    /// See [`Send`].
    Send(Send),
    /// See [`ClientAck`].
    ClientAck(ClientAck),
    /// See [`Request`].
    Request(Request),
    /// A command that the node it came from knows, and this one does not: it is of a later version.
    #[serde(skip)]
    Unknown,
}

/// What makes a command safe to execute again under a new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Doing it twice is doing it once.
    Idempotent,
    /// Its key is committed with its effect, and a repetition finds it.
    Deduplicated,
}

impl Command {
    /// Each verb's class, in one table.
    pub fn class(&self) -> Class {
        match self {
            // A second attach of a connection is a reattach to its own presence.
            Self::Attach(_) | Self::Detach { .. } | Self::ClientAck(_) | Self::Unknown => {
                Class::Idempotent
            }
            Self::Send(_) => Class::Deduplicated,
            Self::Request(request) => match request.verb {
                Verb::Disconnect(_) | Verb::Kick(_) | Verb::Ban { .. } | Verb::Unban { .. } => {
                    Class::Deduplicated
                }
                // These say how it is to be, or ask.
                Verb::ListPeers
                | Verb::MessageStatus { .. }
                | Verb::SetStatus { .. }
                | Verb::SetSummary { .. }
                | Verb::SetVisible { .. }
                | Verb::SetProfile(_)
                | Verb::SetStats { .. }
                | Verb::JoinGroup(_)
                | Verb::LeaveGroup { .. }
                | Verb::ListBans
                | Verb::AuditQuery { .. }
                | Verb::AuditVerify => Class::Idempotent,
            },
        }
    }
}

/// A checked hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attach {
    /// The member's key.
    pub pubkey: Arc<str>,
    /// The member id the client believes in, if it said one.
    pub member: Option<MemberId>,
    /// The key of the session.
    pub session: SessionKey,
    /// The session behind the socket.
    pub profile: Profile,
    /// The hello's signature: it is accepted once.
    pub signature: Arc<str>,
    /// When its socket was opened.
    #[serde(default)]
    pub opened_at: OpenedAt,
    /// When its edge read it, by the store's clock: milliseconds since the Unix epoch.
    #[serde(default)]
    pub read_at: i64,
}

impl Attach {
    /// What a returning session is recognized by: its proven key, or what a plain hello says of it.
    pub fn presence_key(&self) -> String {
        let profile = &self.profile;
        let parts = match &self.session {
            SessionKey::Proven(key) => serde_json::json!(["session", key]),
            other => serde_json::json!([
                "member",
                self.pubkey,
                profile.session_id,
                profile.hostname,
                other.key()
            ]),
        };
        parts.to_string()
    }

    /// Its presence key, and the one it has if the key it claims does not count.
    pub fn presence_keys(&self) -> Vec<String> {
        let mut keys = vec![self.presence_key()];
        if let SessionKey::Claimed(_) = self.session {
            let unclaimed = Self { session: SessionKey::Absent, ..self.clone() };
            keys.push(unclaimed.presence_key());
        }
        keys
    }
}

/// When a socket was opened. It decides which of two hellos of one presence is newer: one that waited,
/// unread, in a socket that its peer has given up is old. The clients' clocks have no part in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedAt {
    /// The process of the edge.
    pub process: u64,
    /// By that process's monotonic clock.
    pub mono: Ms,
    /// By the store's clock, which all nodes follow: milliseconds since the Unix epoch.
    pub wall: i64,
}

impl OpenedAt {
    /// The clocks of two nodes may differ by so much, in milliseconds.
    const SKEW_MS: i64 = 500;
    /// A hello that has been read waits for its owner for 8 s, or as long as its edge stands still.
    /// What was opened longer after it was opened by a clock that was set.
    const WAIT_MS: i64 = 60_000;

    /// Whether this was certainly opened after the socket of a hello, which may have been open for
    /// long when it said that hello.
    pub fn is_after(&self, hello: &Attach) -> bool {
        let other = &hello.opened_at;
        if self.process == other.process {
            return self.mono > other.mono;
        }
        let last = hello.read_at.max(other.wall).saturating_add(Self::WAIT_MS);
        other.wall.saturating_add(Self::SKEW_MS) <= self.wall && self.wall <= last
    }
}

/// A session's own key, as a hello claims it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKey {
    /// None.
    Absent,
    /// Named, not proven (`hello`).
    Claimed(Arc<str>),
    /// Proven by its own signature and vouched for by the member (`session_hello`).
    Proven(Arc<str>),
}

impl SessionKey {
    /// The key, proven or not.
    pub fn key(&self) -> Option<&Arc<str>> {
        match self {
            Self::Absent => None,
            Self::Claimed(key) | Self::Proven(key) => Some(key),
        }
    }
}

/// A command on its way: what [`router::link`] numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// Of which connection.
    pub conn: ConnId,
    /// The epoch the edge believes in. Others are dropped: the edge sends everything again when it
    /// hears of a new one.
    pub epoch: Epoch,
    /// From here up to `number`, everything has its result.
    pub base: u64,
    /// This one's number.
    pub number: u64,
    /// What is asked.
    pub command: Arc<Command>,
}
