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
use super::io::{Attach, ConnId, Count, Effect, Generation, Held, Ms, News, Now, Question};
use super::pipeline::{Left, Then};
use super::query::{Asked, NoAnswer};
use super::roster::{Found, Hold, Lease, LeaseNo, presence_key};
use super::state::Mesh;
use super::status::Source;
use crate::model::{Claim, Identity, Member, Place, Write};

/// A one-shot command that says goodbye sooner is nobody's news, and holds no place: in
/// milliseconds after its hello.
pub const BRIEF_MS: Ms = 2_000;
/// A hello waits for its owner for 8 s, or as long as its edge stands still. What is much older
/// comes from another clock.
const WAITED_MS: i64 = 60_000;
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

impl Mesh {
    /// Who is it? The store knows, and is asked each time: members are added and removed beside us.
    pub(super) fn arrive(&mut self, conn: ConnId, number: u64, attach: &Attach) {
        let attach = attach.clone();
        self.arrivals.insert(conn, Arrival { conn, number, attach, identity: None });
        self.identify(conn);
    }

    pub(super) fn identify(&mut self, conn: ConnId) {
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

    /// Whether the session has said hello since, and was answered: it has given up the connection on
    /// which this hello waited, and must not be displaced by its own past. It need not be online: its
    /// edge may not have announced itself yet.
    fn is_overtaken(&self, no: LeaseNo, conn: ConnId, attach: &Attach) -> bool {
        self.roster.get(no).is_some_and(|lease| {
            let later = lease.record.said_at.saturating_sub(attach.said_at);
            lease.conn() != Some(conn) && (1..=WAITED_MS).contains(&later)
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
        lease.saved = saved.map(Box::new);
        let standing = lease.standing();
        let no = self.admit(lease);
        self.expiries.set(no, standing.until(self.limits.status));
        self.delivery.set_busy(no, standing.status != Status::Idle);
        let Some(lease) = self.roster.get(no) else { return };
        let payload = hello::joined_payload(lease);
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
        lease.refresh(attach, generation);
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
        } else if self.is_brief(no) {
            self.news.retain(|(_, other)| *other != no);
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
        self.tell_arrival(now, no);
    }

    pub(super) fn tell_arrival(&mut self, now: Now, no: LeaseNo) {
        let Some(lease) = self.roster.get(no) else { return };
        let (event, told) = (lease.arrival(), lease.told());
        let events = self.event(now, event, no).into_iter().collect();
        self.out.push(Effect::News { process: None, events, news: News::Here(told) });
    }
}
