//! Coming: hellos, takeovers, joins.
//!
//! Nothing that others see comes before its commit: a hello is answered, and a joining or leaving
//! peer announced, when the lease and the audit entry are durable.

use protocol::client::Status;
use protocol::server::{self, Frame, HelloAck};
use protocol::{Close, close, id};

use super::audit;
use super::delivery::Rank;
use super::hello::{self, check, hello_ack, record, recorded_key, restored, revoked};
use super::io::{
    Attach, ConnId, Count, Effect, Generation, Held, Ms, News, Now, Question, SessionKey,
};
use super::missed::Knowledge;
use super::pipeline::{Left, Then};
use super::query::{Asked, NoAnswer};
use super::roster::{Found, Hold, Lease, LeaseNo};
use super::state::Mesh;
use super::status::Source;
use crate::model::{Claim, Identity, Member, Place, Write};

/// A short-lived session is announced if it stays for so long, in milliseconds. The probe with which
/// clients look whether the broker is there stays for 2,000.
pub const SHORT_LIVED_MS: Ms = 3_500;

/// A hello on its way in.
#[derive(Debug)]
pub(crate) struct Arrival {
    conn: ConnId,
    pub(super) number: u64,
    attach: Attach,
    /// When the store was asked who it is.
    asked: Ms,
    identity: Option<Identity>,
}

impl Mesh {
    /// Who is it? The store knows, and is asked each time: members are added and removed beside us.
    pub(super) fn arrive(&mut self, now: Now, conn: ConnId, number: u64, attach: &Attach) {
        // A replay is refused before the rate limit, which is its member's.
        if self.seen.is_taken(&attach.signature, conn, now.mono) {
            return self.replayed(conn, number);
        }
        if !self.hellos.take(&attach.pubkey, now.mono) {
            let rate = self.limits.hello_rate;
            let text = format!("this member may say {rate} hellos a minute, try later");
            return self.turn_down(conn, number, "rate_limit", &text, close::RATE_LIMIT);
        }
        let attach = attach.clone();
        self.arrivals
            .insert(conn, Arrival { conn, number, attach, asked: self.clock, identity: None });
        self.identify(conn);
    }

    pub(super) fn identify(&mut self, conn: ConnId) {
        let Some(Arrival { attach, asked, .. }) = self.arrivals.get_mut(&conn) else { return };
        *asked = self.clock;
        let claim = Claim {
            pubkey: attach.pubkey.clone(),
            session: attach.session.key().cloned(),
            place: Some(Place {
                session_id: attach.profile.session_id.clone(),
                cwd: attach.profile.cwd.clone(),
                pid: attach.profile.pid,
            }),
            hello: Some(hello::hello_digest(&attach.signature)),
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
        self.turn_down(conn, number, "unauthorized", text, close::UNAUTHORIZED);
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
            broker_time: None,
        };
        self.out.push(Effect::Count(Count::Rejected(code)));
        let refused = Effect::Refused { conn, number, frame: Some(Frame::Error(error)), close };
        if self.doubtful {
            return self.pipeline.push(Vec::new(), Then::Refused(Box::new(refused)));
        }
        self.out.push(refused);
    }

    fn decide(&mut self, now: Now, conn: ConnId) {
        let Some(mut arrival) = self.arrivals.remove(&conn) else { return };
        let number = arrival.number;
        let Some(mut identity) = arrival.identity.clone() else { return };
        identity.tidy();
        let member = match check(&mut arrival.attach, &identity) {
            Ok(member) if self.is_barred(&member.id) => Err(revoked(&identity)),
            checked => checked,
        };
        let member = match member {
            Ok(member) => member,
            Err(no) => return self.turn_down(conn, number, no.code, &no.message, no.close),
        };
        self.check_claim(&mut arrival.attach, &member);
        let key = arrival.attach.presence_key();
        if let Some(left) = self.cooldowns.left(&key, now.mono) {
            let text = hello::kicked(now.wall, left);
            return self.turn_down(conn, number, "kicked", &text, close::KICKED);
        }
        let found = self.roster.find(&key, now.mono);
        if let Found::Lease(no) | Found::Contested(no) = found
            && self.is_overtaken(no, conn, &arrival.attach)
        {
            let text = "this session has said hello again since";
            return self.turn_down(conn, number, "unavailable", text, close::UNAVAILABLE);
        }
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
        let found = match (found, self.no_room_for(&member, &identity)) {
            // No room to be kept apart: whoever has a lease may always come back to it.
            (Found::Lease(no), _) | (Found::Contested(no), Some(_)) => Found::Lease(no),
            (other, None) => other,
            (_, Some(text)) => {
                return self.turn_down(conn, number, "capacity", text, close::CAPACITY);
            }
        };
        if self.is_replayed(now, &arrival, &identity) {
            self.hellos.give_back(&arrival.attach.pubkey);
            return self.replayed(conn, number);
        }
        self.let_in(now, found, &arrival, &member, &identity);
    }

    fn replayed(&mut self, conn: ConnId, number: u64) {
        let text = "hello rejected: replayed";
        self.turn_down(conn, number, "replayed", text, close::REPLAYED);
    }

    /// Whether the hello was said before, on another connection: to any node, or to this owner just
    /// now.
    fn is_replayed(&mut self, now: Now, arrival: &Arrival, identity: &Identity) -> bool {
        let elsewhere = |seen_by: &String| *seen_by != arrival.conn.to_string();
        identity.seen_by.as_ref().is_some_and(elsewhere)
            || !self.seen.admit(&arrival.attach.signature, arrival.conn, now.mono)
    }

    fn let_in(
        &mut self,
        now: Now,
        found: Found,
        arrival: &Arrival,
        member: &Member,
        identity: &Identity,
    ) {
        let Arrival { conn, number, ref attach, asked, .. } = *arrival;
        self.end_claims(now, &attach.pubkey);
        if let SessionKey::Proven(key) = &attach.session {
            self.end_claims(now, key);
        }
        self.facts.learn_member(&member.id, &member.grants);
        match found {
            Found::Lease(no) => self.reattach(now, no, conn, number, attach, identity),
            Found::Nobody | Found::Contested(_) | Found::Leaving(_) => {
                self.join(now, conn, number, attach, member, identity);
            }
        }
        if let Some(lease) = self.roster.of_conn(conn).and_then(|no| self.roster.get_mut(no)) {
            lease.checked_at = asked;
        }
    }

    /// Why a presence more does not fit, if it does not: a member leaves room for others, if there
    /// are any.
    fn no_room_for(&self, member: &Member, identity: &Identity) -> Option<&'static str> {
        if self.roster.len() >= self.limits.capacity {
            return Some("mesh at connection capacity");
        }
        let own = self.delivery.outlets_of(&member.id);
        let crowd = own >= self.limits.member_sessions && !identity.alone;
        crowd.then_some("this member has as many sessions as it may in this mesh")
    }

    /// Whether the session has said hello since, and was answered: it has given up the connection on
    /// which this hello waited, and must not be displaced by its own past. It need not be online: its
    /// edge may not have announced itself yet.
    fn is_overtaken(&self, no: LeaseNo, conn: ConnId, attach: &Attach) -> bool {
        self.roster.get(no).is_some_and(|lease| {
            lease.conn() != Some(conn) && lease.record.opened_at.is_after(attach)
        })
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

    pub(super) fn next_generation(&mut self) -> Generation {
        self.generations += 1;
        Generation { epoch: self.epoch, number: self.generations }
    }

    fn join(
        &mut self,
        now: Now,
        conn: ConnId,
        number: u64,
        attach: &Attach,
        member: &Member,
        identity: &Identity,
    ) {
        let generation = self.next_generation();
        let key = attach.presence_key();
        let mut record = record(attach, key, member, generation, now.wall);
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
        lease.saved = saved.map(Box::new);
        let standing = lease.standing();
        let no = self.admit(lease);
        self.expiries.set(no, standing.until(self.limits.status));
        self.delivery.set_busy(no, standing.status != Status::Idle);
        let Some(lease) = self.roster.get(no) else { return };
        let payload = hello::joined_payload(lease);
        let row = audit::entry("peer_joined", &lease.sender, &payload, now.wall);
        let seen = hello::seen_hello(conn, attach);
        let mut writes = vec![Write::SaveLease(lease.row()), Write::Audit(row), seen];
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
        // An attach that its edge asks for again has displaced nobody, and what the edge holds stays the
        // newest, should this commit not be heard of.
        let again = self.roster.get(no).filter(|lease| lease.conn() == Some(conn));
        let generation = again.map(|lease| lease.record.generation);
        let generation = generation.unwrap_or_else(|| self.next_generation());
        self.stops_listening(no);
        let before = self.roster.hold(no, Hold::Online { conn, answered: false });
        self.delivery.detach(no);
        let Some(lease) = self.roster.get_mut(no) else { return };
        if let Some(Hold::Online { conn: old, .. }) = before
            && old != conn
        {
            if lease.note_replaced(now.mono) && lease.record.proven {
                self.out.push(Effect::Count(Count::Conflict));
            }
            self.out.push(Effect::Close { conn: old, close: close::SESSION_REPLACED });
        }
        lease.refresh(attach, generation);
        lease.heard = now.mono;
        if let Some(member) = &identity.member {
            lease.record.moderator = member.may_moderate();
        }
        let mut writes = vec![Write::SaveLease(lease.row()), hello::seen_hello(conn, attach)];
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
        let rank = Rank { unproven: !lease.record.proven, short_lived: lease.is_short_lived() };
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
        let point = self.point();
        let Some(lease) = self.roster.get_mut(no) else { return };
        let newly = !std::mem::replace(&mut lease.joined, true);
        let held =
            Held { conn, presence: lease.presence.clone(), generation: lease.record.generation };
        if lease.conn() == Some(conn) {
            if !std::mem::replace(&mut lease.greeted, true) {
                // It was never told anything, and asks who is here.
                lease.knowledge = Knowledge::up_to(point);
            }
            self.roster.hold(no, Hold::Online { conn, answered: true });
            let frame = Frame::HelloAck(Box::new(ack));
            self.out.push(Effect::Count(Count::Connected));
            self.out.push(Effect::Attached { held, number, frame });
            self.catch_up(now, no, conn);
            self.delivery.attach(no, self.may_confirm_by_pong(no));
        } else if lease.hold == Hold::Leaving {
            // It was ended in the meantime, and the socket must not wait for an answer for ever.
            let close = close::UNAVAILABLE;
            self.out.push(Effect::Refused { conn, number, frame: None, close });
        } else {
            // It has gone, or was displaced, in the meantime.
            self.out.push(Effect::Result { conn, number, frame: None });
        }
        if self.unsure.contains(&no) {
            // The edges say whether it is news.
        } else if self.roster.get(no).is_some_and(Lease::is_short_lived) {
            self.news.retain(|(_, other)| *other != no);
            self.news.insert((now.mono + SHORT_LIVED_MS, no));
        } else if newly {
            self.announce_arrival(now, no);
        }
    }

    /// A short-lived session has stayed: then it is like any other. Or its connection was lost
    /// meanwhile: then nobody needs to hear of it. Of one that an owner before let in, peers that are
    /// not here now may know: it keeps its grace.
    pub(super) fn short_lived_due(&mut self, now: Now, no: LeaseNo) {
        let Some(lease) = self.roster.get(no) else { return };
        let here_since_this_epoch = lease.record.came.epoch == self.epoch;
        match lease.hold {
            Hold::Away { .. } if here_since_this_epoch => self.leave(now, no, Left::default()),
            Hold::Online { .. } | Hold::Away { .. } => self.announce_arrival(now, no),
            Hold::Leaving => {}
        }
    }

    pub(super) fn announce_arrival(&mut self, now: Now, no: LeaseNo) {
        let point = self.next_generation();
        self.set_announced(no, true);
        let Some(lease) = self.roster.get_mut(no) else { return };
        lease.arrived = point;
        self.tell_arrival(now, no);
    }

    /// Whether the others know of it. Answers whether they did before.
    pub(super) fn set_announced(&mut self, no: LeaseNo, announced: bool) -> bool {
        let Some(lease) = self.roster.get_mut(no) else { return announced };
        let before = std::mem::replace(&mut lease.announced, announced);
        self.delivery.set_short_lived(no, lease.is_short_lived());
        before
    }

    pub(super) fn tell_arrival(&mut self, now: Now, no: LeaseNo) {
        let Some(lease) = self.roster.get(no) else { return };
        let (event, told) = (lease.arrival(), lease.told());
        let events = self.event(now, event, no).into_iter().collect();
        self.out.push(Effect::News { process: None, events, news: News::Here(told) });
    }
}
