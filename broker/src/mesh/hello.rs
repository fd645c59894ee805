//! What a hello must show, what a lease starts from, and what the peer is told: no state.

use protocol::client::Status;
use protocol::server::{HelloAck, MemberProfile, MeshPolicy, Restored};
use protocol::{Close, close, time};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::io::{Attach, ConnId, Generation, Ms, SessionKey};
use super::roster::{Lease, Record, given};
use super::saved::Unsaved;
use super::status::Source;
use crate::model::{Identity, Member, SavedState, Write};

/// Why a hello is refused.
pub(super) struct Rejection {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) close: Close,
}

impl Rejection {
    fn new(close: Close, message: impl Into<String>) -> Self {
        Self { code: close.reason, message: message.into(), close }
    }
}

/// The checks of protocol-core §2.2 and §2.3 that need the store, in their order; then ours.
pub(super) fn check(attach: &mut Attach, identity: &Identity) -> Result<Member, Rejection> {
    let proven = matches!(attach.session, SessionKey::Proven(_));
    let Some(member) = identity.member.clone() else {
        let who = if proven { "parent pubkey" } else { "pubkey" };
        return Err(Rejection::new(close::UNAUTHORIZED, format!("{who} not found in mesh")));
    };
    if member.revoked {
        return Err(revoked(identity));
    }
    if identity.archived {
        return Err(Rejection::new(close::UNAUTHORIZED, "this mesh has been archived"));
    }
    if attach.member.as_ref().is_some_and(|claimed| *claimed != member.id) {
        return Err(if proven {
            let text = "parentMemberId does not match parentMemberPubkey";
            Rejection::new(close::PARENT_MEMBER_ID_MISMATCH, text)
        } else {
            Rejection::new(close::MEMBER_ID_MISMATCH, "memberId does not match pubkey")
        });
    }
    let recorded = identity.key_member.as_ref();
    if let SessionKey::Proven(_) = attach.session
        && recorded.is_some_and(|owner| *owner != member.id)
    {
        let text = "the session key belongs to another member";
        return Err(Rejection::new(close::UNAUTHORIZED, text));
    }
    if let SessionKey::Claimed(_) = attach.session
        && identity.key_taken
    {
        attach.session = SessionKey::Absent;
    }
    Ok(member)
}

/// What an accepted hello leaves in the store, so that it is not accepted again.
pub(super) fn seen_hello(conn: ConnId, attach: &Attach) -> Write {
    Write::SeeHello { digest: hello_digest(&attach.signature), conn: conn.to_string() }
}

/// Of a hello's signature. The signature covers member or session, and the time.
pub(super) fn hello_digest(signature: &str) -> String {
    hex::encode(Sha256::digest(signature.as_bytes()))
}

pub(super) fn revoked(identity: &Identity) -> Rejection {
    let mesh = &identity.mesh_name;
    let message = format!("You've been removed from \"{mesh}\". Contact the mesh owner to rejoin.");
    Rejection { code: "revoked", message, close: close::BANNED }
}

/// What a kicked session is told that comes back too early.
pub(super) fn kicked(wall: i64, left: Ms) -> String {
    let until = wall.saturating_add(i64::try_from(left).unwrap_or(i64::MAX));
    format!("this session was kicked and stays out until {}", time::iso(until))
}

pub(super) fn record(
    attach: &Attach,
    key: String,
    member: &Member,
    generation: Generation,
    connected_at: i64,
) -> Record {
    let profile = &attach.profile;
    let proven = matches!(attach.session, SessionKey::Proven(_));
    let named = |groups: &&Vec<_>| proven || !groups.is_empty();
    let groups = profile.groups.as_ref().filter(named).unwrap_or(&member.default_groups);
    Record {
        key,
        member: member.id.clone(),
        member_pubkey: member.pubkey.clone(),
        session_pubkey: attach.session.key().cloned(),
        proven,
        name: given(profile.display_name.as_ref()).unwrap_or(&member.display_name).as_str().into(),
        session_id: profile.session_id.clone(),
        pid: profile.pid,
        cwd: profile.cwd.clone(),
        hostname: profile.hostname.clone(),
        channel: profile.channel.clone(),
        model: profile.model.clone(),
        peer_type: profile.peer_type.clone(),
        groups: groups.clone(),
        visible: true,
        connected_at,
        generation,
        came: generation,
        known: generation,
        opened_at: attach.opened_at,
        status: Status::Idle,
        source: Source::Jsonl,
        summary: None,
        profile: None,
        stats: None,
        unsaved: Unsaved {
            groups: profile.groups.as_ref().is_some_and(|g| !g.is_empty()),
            ..Unsaved::default()
        },
        moderator: member.may_moderate(),
        uncounted_ms: 0,
    }
}

pub(super) fn recorded_key(record: &Record) -> Option<Write> {
    let key = record.session_pubkey.clone().filter(|_| record.proven)?;
    Some(Write::RecordKey { key, member: record.member.clone() })
}

/// Of groups the number: whom others may write to is no audit, and the list may be long.
pub(super) fn joined_payload(lease: &Lease) -> serde_json::Value {
    let record = &lease.record;
    if record.proven {
        json!({
            "pubkey": record.member_pubkey,
            "session_pubkey": record.session_pubkey,
            "groups": record.groups.len(),
            "via": "session_hello",
            "role": record.role(),
        })
    } else {
        json!({
            "pubkey": record.pubkey(),
            "groups": record.groups.len(),
            "restored": lease.saved.is_some(),
            "role": record.role(),
        })
    }
}

pub(super) fn hello_ack(lease: &Lease, member: Option<&Member>, identity: &Identity) -> HelloAck {
    HelloAck {
        presence_id: lease.presence.to_string(),
        member_display_name: lease.record.name.to_string(),
        member_profile: member.map(|member| MemberProfile {
            role_tag: member.role_tag.clone(),
            groups: member.default_groups.clone(),
            message_mode: member.message_mode.clone(),
        }),
        mesh_policy: identity
            .self_editable
            .clone()
            .map(|self_editable| MeshPolicy { self_editable }),
        restored: None,
        services: Vec::new(),
    }
}

pub(super) fn restored(saved: &SavedState, attach: &Attach) -> Restored {
    let named = attach.profile.groups.as_ref().is_some_and(|groups| !groups.is_empty());
    Restored {
        restored: true,
        last_summary: saved.summary.clone(),
        last_seen_at: saved.seen_at.map(time::iso),
        restored_groups: (!named && !saved.groups.is_empty()).then(|| saved.groups.clone()),
        restored_stats: json!(saved.stats),
    }
}
