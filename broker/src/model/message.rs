//! Envelopes, and whose queues they wait in.

use std::fmt;
use std::sync::Arc;

use protocol::client::Priority;
use protocol::{MemberId, MessageId, PresenceId};
use serde::{Deserialize, Serialize};

use super::{Capability, Seq};

/// Who sent an envelope, as its recipients are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The member.
    pub member: MemberId,
    /// The member's key.
    pub member_pubkey: Arc<str>,
    /// The key of the sending session, if it has one.
    pub session_pubkey: Option<Arc<str>>,
    /// The name in effect on the sending connection.
    pub name: Arc<str>,
}

impl Sender {
    /// The key the sender encrypts with: the session's, else the member's.
    pub fn pubkey(&self) -> &str {
        self.session_pubkey.as_deref().unwrap_or(&self.member_pubkey)
    }
}

/// One accepted message. The body (`nonce`, `ciphertext`) is opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Its id.
    pub id: MessageId,
    /// Its place.
    pub seq: Seq,
    /// Who sent it.
    pub sender: Arc<Sender>,
    /// Whom it was addressed to, as sent.
    pub target: String,
    /// How urgent it is.
    pub priority: Priority,
    /// Opaque.
    pub nonce: String,
    /// Opaque.
    pub ciphertext: String,
    /// What makes a retry of it recognizable.
    pub key: AcceptKey,
    /// The sender's digest of the request.
    pub fingerprint: Option<String>,
    /// The message it answers.
    pub reply_to: Option<String>,
    /// `reminder` from the scheduler.
    pub subtype: Option<String>,
    /// The name of the topic it was sent to, if it was.
    pub topic: Option<Arc<str>>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Envelope {
    /// Bytes it holds in memory, near enough to bound queues with.
    pub fn bytes(&self) -> usize {
        let more = [&self.fingerprint, &self.reply_to, &self.subtype];
        let more: usize = more.into_iter().flatten().map(String::len).sum();
        let body = self.nonce.len() + self.ciphertext.len() + self.target.len();
        // The sender, the topic and the id are shared, or of a fixed length.
        body + self.key.as_str().len() + more + 256
    }

    /// Bytes of its body: what the queues are bounded by.
    pub fn body_bytes(&self) -> u64 {
        (self.nonce.len() + self.ciphertext.len()) as u64
    }

    /// What its recipients must grant its sender: nothing in a topic, which they joined.
    pub fn capability(&self) -> Option<Capability> {
        match self.target.as_bytes().first() {
            Some(b'#') => None,
            Some(b'@' | b'*') => Some(Capability::Broadcast),
            _ => Some(Capability::Dm),
        }
    }

    /// The lane it waits in.
    pub fn lane(&self) -> Lane {
        Lane::of(self.priority)
    }
}

/// What makes a retry recognizable, within (mesh, sender member).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AcceptKey {
    /// The client's own `client_message_id`.
    Client(String),
    /// (connection, number): the link's, for sends that carry no id.
    Link(String),
}

impl AcceptKey {
    /// The name stored beside the key, so that clients cannot forge the link's.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Link(_) => "link",
        }
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Client(key) | Self::Link(key) => key,
        }
    }

    /// Back from what is stored. Unknown kinds are the link's: they match no client's.
    pub fn from_parts(kind: &str, key: String) -> Self {
        if kind == "client" { Self::Client(key) } else { Self::Link(key) }
    }

    /// The `client_message_id`, if the sender gave one.
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Client(key) => Some(key),
            Self::Link(_) => None,
        }
    }
}

/// Whose queue a delivery waits in. Durable: it outlives connections and presences.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recipient {
    /// A proven session key, whenever it is here.
    Session(Arc<str>),
    /// One presence without a proven key; ends with its lease and falls to the member.
    Presence(PresenceId),
    /// A member, through whichever of its connections suits best.
    Member(MemberId),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(key) => write!(f, "s:{key}"),
            Self::Presence(id) => write!(f, "p:{id}"),
            Self::Member(id) => write!(f, "m:{id}"),
        }
    }
}

impl Recipient {
    /// Back from its text; nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "s" => Some(Self::Session(rest.into())),
            "p" => Some(Self::Presence(rest.into())),
            "m" => Some(Self::Member(rest.into())),
            _ => None,
        }
    }
}

/// Order is kept within a lane: a busy recipient takes `now` and leaves the rest waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Priority `now`.
    Urgent,
    /// Priorities `next` and `low`.
    Normal,
}

impl Lane {
    /// Both, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Urgent, Self::Normal];

    /// The lane of a priority.
    pub fn of(priority: Priority) -> Self {
        if priority == Priority::Now { Self::Urgent } else { Self::Normal }
    }

    /// As stored.
    pub fn index(self) -> i16 {
        self as i16
    }

    /// Back from what is stored: 0 is urgent.
    pub fn from_index(index: i16) -> Self {
        if index == 0 { Self::Urgent } else { Self::Normal }
    }
}

/// A recipient's queue of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// Whose.
    pub recipient: Recipient,
    /// Which.
    pub lane: Lane,
}

/// A stretch of a queue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In order of sequence.
    pub envelopes: Vec<Arc<Envelope>>,
    /// Whether more follow.
    pub more: bool,
    /// Deliveries waiting in the whole queue; counting stops at [`QUEUE_QUOTA`].
    pub depth: usize,
}

/// Bounds of one page of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Rows.
    pub rows: usize,
    /// Bytes of body; the first row comes whatever its size.
    pub bytes: usize,
}

/// Deliveries that may wait for one recipient in one lane. At 64 KiB each that is 640 MB of disk.
pub const QUEUE_QUOTA: usize = 10_000;

/// Bytes of the bodies that wait in a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueBytes {
    /// In all: a body that waits for several counts once.
    pub mesh: u64,
    /// For each recipient, both lanes together.
    pub recipients: Vec<(Recipient, u64)>,
}

/// What `message_status` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMessage {
    /// The message.
    pub id: MessageId,
    /// Its sender's member.
    pub sender: MemberId,
    /// Members of whom a recipient's key was proven.
    pub members: Vec<MemberId>,
    /// Whom it was addressed to.
    pub target: String,
    /// Everyone it was resolved to when it was accepted.
    pub recipients: Vec<Recipient>,
    /// Those that have not confirmed.
    pub waiting: Vec<Recipient>,
    /// When the last one had, in milliseconds since the Unix epoch.
    pub delivered_at: Option<i64>,
    /// It was sealed to a claimed key, whose presence has ended without it.
    pub undeliverable: bool,
}

/// A topic, as one of its members writes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Who is in it, removed members left out.
    pub members: Vec<MemberId>,
}

/// See [`Write::History`](super::Write::History). Its id there is the message's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The topic.
    pub topic: Arc<str>,
    /// The message. Its `reply_to` is kept if it names a message of this topic.
    pub envelope: Arc<Envelope>,
    /// 1 is plain text in base64, 2 is sealed with the topic's key.
    pub body_version: i32,
    /// Lower-case names: each member of the mesh so called, but the sender, is notified; 32 at most.
    pub mentions: Vec<String>,
}
