//! Asking the store before a send is refused.
//!
//! What would be refused may be a retry of something accepted: then it is answered with that. Or
//! its recipient may be known, and only away: then it is kept, if the sender or the operator wants
//! that. What the same connection sent behind it waits, so that order is kept.

use std::sync::Arc;

use protocol::client::Send;

use super::io::{Command, ConnId, Now, Question};
use super::query::{Asked, NoAnswer};
use super::roster::LeaseNo;
use super::send::{Addressed, Refusal, given};
use super::state::Mesh;
use super::targets::Reached;
use crate::model::{AcceptKey, Accepted, Claim, Identity, Recipient};

/// A send whose fate the store will tell.
#[derive(Debug)]
pub(crate) struct Undecided {
    pub(super) conn: ConnId,
    pub(super) number: u64,
    pub(super) command: Arc<Command>,
    pub(super) key: AcceptKey,
    pub(super) refusal: Refusal,
    /// Keep it for a recipient who is away, if there is one.
    pub(super) queue: bool,
}

impl Mesh {
    /// Whether the store may be asked once more for this member.
    pub(super) fn may_look_up(&mut self, no: LeaseNo, now: Now) -> bool {
        let Some(lease) = self.roster.get(no) else { return false };
        self.lookups.take(&lease.record.member, now.mono)
    }

    pub(super) fn look_up(&mut self, no: LeaseNo, undecided: Undecided) {
        let Some(lease) = self.roster.get(no) else { return };
        let member = lease.record.member.clone();
        self.stalled.entry(undecided.conn).or_default();
        if undecided.key.client_id().is_some() {
            let key = undecided.key.clone();
            self.ask(Question::Accepted { member, key }, Asked::Prior(undecided));
        } else {
            self.find_absent(undecided);
        }
    }

    fn find_absent(&mut self, undecided: Undecided) {
        let Command::Send(send) = &*undecided.command else { return };
        let target: Arc<str> = send.target_spec.as_str().into();
        let claim =
            Claim { pubkey: target.clone(), session: Some(target), place: None, hello: None };
        self.ask(Question::Identity(claim), Asked::Target(undecided));
    }

    /// Whether the key was accepted before.
    pub(super) fn looked_up(
        &mut self,
        now: Now,
        undecided: Undecided,
        prior: Result<Option<Accepted>, NoAnswer>,
    ) {
        let (conn, number) = (undecided.conn, undecided.number);
        let Command::Send(send) = &*undecided.command else { return };
        match prior {
            Ok(Some(original)) => {
                let fingerprint = given(send.request_fingerprint.as_ref());
                let id = send.id.clone();
                self.repeat(conn, number, id, &original, fingerprint.as_deref());
            }
            Ok(None) if undecided.queue => return self.find_absent(undecided),
            Ok(None) => {
                let Refusal { label, text } = &undecided.refusal;
                self.refuse_send(conn, number, send.id.clone(), label, text);
            }
            Err(NoAnswer) => self.refuse_unavailable(conn, number, send.id.clone()),
        }
        self.go_on(now, conn);
    }

    /// Whether an absent target is known to the mesh.
    pub(super) fn target_found(
        &mut self,
        now: Now,
        undecided: Undecided,
        identity: Result<Option<Box<Identity>>, NoAnswer>,
    ) {
        let Undecided { conn, number, command, key, refusal, .. } = undecided;
        let Command::Send(send) = &*command else { return };
        let reached = identity.map(|known| known.and_then(|known| absent(&known, send)));
        let gone = |reached: &Reached| self.is_barred(&reached.1);
        let reached = reached.map(|found| found.filter(|reached| !gone(reached)));
        match (reached, self.roster.of_conn(conn)) {
            (Ok(Some(reached)), Some(no)) => {
                let sender = self.roster.get(no).map(|lease| lease.sender.clone());
                let Some(sender) = sender else { return };
                match self.address_one(send, &sender, reached) {
                    Ok(to) => {
                        let to = Addressed { held: true, ..to };
                        self.accept(now, (conn, number), no, send, key, to);
                    }
                    Err(Refusal { label, text }) => {
                        self.refuse_send(conn, number, send.id.clone(), label, &text);
                    }
                }
            }
            (Ok(_), _) => {
                self.refuse_send(conn, number, send.id.clone(), refusal.label, &refusal.text);
            }
            (Err(NoAnswer), _) => self.refuse_unavailable(conn, number, send.id.clone()),
        }
        self.go_on(now, conn);
    }
}

/// A member or a proven session that has no lease now. Not the sender's own business to forbid.
fn absent(identity: &Identity, send: &Send) -> Option<Reached> {
    if let Some(member) = &identity.key_member {
        return Some((Recipient::Session(send.target_spec.as_str().into()), member.clone()));
    }
    let member = identity.member.as_ref().filter(|member| !member.revoked)?;
    Some((Recipient::Member(member.id.clone()), member.id.clone()))
}
