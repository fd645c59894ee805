//! Frames a peer sends: one JSON object each, told apart by `type`.
//!
//! [`parse`] checks shape and bounds and nothing else; what a value means is the broker's to say.
//! Texts that are shown to people are made safe to show ([`names`]).
//! A refusal ([`Malformed`]) carries what the answer needs: the verb and the ids to echo.

mod request;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use request::{PeerProfile, Request, Selection, Stats, Status, VERBS, Verb};

use crate::echo::{Echo, Lax};
use crate::{EchoId, lenient, limits, names};

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
        req_id: Option<EchoId>,
    },
}

/// Why a frame was refused, and whom to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// The frame's `type`, where it had one.
    pub verb: Option<String>,
    /// The frame's `id`, where it had one within bounds.
    pub id: Option<EchoId>,
    /// The frame's `_reqId`, likewise.
    pub req_id: Option<EchoId>,
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
    pub id: Option<EchoId>,
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

/// What a frame of an unknown verb may carry.
#[derive(Deserialize)]
struct Unknown {
    #[serde(default, rename = "_reqId")]
    req_id: Option<EchoId>,
}

/// Why a text is no frame.
enum Fault {
    /// It is no JSON, or a field has the wrong type or is missing.
    Shape(String),
    /// A value is beyond its bound.
    Bound(String),
}

/// How `JSON.stringify({type:"send",…})` begins: spares the hottest verb its first reading.
const SEND_PREFIX: &str = r#"{"type":"send","#;

/// Whether a text is a `send` at first sight. A second `type` behind the first would be the one that
/// counts, also with an escape in its name.
fn is_send(text: &str) -> bool {
    let rest = text.strip_prefix(SEND_PREFIX);
    rest.is_some_and(|rest| !rest.contains('\\') && !rest.contains("\"type\""))
}

/// Reads one frame, as JavaScript reads and writes it: a whole float is an integer, a field that is
/// `null` is not there, half of a surrogate pair is `U+FFFD`, a byte order mark is passed over, of a
/// field that comes twice the last counts, and what is not read may be nested however deep.
///
/// # Errors
/// [`Malformed`] if it is no JSON object with a `type`, if a field has the wrong type, exceeds its
/// bound in [`limits`] or contains `U+0000`. Signatures are not bounded here: what verifies them is.
pub fn parse(text: &str) -> Result<Frame, Malformed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match read(text) {
        Ok(frame) => Ok(frame),
        Err(Fault::Bound(reason)) => Err(refuse(text, reason)),
        Err(Fault::Shape(reason)) => read_again(text, reason),
    }
}

fn read(text: &str) -> Result<Frame, Fault> {
    if is_send(text) {
        return bounded(Frame::Send(typed(text)?));
    }
    // serde would fill a struct from an array too, field by field.
    if !text.trim_start().starts_with('{') {
        return Err(Fault::Shape("a frame is a JSON object".to_owned()));
    }
    let head: Head<'_> = typed(text)?;
    let verb = head.verb.ok_or_else(|| Fault::Shape("a frame needs a type".to_owned()))?;
    bounded(match verb.as_ref() {
        "hello" => Frame::Hello(typed(text)?),
        "session_hello" => Frame::SessionHello(typed(text)?),
        "send" => Frame::Send(typed(text)?),
        "client_ack" => Frame::ClientAck(typed(text)?),
        known if VERBS.contains(&known) => Frame::Request(typed(text)?),
        _ => Frame::Other { req_id: typed::<Unknown>(text)?.req_id, verb: verb.into_owned() },
    })
}

/// Reads what could not be read as it is.
fn read_again(text: &str, reason: String) -> Result<Frame, Malformed> {
    let text = lenient::mend(text);
    let Some(plain) = lenient::plain(&text) else { return Err(refuse(&text, reason)) };
    read(&plain).map_err(|fault| match fault {
        Fault::Shape(reason) | Fault::Bound(reason) => refuse(&text, reason),
    })
}

fn typed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Shape(error.to_string()))
}

fn refuse(text: &str, reason: String) -> Malformed {
    let Echo { verb, id, req_id } = serde_json::from_str(text).unwrap_or_default();
    let bounded = |id: Lax| id.0.filter(|id| check_id("id", id, limits::ECHO_BYTES).is_ok());
    let verb = match bounded(verb) {
        Some(EchoId::Text(verb)) => Some(verb),
        _ => None,
    };
    Malformed { verb, id: bounded(id), req_id: bounded(req_id), reason }
}

/// Checks every text of the frame against its bound, and makes safe to show what is shown.
fn bounded(mut frame: Frame) -> Result<Frame, Fault> {
    match tidied(&mut frame) {
        Ok(()) => Ok(frame),
        Err(reason) => Err(Fault::Bound(reason)),
    }
}

// Every pattern names all fields: a new one has to be dealt with here.
fn tidied(frame: &mut Frame) -> Result<(), String> {
    match frame {
        Frame::Hello(hello) => {
            let Hello {
                mesh_id,
                member_id,
                pubkey,
                session_pubkey,
                profile,
                timestamp: _,
                signature: _,
            } = hello;
            check("meshId", mesh_id, limits::ID_BYTES)?;
            check("memberId", member_id, limits::ID_BYTES)?;
            check("pubkey", pubkey, limits::ID_BYTES)?;
            maybe("sessionPubkey", session_pubkey.as_ref(), limits::ID_BYTES)?;
            tidy_profile(profile)
        }
        Frame::SessionHello(hello) => {
            let SessionHello {
                mesh_id,
                parent_member_id,
                parent_member_pubkey,
                session_pubkey,
                parent_attestation: _,
                profile,
                timestamp: _,
                signature: _,
            } = hello;
            check("meshId", mesh_id, limits::ID_BYTES)?;
            maybe("parentMemberId", parent_member_id.as_ref(), limits::ID_BYTES)?;
            check("parentMemberPubkey", parent_member_pubkey, limits::ID_BYTES)?;
            check("sessionPubkey", session_pubkey, limits::ID_BYTES)?;
            tidy_profile(profile)
        }
        Frame::Send(send) => tidy_send(send),
        Frame::ClientAck(ClientAck { client_message_id, broker_message_id }) => {
            maybe("clientMessageId", client_message_id.as_ref(), limits::ID_BYTES)?;
            maybe("brokerMessageId", broker_message_id.as_ref(), limits::ID_BYTES)
        }
        Frame::Request(Request { verb, req_id }) => {
            maybe_id("_reqId", req_id.as_ref())?;
            verb.tidy()
        }
        Frame::Other { verb, req_id } => {
            check("type", verb, limits::NAME_BYTES)?;
            maybe_id("_reqId", req_id.as_ref())
        }
    }
}

fn tidy_send(send: &mut Send) -> Result<(), String> {
    let Send {
        id,
        target_spec,
        priority: _,
        nonce,
        ciphertext,
        client_message_id,
        request_fingerprint,
        reply_to_id,
        offline,
        mentions,
        body_version: _,
    } = send;
    maybe_id("id", id.as_ref())?;
    check("targetSpec", target_spec, limits::TARGET_BYTES)?;
    names::tidy_target(target_spec);
    check("targetSpec", target_spec, limits::TARGET_BYTES)?;
    check("nonce", nonce, usize::MAX)?;
    check("ciphertext", ciphertext, usize::MAX)?;
    maybe("client_message_id", client_message_id.as_ref(), limits::ID_BYTES)?;
    maybe("request_fingerprint", request_fingerprint.as_ref(), limits::ID_BYTES)?;
    maybe("replyToId", reply_to_id.as_ref(), limits::ID_BYTES)?;
    maybe("offline", offline.as_ref(), limits::ID_BYTES)?;
    let mentions = mentions.as_deref().unwrap_or_default();
    count("mentions", mentions.len(), limits::MENTIONS)?;
    mentions.iter().try_for_each(|name| check("mentions", name, limits::NAME_BYTES))
}

fn tidy_profile(profile: &mut Profile) -> Result<(), String> {
    let Profile {
        display_name,
        session_id,
        pid: _,
        cwd,
        hostname,
        channel,
        model,
        peer_type,
        groups,
    } = profile;
    shown("sessionId", session_id, limits::NAME_BYTES)?;
    shown("cwd", cwd, limits::PATH_BYTES)?;
    for (name, value) in [
        ("displayName", display_name),
        ("hostname", hostname),
        ("channel", channel),
        ("model", model),
        ("peerType", peer_type),
    ] {
        maybe_shown(name, value.as_mut(), limits::NAME_BYTES)?;
    }
    let groups = groups.as_deref_mut().unwrap_or_default();
    count("groups", groups.len(), limits::GROUPS)?;
    groups.iter_mut().try_for_each(Group::bounded)
}

impl Group {
    /// Makes its texts safe to show.
    pub fn tidy(&mut self) {
        let Self { name, role } = self;
        names::tidy_group(name);
        role.iter_mut().for_each(names::tidy);
    }

    fn check(&self) -> Result<(), String> {
        check("group name", &self.name, limits::NAME_BYTES)?;
        maybe("group role", self.role.as_ref(), limits::NAME_BYTES)
    }

    fn bounded(&mut self) -> Result<(), String> {
        self.check()?;
        self.tidy();
        self.check()
    }
}

fn tidy_group_name(name: &mut String) -> Result<(), String> {
    check("group name", name, limits::NAME_BYTES)?;
    names::tidy_group(name);
    check("group name", name, limits::NAME_BYTES)
}

/// Checks a text that is shown to people, and makes it safe to show. The bound holds for what was
/// sent and for what is kept.
fn shown(name: &str, value: &mut String, max: usize) -> Result<(), String> {
    check(name, value, max)?;
    names::tidy(value);
    check(name, value, max)
}

fn maybe_shown(name: &str, value: Option<&mut String>, max: usize) -> Result<(), String> {
    value.map_or(Ok(()), |value| shown(name, value, max))
}

fn maybe_id(name: &str, id: Option<&EchoId>) -> Result<(), String> {
    id.map_or(Ok(()), |id| check_id(name, id, limits::ID_BYTES))
}

/// A number or a boolean is short.
fn check_id(name: &str, id: &EchoId, max: usize) -> Result<(), String> {
    id.as_text().map_or(Ok(()), |text| check(name, text, max))
}

fn count(name: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most { Err(format!("{name}: at most {most} are allowed")) } else { Ok(()) }
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
