//! What of a hello can be checked without the store: shape, times, signatures (protocol-core §2).

use protocol::canonical;
use protocol::client::{Hello, SessionHello};
use protocol::signature::{self, Refused, is_lowercase_key};
use protocol::{Close, time};

use crate::mesh::io::{Attach, OpenedAt, SessionKey};

/// How far a hello's clock may be off, in milliseconds.
pub const CLOCK_SKEW_MS: i64 = 60_000;
/// How long an attestation may be valid, in milliseconds: a day.
pub const ATTESTATION_MOST_MS: f64 = 86_400_000.0;

/// Why a hello is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The code on the wire, and the close reason.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// The metric's label: tells an attestation's faults from a hello's.
    pub label: &'static str,
    /// This broker's clock in milliseconds since the Unix epoch, where the peer's differs.
    pub broker_time: Option<i64>,
}

impl Rejection {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), label: code, broker_time: None }
    }

    /// What of a signed hello does not hold. Of a clock that is off, the peer is told by how much: it
    /// cannot look at ours.
    fn unsigned(verb: &str, code: &'static str, label: &'static str, wall: i64) -> Self {
        let mut rejection = Self::new(code, format!("{verb} rejected: {code}"));
        rejection.label = label;
        if code == "timestamp_skew" {
            let told = format!(" (broker time {}, {wall} ms)", time::iso(wall));
            rejection.message.push_str(&told);
            rejection.broker_time = Some(wall);
        }
        rejection
    }

    /// How the socket ends.
    pub fn close(&self) -> Close {
        Close::rejected(self.code)
    }
}

/// Checks a `hello`.
pub fn hello(hello: Hello, wall: i64) -> Result<Attach, Rejection> {
    let session = hello.session_pubkey.filter(|key| !key.is_empty());
    if session.as_deref().is_some_and(|key| !is_lowercase_key(key)) {
        return Err(bad_session_key());
    }
    let text = canonical::hello(&hello.mesh_id, &hello.member_id, &hello.pubkey, hello.timestamp);
    signed(&hello.pubkey, &hello.signature, &text, hello.timestamp, wall)
        .map_err(|code| Rejection::unsigned("hello", code, code, wall))?;
    Ok(Attach {
        pubkey: hello.pubkey.into(),
        member: Some(hello.member_id.into()),
        session: session.map_or(SessionKey::Absent, |key| SessionKey::Claimed(key.into())),
        profile: hello.profile,
        signature: hello.signature.to_ascii_lowercase().into(),
        opened_at: OpenedAt::default(),
        read_at: 0,
    })
}

/// Checks a `session_hello`: the parent's word for the key first, then the key's own.
pub fn session_hello(hello: SessionHello, wall: i64) -> Result<Attach, Rejection> {
    if !is_lowercase_key(&hello.session_pubkey) {
        return Err(bad_session_key());
    }
    if !is_lowercase_key(&hello.parent_member_pubkey) {
        let text = "parentMemberPubkey must be 64 lowercase hex chars";
        return Err(Rejection::new("bad_parent_pubkey", text));
    }
    attested(&hello, wall)?;
    let (parent, session) = (&hello.parent_member_pubkey, &hello.session_pubkey);
    let text = canonical::session_hello(&hello.mesh_id, parent, session, hello.timestamp);
    signed(session, &hello.signature, &text, hello.timestamp, wall).map_err(|code| {
        let label = match code {
            "timestamp_skew" => "session_timestamp_skew",
            "malformed" => "session_malformed",
            _ => "session_bad_signature",
        };
        Rejection::unsigned("session_hello", code, label, wall)
    })?;
    Ok(Attach {
        pubkey: hello.parent_member_pubkey.into(),
        member: hello.parent_member_id.map(Into::into),
        session: SessionKey::Proven(hello.session_pubkey.into()),
        profile: hello.profile,
        signature: hello.signature.to_ascii_lowercase().into(),
        opened_at: OpenedAt::default(),
        read_at: 0,
    })
}

fn attested(hello: &SessionHello, wall: i64) -> Result<(), Rejection> {
    let (parent, session) = (&hello.parent_member_pubkey, &hello.session_pubkey);
    let attestation = hello
        .parent_attestation
        .as_ref()
        .filter(|a| a.session_pubkey == *session && a.parent_member_pubkey == *parent)
        .ok_or_else(|| {
            let text = "parentAttestation does not bind the claimed session+parent pubkeys";
            Rejection::new("attestation_mismatch", text)
        })?;
    let refuse = |code: &'static str, label: &'static str| Rejection {
        code,
        message: format!("attestation rejected: {code}"),
        label,
        broker_time: None,
    };
    let expires = attestation.expires_at;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds fit an f64 for 285,000 years")]
    let left = expires - wall as f64;
    if !expires.is_finite() || expires.fract() != 0.0 || expires.abs() > 9e15 {
        return Err(refuse("malformed", "attestation_malformed"));
    }
    if left <= 0.0 {
        return Err(refuse("expired", "attestation_expired"));
    }
    if left > ATTESTATION_MOST_MS {
        return Err(refuse("ttl_too_long", "attestation_ttl_too_long"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let text = canonical::session_attestation(parent, session, expires as i64);
    signature::verify(parent, &attestation.signature, &text).map_err(|error| match error {
        Refused::Malformed => refuse("malformed", "attestation_malformed"),
        Refused::Bad => refuse("bad_signature", "attestation_bad_signature"),
    })
}

fn signed(
    key: &str,
    signature: &str,
    text: &str,
    timestamp: i64,
    wall: i64,
) -> Result<(), &'static str> {
    if timestamp.abs_diff(wall) > CLOCK_SKEW_MS.unsigned_abs() {
        return Err("timestamp_skew");
    }
    signature::verify(key, signature, text).map_err(|error| match error {
        Refused::Malformed => "malformed",
        Refused::Bad => "bad_signature",
    })
}

fn bad_session_key() -> Rejection {
    Rejection::new("bad_session_pubkey", "sessionPubkey must be 64 lowercase hex chars")
}
