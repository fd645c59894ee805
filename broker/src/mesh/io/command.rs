//! What edges ask of the owner.

use std::sync::Arc;

use protocol::MemberId;
use protocol::client::{ClientAck, Profile, Request, Send, Verb};
use serde::{Deserialize, Serialize};

use super::ConnId;
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
    /// When it was said, by the peer's clock.
    pub said_at: i64,
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
