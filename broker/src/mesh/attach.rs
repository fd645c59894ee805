//! Coming and going: hellos, takeovers, graces, departures.
//!
//! Nothing that others see comes before its commit: a hello is answered, and a joining or leaving
//! peer announced, when the lease and the audit entry are durable.

use std::sync::Arc;

use protocol::client::{PeerProfile, Status};
use protocol::server::{self, Frame, HelloAck, MemberProfile, MeshPolicy, Restored};
use protocol::{Close, close, id, time};
use serde_json::json;

use super::delivery::Rank;
use super::io::{Attach, ConnId, Count, Effect, Generation, Held, Ms, Now, Question, SessionKey};
use super::pipeline::{Left, Then};
use super::query::{Asked, NoAnswer};
use super::roster::{Found, Hold, Lease, LeaseNo, Record, given, presence_key};
use super::saved::Unsaved;
use super::state::Mesh;
use super::status::Source;
use super::{audit, events};
use crate::model::{Claim, Identity, Member, Place, Recipient, SavedState, Write};

/// A one-shot command that says goodbye sooner is nobody's news, and holds no place: in
/// milliseconds after its hello.
pub const BRIEF_MS: Ms = 2_000;
/// The channel of one-shot commands.
const BRIEF_CHANNEL: &str = "claude-code";

/// A hello on its way in.
#[derive(Debug)]
pub(crate) struct Arrival {
    conn: ConnId,
    pub(super) number: u64,
    attach: Attach,
    identity: Option<Identity>,
}

/// Why a hello is refused.
struct Rejection {
    code: &'static str,
    message: String,
    close: Close,
}

impl Rejection {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), close: Close::rejected(code) }
    }
}

impl Mesh {
    /// Who is it? The store knows, and is asked each time: members are added and removed beside us.
    pub(super) fn arrive(&mut self, conn: ConnId, number: u64, attach: &Attach) {
        let attach = attach.clone();
        self.arrivals.insert(conn, Arrival { conn, number, attach, identity: None });
        self.identify(conn);
    }

    fn identify(&mut self, conn: ConnId) {
        let Some(Arrival { attach, .. }) = self.arrivals.get(&conn) else { return };
        let claim = Claim {
            pubkey: attach.pubkey.clone(),
            session: attach.session.key().cloned(),
            place: Some(Place {
                session_id: attach.profile.session_id.clone(),
                cwd: attach.profile.cwd.clone(),
                pid: attach.profile.pid,
            }),
        };
        self.ask(Question::Identity(claim), Asked::Identity(conn));
    }

    /// The store has answered.
    pub(super) fn identified(
        &mut self,
        now: Now,
        conn: ConnId,
        identity: Result<Option<Box<Identity>>, NoAnswer>,
    ) {
        let Some(arrival) = self.arrivals.get_mut(&conn) else { return };
        let number = arrival.number;
        match identity {
            Ok(Some(identity)) => {
                arrival.identity = Some(*identity);
                self.decide(now, conn);
            }
            Ok(None) => self.unknown(conn, number),
            Err(NoAnswer) => {
                let text = "the broker cannot check this hello now";
                self.turn_down(conn, number, "unavailable", text, close::UNAVAILABLE);
            }
        }
    }

    /// In a mesh that does not exist nobody is a member.
    pub(super) fn unknown(&mut self, conn: ConnId, number: u64) {
        let text = "pubkey not found in mesh";
        self.turn_down(conn, number, "unauthorized", text, Close::rejected("unauthorized"));
    }

    pub(super) fn turn_down(
        &mut self,
        conn: ConnId,
        number: u64,
        code: &'static str,
        message: &str,
        close: Close,
    ) {
        self.arrivals.remove(&conn);
        let error = server::Error {
            code: code.to_owned(),
            message: message.to_owned(),
            id: None,
            req_id: None,
        };
        self.out.push(Effect::Count(Count::Rejected(code)));
        self.out.push(Effect::Refused { conn, number, frame: Some(Frame::Error(error)), close });
    }

    fn decide(&mut self, now: Now, conn: ConnId) {
        let Some(mut arrival) = self.arrivals.remove(&conn) else { return };
        let number = arrival.number;
        let Some(identity) = arrival.identity.clone() else { return };
        let member = match check(&mut arrival.attach, &identity) {
            Ok(member) if self.revoked.contains_key(&member.id) => Err(revoked(&identity)),
            checked => checked,
        };
        let member = match member {
            Ok(member) => member,
            Err(no) => return self.turn_down(conn, number, no.code, &no.message, no.close),
        };
        let key = presence_key(&arrival.attach);
        if self.cooldowns.holds(&key, now.mono) {
            let text = "this session was kicked; it may come back later";
            return self.turn_down(conn, number, "kicked", text, close::KICKED);
        }
        let found = self.roster.find(&key, now.mono);
        if let Found::Leaving(no) = found {
            self.arrivals.insert(conn, arrival);
            self.late.entry(no).or_default().push(conn);
            return;
        }
        if let Found::Lease(no) = found
            && self.roster.get(no).is_some_and(|lease| lease.record.member != member.id)
        {
            // The key was invited anew: who it was has left.
            return self.give_way(now, no, arrival);
        }
        let full = self.roster.len() >= self.limits.capacity;
        let found = match found {
            // No room to be kept apart: whoever has a lease may always come back to it.
            Found::Contested(no) if full => Found::Lease(no),
            other => other,
        };
        if full && !matches!(found, Found::Lease(_)) {
            let text = "mesh at connection capacity";
            let close = Close::rejected("capacity");
            return self.turn_down(conn, number, "capacity", text, close);
        }
        if !self.seen.admit(&arrival.attach.signature, conn, now.mono) {
            let close = Close::rejected("replayed");
            return self.turn_down(conn, number, "replayed", "hello rejected: replayed", close);
        }
        self.facts.learn_member(&member.id, &member.grants);
        match found {
            Found::Lease(no) => self.reattach(now, no, conn, number, &arrival.attach, &identity),
            Found::Nobody => {
                self.join(now, conn, number, (&arrival.attach, key, false), &member, &identity);
            }
            Found::Contested(_) | Found::Leaving(_) => {
                self.join(now, conn, number, (&arrival.attach, key, true), &member, &identity);
            }
        }
    }

    /// A lease ends for one that is to follow it.
    fn give_way(&mut self, now: Now, no: LeaseNo, follower: Arrival) {
        let held = self.roster.get(no).and_then(Lease::conn);
        let conns = held.map(|conn| (conn, close::SESSION_REPLACED)).into_iter().collect();
        self.leave(now, no, Left { conns, ..Left::default() });
        let conn = follower.conn;
        self.arrivals.insert(conn, follower);
        self.late.entry(no).or_default().push(conn);
    }

    fn next_generation(&mut self) -> Generation {
        self.generations += 1;
        Generation { epoch: self.epoch, number: self.generations }
    }

    fn join(
        &mut self,
        now: Now,
        conn: ConnId,
        number: u64,
        (attach, key, twin): (&Attach, String, bool),
        member: &Member,
        identity: &Identity,
    ) {
        let generation = self.next_generation();
        let mut record = record(attach, key, twin, member, generation, now.wall);
        let saved = identity.saved.clone().filter(|_| !record.proven);
        if let Some(saved) = &saved {
            record.restore(saved, attach.profile.groups.as_ref().is_some_and(|g| !g.is_empty()));
        }
        if let Some(pending) = &identity.pending {
            (record.status, record.source) = (pending.status, Source::Hook);
        }
        let presence = id::row_id(self.draw()).into();
        let hold = Hold::Online { conn, answered: false };
        let mut lease = Lease::new(presence, record, hold, false, now.mono);
        lease.saved = saved;
        let standing = lease.standing();
        let no = self.admit(lease);
        self.expiries.set(no, standing.until(self.limits.status));
        self.delivery.set_busy(no, standing.status != Status::Idle);
        let Some(lease) = self.roster.get(no) else { return };
        let payload = joined_payload(lease);
        let row = audit::entry("peer_joined", &lease.sender, &payload, now.wall);
        let mut writes = vec![Write::SaveLease(lease.row()), Write::Audit(row)];
        writes.extend(recorded_key(&lease.record));
        writes.extend(identity.pending.as_ref().map(|pending| Write::UsePending(pending.id)));
        let mut ack = hello_ack(lease, Some(member), identity);
        ack.restored = lease.saved.as_ref().map(|saved| restored(saved, attach));
        self.pipeline.push(writes, Then::Attached { no, conn, number, ack: Box::new(ack) });
    }

    /// A session returns, or a second connection takes its presence over. Silent either way.
    fn reattach(
        &mut self,
        now: Now,
        no: LeaseNo,
        conn: ConnId,
        number: u64,
        attach: &Attach,
        identity: &Identity,
    ) {
        let generation = self.next_generation();
        let before = self.roster.hold(no, Hold::Online { conn, answered: false });
        self.delivery.detach(no);
        let Some(lease) = self.roster.get_mut(no) else { return };
        if let Some(Hold::Online { conn: old, .. }) = before
            && old != conn
        {
            lease.note_replaced(now.mono);
            self.out.push(Effect::Close { conn: old, close: close::SESSION_REPLACED });
        }
        lease.refresh(&attach.profile, generation);
        lease.heard = now.mono;
        if let Some(member) = &identity.member {
            lease.record.moderator = member.may_moderate();
        }
        let mut writes = vec![Write::SaveLease(lease.row())];
        writes.extend(recorded_key(&lease.record));
        // The reference leaves the profile out of a session's reattach; clients take either.
        let member = identity.member.as_ref().filter(|_| !lease.record.proven || !lease.greeted);
        let mut ack = hello_ack(lease, member, identity);
        if !lease.greeted {
            ack.restored = lease.saved.as_ref().map(|saved| restored(saved, attach));
        }
        self.pipeline.push(writes, Then::Attached { no, conn, number, ack: Box::new(ack) });
    }

    /// A lease enters the rooms that know leases.
    pub(super) fn admit(&mut self, lease: Lease) -> LeaseNo {
        let own = lease.own();
        let member = lease.record.member.clone();
        let unproven = !lease.record.proven;
        let rank = Rank { unproven, one_shot: unproven && lease.record.session_pubkey.is_some() };
        let no = self.roster.insert(lease);
        self.delivery.open(no, own, member, rank);
        no
    }

    /// Daemons ack everything they keep; what they drop must not be confirmed behind their back.
    pub(super) fn may_confirm_by_pong(&self, no: LeaseNo) -> bool {
        let channel = self.roster.get(no).and_then(|lease| lease.record.channel.as_deref());
        !channel.is_some_and(|channel| channel.starts_with("claudemesh-"))
    }

    /// The attach is durable.
    pub(super) fn attached(
        &mut self,
        now: Now,
        no: LeaseNo,
        conn: ConnId,
        number: u64,
        ack: HelloAck,
    ) {
        let Some(lease) = self.roster.get_mut(no) else { return };
        let newly = !std::mem::replace(&mut lease.joined, true);
        let held =
            Held { conn, presence: lease.presence.clone(), generation: lease.record.generation };
        if lease.conn() == Some(conn) {
            lease.greeted = true;
            self.roster.hold(no, Hold::Online { conn, answered: true });
            let frame = Frame::HelloAck(Box::new(ack));
            self.out.push(Effect::Count(Count::Connected));
            self.out.push(Effect::Attached { held, number, frame });
            self.delivery.attach(no, self.may_confirm_by_pong(no));
        } else {
            // It has gone, or was displaced, in the meantime.
            self.out.push(Effect::Result { conn, number, frame: None });
        }
        if newly && self.is_brief(no) {
            self.news.insert((now.mono + BRIEF_MS, no));
        } else if newly {
            self.announce_arrival(now, no);
        }
    }

    /// Whether it may yet turn out to be a command that comes and goes.
    pub(super) fn is_brief(&self, no: LeaseNo) -> bool {
        self.roster.get(no).is_some_and(|lease| {
            let channel = lease.record.channel.as_deref();
            !lease.announced && lease.is_one_shot() && channel == Some(BRIEF_CHANNEL)
        })
    }

    pub(super) fn announce_arrival(&mut self, now: Now, no: LeaseNo) {
        let Some(lease) = self.roster.get_mut(no) else { return };
        lease.announced = true;
        let event = if lease.saved.is_some() { "peer_returned" } else { "peer_joined" };
        self.announce(now, event, no);
    }

    /// A lease's connection is gone: the grace begins.
    pub(super) fn away(&mut self, now: Now, no: LeaseNo, then: Then) {
        self.roster.hold(no, Hold::Away { until: now.mono + self.limits.grace_ms });
        self.delivery.detach(no);
        let Some(lease) = self.roster.get_mut(no) else { return };
        let mut writes = save_state(lease, now.wall).into_iter().collect::<Vec<_>>();
        writes.push(Write::SaveLease(lease.row()));
        self.pipeline.push(writes, then);
        self.keep_beating(now);
    }

    pub(super) fn save(&mut self, no: LeaseNo, then: Then) {
        if let Some(lease) = self.roster.get(no) {
            self.pipeline.push(vec![Write::SaveLease(lease.row())], then);
        }
    }

    /// The grace is over: write the departure.
    pub(super) fn leave(&mut self, now: Now, no: LeaseNo, left: Left) {
        let writes = self.departure(now, no);
        let left = Left { leases: vec![no], ..left };
        self.pipeline.push(writes, Then::Left(Box::new(left)));
    }

    /// What is written when a presence ends, for whatever reason. From here on nothing reaches it.
    pub(super) fn departure(&mut self, now: Now, no: LeaseNo) -> Vec<Write> {
        self.roster.hold(no, Hold::Leaving);
        self.delivery.detach(no);
        self.expiries.set(no, None);
        let Some(lease) = self.roster.get_mut(no) else { return Vec::new() };
        let mut writes: Vec<_> = save_state(lease, now.wall).into_iter().collect();
        let row = audit::entry("peer_left", &lease.sender, &json!({}), now.wall);
        writes.push(Write::Audit(row));
        writes.push(Write::DropLease(lease.presence.clone()));
        if let Recipient::Presence(from) = lease.own() {
            writes.push(Write::Inherit { from, to: lease.record.member.clone() });
        }
        writes
    }

    /// The departure is durable: everything the presence owned is freed, here and nowhere else.
    pub(super) fn left(&mut self, now: Now, no: LeaseNo) {
        if self.roster.get(no).is_some_and(|lease| lease.announced) {
            self.announce(now, "peer_left", no);
        }
        let Some(lease) = self.roster.remove(no) else { return };
        self.delivery.close(no, matches!(lease.own(), Recipient::Presence(_)));
        for conn in self.late.remove(&no).unwrap_or_default() {
            // Much may have changed while it waited: that it was banned, for one.
            self.identify(conn);
        }
    }

    /// Tells the others. A session concerns everybody, and so does who can be seen; a member's own
    /// connection that comes or goes is no news to its siblings.
    pub(super) fn announce(&mut self, now: Now, event: &'static str, no: LeaseNo) {
        let draw = self.draw();
        let Some(subject) = self.roster.get(no) else { return };
        let told = self.told_of(now, event, subject, draw);
        self.out.extend(told);
    }

    /// The event, for all whom it concerns, if there is anybody.
    pub(super) fn told_of(
        &self,
        now: Now,
        event: &'static str,
        subject: &Lease,
        draw: u128,
    ) -> Option<Effect> {
        let all = subject.record.proven || matches!(event, "peer_visible" | "peer_hidden");
        let concerned = |other: &Lease| all || other.record.member != subject.record.member;
        let other = |lease: &Lease| lease.presence != subject.presence && concerned(lease);
        let others = self.roster.iter().filter(|(_, lease)| other(lease));
        let conns: Vec<_> = others.filter_map(|(_, lease)| lease.listening()).collect();
        (!conns.is_empty()).then(|| {
            let frame = Arc::new(events::presence(&self.id, event, subject, draw, now));
            Effect::Broadcast { conns, frame }
        })
    }
}

/// Sessions keep their state to themselves.
fn save_state(lease: &mut Lease, wall: i64) -> Option<Write> {
    (!lease.record.proven).then(|| Write::SaveState(lease.record.save(wall)))
}

/// The checks of protocol-core §2.2 and §2.3 that need the store, in their order; then ours.
fn check(attach: &mut Attach, identity: &Identity) -> Result<Member, Rejection> {
    let proven = matches!(attach.session, SessionKey::Proven(_));
    let Some(member) = identity.member.clone() else {
        let who = if proven { "parent pubkey" } else { "pubkey" };
        return Err(Rejection::new("unauthorized", format!("{who} not found in mesh")));
    };
    if member.revoked {
        return Err(revoked(identity));
    }
    if identity.archived {
        return Err(Rejection::new("unauthorized", "this mesh has been archived"));
    }
    if attach.member.as_ref().is_some_and(|claimed| *claimed != member.id) {
        return Err(if proven {
            let text = "parentMemberId does not match parentMemberPubkey";
            Rejection::new("parent_member_id_mismatch", text)
        } else {
            Rejection::new("member_id_mismatch", "memberId does not match pubkey")
        });
    }
    let recorded = identity.key_member.as_ref();
    match &attach.session {
        SessionKey::Proven(_) if recorded.is_some_and(|owner| *owner != member.id) => {
            Err(Rejection::new("unauthorized", "the session key belongs to another member"))
        }
        SessionKey::Claimed(_) if recorded.is_some() => {
            attach.session = SessionKey::Absent;
            Ok(member)
        }
        _ => Ok(member),
    }
}

fn revoked(identity: &Identity) -> Rejection {
    let mesh = &identity.mesh_name;
    let message = format!("You've been removed from \"{mesh}\". Contact the mesh owner to rejoin.");
    Rejection { code: "revoked", message, close: close::BANNED }
}

fn record(
    attach: &Attach,
    key: String,
    twin: bool,
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
        twin,
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
        status: Status::Idle,
        source: Source::Jsonl,
        summary: None,
        profile: PeerProfile::default(),
        stats: None,
        unsaved: Unsaved {
            groups: profile.groups.as_ref().is_some_and(|g| !g.is_empty()),
            ..Unsaved::default()
        },
        moderator: member.may_moderate(),
    }
}

fn recorded_key(record: &Record) -> Option<Write> {
    let key = record.session_pubkey.clone().filter(|_| record.proven)?;
    Some(Write::RecordKey { key, member: record.member.clone() })
}

fn joined_payload(lease: &Lease) -> serde_json::Value {
    let record = &lease.record;
    if record.proven {
        json!({
            "pubkey": record.member_pubkey,
            "session_pubkey": record.session_pubkey,
            "groups": record.groups,
            "via": "session_hello",
            "role": record.role(),
        })
    } else {
        json!({
            "pubkey": record.pubkey(),
            "groups": record.groups,
            "restored": lease.saved.is_some(),
            "role": record.role(),
        })
    }
}

fn hello_ack(lease: &Lease, member: Option<&Member>, identity: &Identity) -> HelloAck {
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

fn restored(saved: &SavedState, attach: &Attach) -> Restored {
    let named = attach.profile.groups.as_ref().is_some_and(|groups| !groups.is_empty());
    Restored {
        restored: true,
        last_summary: saved.summary.clone(),
        last_seen_at: saved.seen_at.map(time::iso),
        restored_groups: (!named && !saved.groups.is_empty()).then(|| saved.groups.clone()),
        restored_stats: json!(saved.stats),
    }
}
