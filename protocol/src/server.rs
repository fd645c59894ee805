//! Frames a broker sends.

mod text;

use std::sync::Arc;

use serde::Serialize;

pub use self::text::{Row, Text, bytes_of};
use crate::EchoId;
use crate::client::{Group, PeerProfile, Priority, Stats, Status};

/// A reply or a notice; envelopes travel as [`Push`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame {
    /// The hello was accepted. Always the first frame on a socket that gets any.
    HelloAck(Box<HelloAck>),
    /// Something was refused.
    Error(Error),
    /// Any of the others, as another node has written it.
    #[serde(skip)]
    Verbatim {
        /// The JSON text, or its beginning where several frames share that.
        text: Arc<str>,
        /// The rest of it.
        tail: String,
        /// See [`Frame::is_acceptance`].
        acceptance: bool,
    },
    /// What became of a `send`.
    Ack(Ack),
    /// Something happened in the mesh.
    #[serde(rename = "push")]
    Event(Box<Event>),
    /// Who is in the mesh.
    PeersList {
        /// Oldest connection first: each a [`Peer`].
        peers: Vec<Row>,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
    /// What became of a message.
    MessageStatusResult(MessageStatusResult),
    /// Whose sessions were ended for good.
    KickAck(Ended),
    /// Whose connections were ended.
    DisconnectAck(Ended),
    /// A member was removed.
    BanAck {
        /// Its name.
        banned: String,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
    /// A member was let in again.
    UnbanAck {
        /// Its name.
        unbanned: String,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
    /// Who has been removed.
    ListBansResult {
        /// The last one first.
        bans: Vec<Ban>,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
    /// What has happened.
    AuditResult {
        /// Newest first.
        entries: Vec<AuditEntry>,
        /// How many there are in all.
        total: u64,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
    /// Whether the audit chain is whole.
    #[serde(rename_all = "camelCase")]
    AuditVerifyResult {
        /// It is.
        valid: bool,
        /// Entries read.
        entries: u64,
        /// The row where it is not.
        #[serde(skip_serializing_if = "Option::is_none")]
        broken_at: Option<i64>,
        /// Of the request.
        #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
        req_id: Option<EchoId>,
    },
}

impl Frame {
    /// The JSON text, whole.
    pub fn to_json(&self) -> String {
        self.text().into_string()
    }

    /// The JSON text. What frames share is not copied.
    pub fn text(&self) -> Text {
        match self {
            Self::Verbatim { text, tail, .. } => {
                Text::Shared { body: text.clone(), tail: tail.clone() }
            }
            Self::PeersList { peers, req_id } => {
                Text::list("peers_list", "peers", peers, req_id.as_ref())
            }
            // Structs of strings, numbers and lists always serialize.
            _ => Text::Whole(serde_json::to_string(self).unwrap_or_default()),
        }
    }

    /// Bytes of the JSON text.
    pub fn json_bytes(&self) -> usize {
        match self {
            Self::Verbatim { text, tail, .. } => text.len() + tail.len(),
            Self::PeersList { .. } => self.text().len(),
            _ => text::bytes_of(self),
        }
    }

    /// Whether it tells a sender that its message is safe.
    pub fn is_acceptance(&self) -> bool {
        match self {
            Self::Ack(ack) => ack.queued,
            Self::Verbatim { acceptance, .. } => *acceptance,
            _ => false,
        }
    }
}

/// `hello_ack` (protocol-core §2.4).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloAck {
    /// The presence, the same after a reattach.
    pub presence_id: String,
    /// The name in effect.
    pub member_display_name: String,
    /// The member's profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_profile: Option<MemberProfile>,
    /// What members may change of themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_policy: Option<MeshPolicy>,
    /// What the member's connection before left.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// Running services in scope.
    pub services: Vec<serde_json::Value>,
}

/// Part of [`HelloAck`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Always true.
    pub restored: bool,
    /// What it was doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_summary: Option<String>,
    /// When it was last here, ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// The groups it is in again, if the hello named none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_groups: Option<Vec<Group>>,
    /// What it counted: `messagesIn`, `messagesOut`, `toolCalls`, `errors`.
    pub restored_stats: serde_json::Value,
}

/// Part of [`HelloAck`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberProfile {
    /// The member's role tag.
    pub role_tag: Option<String>,
    /// The member's default groups.
    pub groups: Vec<Group>,
    /// `push`, unless changed.
    pub message_mode: String,
}

/// Part of [`HelloAck`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicy {
    /// What members may edit: `displayName`, `roleTag`, `groups`, `messageMode`, as stored.
    pub self_editable: serde_json::Value,
}

/// `error` (protocol-core §1.2). Some clients look for the request in `id`: both are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Error {
    /// A stable name.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// Of the frame refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<EchoId>,
    /// Of the request refused.
    #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
    pub req_id: Option<EchoId>,
    /// The broker's time in milliseconds since the Unix epoch, where a clock was the reason.
    #[serde(rename = "brokerTime", skip_serializing_if = "Option::is_none")]
    pub broker_time: Option<i64>,
}

/// `ack` (protocol-core §4.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// The `send`'s id, or empty.
    pub id: EchoId,
    /// The envelope's id, or empty if refused.
    pub message_id: String,
    /// Whether the envelope is durable.
    pub queued: bool,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// No recipient is there now; it waits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Recipients left out because their queues are full.
    #[serde(skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// To a group, a topic or everybody: how many it waits for. A retry may not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<u32>,
    /// Of the request, where that is no `send`.
    #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
    pub req_id: Option<EchoId>,
}

impl Ack {
    /// A refusal.
    pub fn refused(id: Option<EchoId>, error: impl Into<String>) -> Self {
        Self {
            id: id.unwrap_or_default(),
            message_id: String::new(),
            queued: false,
            error: Some(error.into()),
            held: false,
            skipped: 0,
            recipients: None,
            req_id: None,
        }
    }

    /// What `set_visible` and `set_profile` are answered (protocol-core §4.3).
    pub fn done(req_id: Option<EchoId>) -> Self {
        Self { error: None, req_id: req_id.clone(), ..Self::refused(req_id, "") }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A system event (protocol-core §2.6): never queued, never acked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `system`.
    pub subtype: &'static str,
    /// `peer_joined`, `peer_left`, …
    pub event: &'static str,
    /// What it is about.
    pub event_data: serde_json::Value,
    /// A UUID.
    pub message_id: String,
    /// The mesh.
    pub mesh_id: String,
    /// `system`.
    pub sender_pubkey: &'static str,
    /// `low`.
    pub priority: Priority,
    /// Empty.
    pub nonce: &'static str,
    /// Empty.
    pub ciphertext: &'static str,
    /// ISO 8601.
    pub created_at: String,
}

/// An envelope on its way to one recipient (protocol-core §4.4).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename = "push", rename_all = "camelCase")]
pub struct Push<'a> {
    /// The envelope's id.
    pub message_id: &'a str,
    /// The mesh.
    pub mesh_id: &'a str,
    /// The key the sender encrypted with: the session's, else the member's.
    pub sender_pubkey: &'a str,
    /// How urgent.
    pub priority: Priority,
    /// Opaque.
    pub nonce: &'a str,
    /// Opaque.
    pub ciphertext: &'a str,
    /// ISO 8601, when it was accepted.
    pub created_at: &'a str,
    /// The sender's member key. Absent where the recipient would drop its own member's mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_member_pubkey: Option<&'a str>,
    /// The sender's member.
    pub sender_member_id: &'a str,
    /// The sender's name.
    pub sender_name: &'a str,
    /// The message it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to_id: Option<&'a str>,
    /// `reminder` from the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtype: Option<&'a str>,
    /// The name of the topic it was sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<&'a str>,
    /// The sender's own id of the message.
    #[serde(rename = "client_message_id", skip_serializing_if = "Option::is_none")]
    pub client_message_id: Option<&'a str>,
    /// The sender's digest of the request.
    #[serde(rename = "request_fingerprint", skip_serializing_if = "Option::is_none")]
    pub request_fingerprint: Option<&'a str>,
}

impl Push<'_> {
    /// The JSON text.
    pub fn to_json(&self) -> String {
        let mut text = Vec::with_capacity(self.ciphertext.len() + self.nonce.len() + 640);
        // Structs of strings always serialize, into a vector always as UTF-8.
        let _ = serde_json::to_writer(&mut text, self);
        String::from_utf8(text).unwrap_or_default()
    }
}

/// One row of `peers_list` (protocol-core §5.1).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The key to address: the session's, else the member's.
    pub pubkey: String,
    /// The member's key.
    pub member_pubkey: String,
    /// The name in effect.
    pub display_name: String,
    /// Whether it may be disturbed.
    pub status: Status,
    /// What the session says it is doing.
    pub summary: Option<String>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// The client's id of the session.
    pub session_id: String,
    /// ISO 8601.
    pub connected_at: String,
    /// Working directory.
    pub cwd: String,
    /// `control-plane` or `session`.
    pub peer_role: &'static str,
    /// Host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Kind of peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// Kind of client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// Whether broadcasts reach it.
    pub visible: bool,
    /// What it tells of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<PeerProfile>,
}

/// `kick_ack` and `disconnect_ack` (protocol-core §6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// The names of those it was.
    pub kicked: Vec<String>,
    /// The same.
    pub affected: Vec<String>,
    /// Those a kick leaves alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped_control_plane: Vec<String>,
    /// Of the request.
    #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
    pub req_id: Option<EchoId>,
}

/// Part of `list_bans_result`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ban {
    /// The member's name.
    pub name: String,
    /// Its key.
    pub pubkey: String,
    /// ISO 8601.
    pub revoked_at: String,
}

/// Part of `audit_result` (protocol-core §7).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Its place in the chain.
    pub id: i64,
    /// What happened.
    pub event_type: String,
    /// Who did it: a name, else a member id, else `system`.
    pub actor: String,
    /// Metadata.
    pub payload: serde_json::Value,
    /// Covers the entry before, too.
    pub hash: String,
    /// ISO 8601.
    pub created_at: String,
}

/// `message_status_result` (protocol-core §4.8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageStatusResult {
    /// As asked.
    pub message_id: String,
    /// Whom it was for.
    pub target_spec: String,
    /// Whether all recipients confirmed.
    pub delivered: bool,
    /// When they had, ISO 8601.
    pub delivered_at: Option<String>,
    /// Each recipient.
    pub recipients: Vec<Recipient>,
    /// Of the request.
    #[serde(rename = "_reqId", skip_serializing_if = "Option::is_none")]
    pub req_id: Option<EchoId>,
}

/// Part of [`MessageStatusResult`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// Display name, or `unknown`.
    pub name: String,
    /// Its key.
    pub pubkey: String,
    /// `delivered`, `held` or `disconnected`.
    pub status: &'static str,
}
