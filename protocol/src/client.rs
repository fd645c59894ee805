//! Frames a peer sends: one JSON object each, told apart by `type`.
//!
//! [`parse`] checks shape and bounds and nothing else; what a value means is the broker's to say.
//! A refusal ([`Malformed`]) carries what the answer needs: the verb and the ids to echo.

mod request;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use request::{PeerProfile, Request, Selection, Stats, Status, VERBS, Verb};

use crate::limits;

/// A frame of known shape.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A member's own connection.
    Hello(Hello),
    /// A session's connection, vouched for by its parent member.
    SessionHello(SessionHello),
    /// An envelope to deliver.
    Send(Send),
    /// An envelope was taken in by the application.
    ClientAck(ClientAck),
    /// Anything else a peer may ask or tell.
    Request(Request),
    /// A verb this broker does not know.
    Other {
        /// The frame's `type`.
        verb: String,
        /// Echoed in the reply; without it there is none.
        req_id: Option<String>,
    },
}

/// Why a frame was refused, and whom to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// The frame's `type`, where it had one.
    pub verb: Option<String>,
    /// The frame's `id`, where it had one within bounds.
    pub id: Option<String>,
    /// The frame's `_reqId`, likewise.
    pub req_id: Option<String>,
    /// What is wrong, in words for the sender.
    pub reason: String,
}

/// `{name, role?}` as clients write groups.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// The group's name, `a/b/c` for a group below others.
    pub name: String,
    /// What the peer does in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What both hellos say of the session behind the socket.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Overrides the member's name for this connection; empty is not given.
    #[serde(default)]
    pub display_name: Option<String>,
    /// The client's id of the session.
    pub session_id: String,
    /// Process id on the client's machine.
    pub pid: i64,
    /// Working directory there.
    pub cwd: String,
    /// Host name there.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The kind of client, e.g. `claudemesh-daemon`.
    #[serde(default)]
    pub channel: Option<String>,
    /// The language model behind the session.
    #[serde(default)]
    pub model: Option<String>,
    /// `ai`, `human`, `connector`, or any other word.
    #[serde(default)]
    pub peer_type: Option<String>,
    /// Groups to be in. Absent is not the same as empty.
    #[serde(default)]
    pub groups: Option<Vec<Group>>,
}

/// `hello` (protocol-core §2.2).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The mesh.
    pub mesh_id: String,
    /// The member, as the client believes.
    pub member_id: String,
    /// The member's key, which signs.
    pub pubkey: String,
    /// A key for this session, not proven.
    #[serde(default)]
    pub session_pubkey: Option<String>,
    /// The session behind the socket.
    #[serde(flatten)]
    pub profile: Profile,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// By `pubkey`, over [`crate::canonical::hello`].
    pub signature: String,
}

/// `session_hello` (protocol-core §2.3).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionHello {
    /// The mesh.
    pub mesh_id: String,
    /// The parent member, as the client believes.
    #[serde(default)]
    pub parent_member_id: Option<String>,
    /// The parent member's key.
    pub parent_member_pubkey: String,
    /// The session's key, which signs.
    pub session_pubkey: String,
    /// The parent's word for it.
    pub parent_attestation: Option<Attestation>,
    /// The session behind the socket.
    #[serde(flatten)]
    pub profile: Profile,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// By `session_pubkey`, over [`crate::canonical::session_hello`].
    pub signature: String,
}

/// A parent member's word that a session key is its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attestation {
    /// The key vouched for.
    pub session_pubkey: String,
    /// The key that vouches.
    pub parent_member_pubkey: String,
    /// Milliseconds since the Unix epoch. A float, because the check for a finite number is the
    /// broker's, after other checks.
    pub expires_at: f64,
    /// By the parent, over [`crate::canonical::session_attestation`].
    pub signature: String,
}

/// How urgent an envelope is. `Now` reaches peers that are busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// At once, whatever the recipient's status.
    Now,
    /// When the recipient is idle.
    #[default]
    Next,
    /// When the recipient is idle.
    Low,
}

impl Priority {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Next => "next",
            Self::Low => "low",
        }
    }
}

/// `send` (protocol-core §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// Echoed in the ack.
    #[serde(default)]
    pub id: Option<String>,
    /// Whom it is for.
    pub target_spec: String,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// Opaque.
    pub nonce: String,
    /// Opaque.
    pub ciphertext: String,
    /// The sender's own id of the message: the same for every retry.
    #[serde(default, rename = "client_message_id")]
    pub client_message_id: Option<String>,
    /// A digest of what was asked: a retry carries the same.
    #[serde(default, rename = "request_fingerprint")]
    pub request_fingerprint: Option<String>,
    /// The message this one answers.
    #[serde(default)]
    pub reply_to_id: Option<String>,
    /// `queue` keeps a direct message for a recipient who is away.
    #[serde(default)]
    pub offline: Option<String>,
    /// To a topic: who is to be notified. Absent: whom the text names.
    #[serde(default)]
    pub mentions: Option<Vec<String>>,
    /// To a topic: how the body is sealed; 1 is plain text in base64.
    #[serde(default)]
    pub body_version: Option<i32>,
}

/// `client_ack` (protocol-core §4.7).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAck {
    /// The sender's own id of the message.
    #[serde(default)]
    pub client_message_id: Option<String>,
    /// The broker's id of it.
    #[serde(default)]
    pub broker_message_id: Option<String>,
}

/// What every frame may carry, read first and leniently.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, rename = "type")]
    verb: Option<Cow<'a, str>>,
}

/// The same for a refusal: anything may be anything.
#[derive(Deserialize, Default)]
struct Echo {
    #[serde(default, rename = "type")]
    verb: Value,
    #[serde(default)]
    id: Value,
    #[serde(default, rename = "_reqId")]
    req_id: Value,
}

/// What a frame of an unknown verb may carry.
#[derive(Deserialize)]
struct Unknown {
    #[serde(default, rename = "_reqId")]
    req_id: Option<String>,
}

/// How `JSON.stringify({type:"send",…})` begins: spares the hottest verb its first reading.
const SEND_PREFIX: &str = r#"{"type":"send","#;

/// Reads one frame.
///
/// # Errors
/// [`Malformed`] if it is no JSON object with a `type`, if a field has the wrong type, exceeds its
/// bound in [`limits`] or contains `U+0000`. Signatures are not bounded here: what verifies them is.
pub fn parse(text: &str) -> Result<Frame, Malformed> {
    read(text).map_err(|reason| refuse(text, reason))
}

fn read(text: &str) -> Result<Frame, String> {
    if text.starts_with(SEND_PREFIX) {
        return bounded(Frame::Send(typed(text)?));
    }
    // serde would fill a struct from an array too, field by field.
    if !text.trim_start().starts_with('{') {
        return Err("a frame is a JSON object".to_owned());
    }
    let head: Head<'_> = typed(text)?;
    let verb = head.verb.ok_or("a frame needs a type")?;
    bounded(match verb.as_ref() {
        "hello" => Frame::Hello(typed(text)?),
        "session_hello" => Frame::SessionHello(typed(text)?),
        "send" => Frame::Send(typed(text)?),
        "client_ack" => Frame::ClientAck(typed(text)?),
        known if VERBS.contains(&known) => Frame::Request(typed(text)?),
        _ => Frame::Other { req_id: typed::<Unknown>(text)?.req_id, verb: verb.into_owned() },
    })
}

fn typed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn refuse(text: &str, reason: String) -> Malformed {
    let echo: Echo = serde_json::from_str(text).unwrap_or_default();
    let word = |value: Value| match value {
        Value::String(text) if check("id", &text, limits::ECHO_BYTES).is_ok() => Some(text),
        _ => None,
    };
    Malformed { verb: word(echo.verb), id: word(echo.id), req_id: word(echo.req_id), reason }
}

/// Checks every text of the frame against its bound.
fn bounded(frame: Frame) -> Result<Frame, String> {
    match &frame {
        Frame::Hello(hello) => {
            check("meshId", &hello.mesh_id, limits::ID_BYTES)?;
            check("memberId", &hello.member_id, limits::ID_BYTES)?;
            check("pubkey", &hello.pubkey, limits::ID_BYTES)?;
            maybe("sessionPubkey", hello.session_pubkey.as_ref(), limits::ID_BYTES)?;
            check_profile(&hello.profile)?;
        }
        Frame::SessionHello(hello) => {
            check("meshId", &hello.mesh_id, limits::ID_BYTES)?;
            maybe("parentMemberId", hello.parent_member_id.as_ref(), limits::ID_BYTES)?;
            check("parentMemberPubkey", &hello.parent_member_pubkey, limits::ID_BYTES)?;
            check("sessionPubkey", &hello.session_pubkey, limits::ID_BYTES)?;
            check_profile(&hello.profile)?;
        }
        Frame::Send(send) => {
            maybe("id", send.id.as_ref(), limits::ID_BYTES)?;
            check("targetSpec", &send.target_spec, limits::TARGET_BYTES)?;
            check("nonce", &send.nonce, usize::MAX)?;
            check("ciphertext", &send.ciphertext, usize::MAX)?;
            maybe("client_message_id", send.client_message_id.as_ref(), limits::ID_BYTES)?;
            maybe("request_fingerprint", send.request_fingerprint.as_ref(), limits::ID_BYTES)?;
            maybe("replyToId", send.reply_to_id.as_ref(), limits::ID_BYTES)?;
            maybe("offline", send.offline.as_ref(), limits::ID_BYTES)?;
            list("mentions", send.mentions.as_deref(), limits::MENTIONS)?;
        }
        Frame::ClientAck(ack) => {
            maybe("clientMessageId", ack.client_message_id.as_ref(), limits::ID_BYTES)?;
            maybe("brokerMessageId", ack.broker_message_id.as_ref(), limits::ID_BYTES)?;
        }
        Frame::Request(request) => {
            maybe("_reqId", request.req_id.as_ref(), limits::ID_BYTES)?;
            request.verb.check()?;
        }
        Frame::Other { verb, req_id } => {
            check("type", verb, limits::NAME_BYTES)?;
            maybe("_reqId", req_id.as_ref(), limits::ID_BYTES)?;
        }
    }
    Ok(frame)
}

fn check_profile(profile: &Profile) -> Result<(), String> {
    check("sessionId", &profile.session_id, limits::NAME_BYTES)?;
    check("cwd", &profile.cwd, limits::PATH_BYTES)?;
    for (name, value) in [
        ("displayName", &profile.display_name),
        ("hostname", &profile.hostname),
        ("channel", &profile.channel),
        ("model", &profile.model),
        ("peerType", &profile.peer_type),
    ] {
        maybe(name, value.as_ref(), limits::NAME_BYTES)?;
    }
    let groups = profile.groups.as_deref().unwrap_or_default();
    if groups.len() > limits::GROUPS {
        return Err(format!("groups: at most {} are allowed", limits::GROUPS));
    }
    groups.iter().try_for_each(check_group)
}

fn check_group(group: &Group) -> Result<(), String> {
    check("group name", &group.name, limits::NAME_BYTES)?;
    maybe("group role", group.role.as_ref(), limits::NAME_BYTES)
}

fn list(name: &str, values: Option<&[String]>, most: usize) -> Result<(), String> {
    let values = values.unwrap_or_default();
    if values.len() > most {
        return Err(format!("{name}: at most {most} are allowed"));
    }
    values.iter().try_for_each(|value| check(name, value, limits::NAME_BYTES))
}

fn maybe(name: &str, value: Option<&String>, max: usize) -> Result<(), String> {
    value.map_or(Ok(()), |value| check(name, value, max))
}

fn check(name: &str, value: &str, max: usize) -> Result<(), String> {
    if value.len() > max {
        return Err(format!("{name}: {} bytes, at most {max} are allowed", value.len()));
    }
    if value.contains('\0') {
        return Err(format!("{name}: U+0000 is not allowed"));
    }
    Ok(())
}
