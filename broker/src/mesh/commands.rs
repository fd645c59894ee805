//! What connections ask for: each command, once and in order, and how it is answered.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use protocol::client::{Request, Verb};
use protocol::server::Frame;
use router::link::Verdict;

use super::io::{Command, ConnId, Effect, Now, Numbered};
use super::pipeline::{Left, Then};
use super::presence::Change;
use super::query::error;
use super::roster::LeaseNo;
use super::state::Mesh;
use crate::model::{Confirm, Write};

impl Mesh {
    pub(super) fn command(&mut self, now: Now, item: &Numbered) {
        if item.epoch != self.epoch {
            return;
        }
        let inbound = self.inbound.entry(item.conn).or_default();
        if inbound.accept(item.base, item.number) == Verdict::Fresh {
            self.execute(now, item.conn, item.number, &item.command);
        }
    }

    pub(super) fn execute(&mut self, now: Now, conn: ConnId, number: u64, command: &Arc<Command>) {
        if let Some(stalled) = self.stalled.get_mut(&conn) {
            stalled.push_back((number, command.clone()));
            return;
        }
        self.heard(now, conn);
        match &**command {
            Command::Attach(attach) => self.arrive(now, conn, number, attach),
            Command::Detach { clean, next } => {
                self.detach(now, conn, Some(number), (*clean, next.as_deref()));
            }
            Command::Send(send) => self.send(now, conn, number, send, command),
            Command::ClientAck(ack) => {
                if let Some(no) = self.roster.of_conn(conn)
                    && !self.pipeline.is_full(self.limits.capacity)
                {
                    let confirms = self.delivery.acked(no, ack, self.tail);
                    self.settle(confirms);
                }
                self.out.push(Effect::Result { conn, number, frame: None });
            }
            Command::Request(request) => self.request(now, conn, number, request),
            Command::Unknown => self.out.push(Effect::Unsupported { conn, number }),
        }
    }

    fn request(&mut self, now: Now, conn: ConnId, number: u64, request: &Request) {
        if self.ending.contains(&conn) {
            let frame = error("forbidden", "not a member", request.req_id.clone());
            return self.too_late(conn, number, Some(frame));
        }
        let mut change = |to: Change<'_>| self.change(conn, number, request.req_id.clone(), &to);
        match &request.verb {
            Verb::SetSummary { summary } => change(Change::Summary(summary)),
            Verb::SetVisible { visible } => change(Change::Visible(*visible)),
            Verb::SetProfile(profile) => change(Change::Profile(profile)),
            Verb::SetStats { stats } => change(Change::Stats(stats)),
            Verb::JoinGroup(group) => change(Change::Join(group)),
            Verb::LeaveGroup { name } => change(Change::Leave(name)),
            Verb::SetStatus { status } => self.set_status(now, conn, number, *status),
            Verb::ListPeers
            | Verb::MessageStatus { .. }
            | Verb::ListBans
            | Verb::AuditQuery { .. }
            | Verb::AuditVerify => self.query(now, conn, number, request),
            Verb::Disconnect(_) | Verb::Kick(_) | Verb::Ban { .. } | Verb::Unban { .. } => {
                self.moderate(conn, number, request);
            }
        }
    }

    pub(super) fn heard(&mut self, now: Now, conn: ConnId) {
        self.roster.heard(conn, now.mono);
    }

    pub(super) fn pong(&mut self, conn: ConnId, nonce: u64) {
        if self.ponged_behind_events(conn, nonce) {
            return;
        }
        if let Some(no) = self.roster.of_conn(conn) {
            let confirms = self.delivery.ponged(no, nonce);
            self.settle(confirms);
        }
    }

    pub(super) fn settle(&mut self, confirms: Vec<Confirm>) {
        if !confirms.is_empty() {
            let writes = confirms.into_iter().map(Write::Confirm).collect();
            self.pipeline.push(writes, Then::Settled);
        }
    }

    /// A connection ends. The result of its detach comes behind those of all it asked for before:
    /// until then the edge would ask again, should the mesh change its epoch.
    pub(super) fn detach(
        &mut self,
        now: Now,
        conn: ConnId,
        number: Option<u64>,
        (clean, next): (bool, Option<&[String]>),
    ) {
        let done = |number| Effect::Result { conn, number, frame: None };
        self.out.extend(self.arrivals.remove(&conn).map(|arrival| done(arrival.number)));
        match self.roster.of_conn(conn) {
            Some(no) if self.ends_with_its_connection(no, clean, next) => {
                let reply = number.map(|number| (conn, number, None));
                self.leave(now, no, Left { reply, ..Left::default() });
            }
            Some(no) => {
                let done = |number| Then::Done { conn, number, frame: None, tell: None };
                self.away(now, no, 0, number.map_or(Then::Settled, done));
            }
            None => self.out.extend(number.map(done)),
        }
    }

    /// Whether there is no grace: a short-lived session has said goodbye, or its socket goes on as
    /// another presence.
    fn ends_with_its_connection(&self, no: LeaseNo, clean: bool, next: Option<&[String]>) -> bool {
        self.roster.get(no).is_some_and(|lease| {
            let replaced = next.is_some_and(|keys| !keys.contains(&lease.record.key));
            replaced || (clean && lease.is_short_lived())
        })
    }

    // --- answers -----------------------------------------------------------------------------

    pub(super) fn reply(&mut self, conn: ConnId, number: u64, frame: Frame) {
        if self.doubtful {
            // Were this lost with its commit, what is asked next would be answered behind what is not.
            self.hold_up(conn);
            return self.pipeline.push(Vec::new(), Then::Said { conn, number, frame });
        }
        self.out.push(Effect::Result { conn, number, frame: Some(frame) });
    }

    /// A send is refused. What a connection elsewhere asks next waits until its edge has heard: were
    /// the refusal lost with this owner, and a later message accepted, the next owner would be asked
    /// for both again, and accept the first behind the second.
    pub(super) fn reply_refusal(&mut self, conn: ConnId, number: u64, frame: Frame) {
        if conn.process == self.process {
            return self.reply(conn, number, frame);
        }
        self.hold_up(conn);
        if self.doubtful {
            return self.pipeline.push(Vec::new(), Then::Refusal { conn, number, frame });
        }
        self.out.push(Effect::Refusal { conn, number, frame });
    }

    fn hold_up(&mut self, conn: ConnId) {
        self.stalled.entry(conn).or_default();
        *self.unsaid.entry(conn).or_default() += 1;
    }

    /// One answer of those a connection waits behind is where it should be.
    pub(super) fn let_on(&mut self, now: Now, conn: ConnId) {
        let Entry::Occupied(mut unsaid) = self.unsaid.entry(conn) else { return };
        *unsaid.get_mut() -= 1;
        if *unsaid.get() == 0 {
            unsaid.remove();
            self.go_on(now, conn);
        }
    }
}
