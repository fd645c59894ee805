//! Accepting envelopes: limits, targets, and what a retry is told.
//!
//! What would be refused may be a retry of something accepted: the store is asked before the
//! refusal, and what the same connection sent behind it waits, so that order is kept.

use std::sync::Arc;

use protocol::client::Send;
use protocol::server::{Ack, Frame};
use protocol::{MemberId, MessageId};

use super::io::{Command, ConnId, Count, Effect, Now, Question};
use super::pipeline::{self, Then};
use super::query::{Asked, NoAnswer};
use super::roster::LeaseNo;
use super::state::Mesh;
use super::targets::{self, Nobody, Resolved};
use crate::model::{
    Accept, AcceptKey, Accepted, Envelope, Identity, Lane, QUEUE_QUOTA, QueueId, Recipient, Write,
};

/// Why a send is refused: a label for the metric, and words for the client. Words that clients
/// take as permanent (protocol-core §11.2) are used only for what stays so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    label: &'static str,
    text: String,
}

/// A send whose fate the store will tell.
#[derive(Debug)]
pub(crate) struct Undecided {
    conn: ConnId,
    number: u64,
    command: Arc<Command>,
    key: AcceptKey,
    refusal: Refusal,
    /// Keep it for a recipient who is away, if there is one.
    queue: bool,
}

/// Whom a send goes to.
struct Addressed {
    recipients: Vec<Recipient>,
    held: bool,
    skipped: usize,
}

const REUSED: &str = "invalid: idempotency_key_reused";

impl Mesh {
    pub(super) fn send(
        &mut self,
        now: Now,
        conn: ConnId,
        number: u64,
        send: &Send,
        command: &Arc<Command>,
    ) {
        if let Some(stalled) = self.stalled.get_mut(&conn) {
            stalled.push_back((number, command.clone()));
            return;
        }
        let Some(no) = self.roster.of_conn(conn) else { return };
        if self.pipeline.is_full(self.limits.capacity) {
            return self.refuse_unavailable(conn, number, send.id.clone());
        }
        let key = accept_key(send, conn, number);
        match self.address(now, no, send) {
            Ok(to) => self.accept(now, (conn, number), no, send, key, to),
            Err(refusal) => {
                let wanted = send.offline.as_deref() == Some("queue");
                let absent = refusal.label == "no_recipient" && !self.is_own(no, &send.target_spec);
                let queue = absent && (wanted || self.limits.offline_queue);
                if queue || key.client_id().is_some() {
                    let undecided =
                        Undecided { conn, number, command: command.clone(), key, refusal, queue };
                    self.look_up(no, undecided);
                } else {
                    let Refusal { label, text } = refusal;
                    self.refuse_send(conn, number, send.id.clone(), label, &text);
                }
            }
        }
    }

    /// Whether a target is the sender itself: it is here, so nothing is held for it.
    fn is_own(&self, no: LeaseNo, target: &str) -> bool {
        self.roster.get(no).is_some_and(|lease| {
            let session = lease.record.session_pubkey.as_deref();
            &*lease.record.member_pubkey == target || session == Some(target)
        })
    }

    fn address(&mut self, now: Now, no: LeaseNo, send: &Send) -> Result<Addressed, Refusal> {
        let Some(lease) = self.roster.get(no) else { return Err(no_recipient()) };
        if !self.buckets.take(&lease.record.member, &self.limits, now.mono) {
            let (rate, burst) = (self.limits.send_rate, self.limits.send_burst);
            let text = format!("rate_limit: max {rate} msg/min (burst {burst}) — slow down");
            return Err(Refusal { label: "rate_limit", text });
        }
        let units = [&send.ciphertext, &send.nonce, &send.target_spec].map(|text| units(text));
        let (units, cap) = (units.iter().sum::<usize>(), self.limits.message_units);
        if units > cap {
            let text = format!("payload too large: {units} bytes > MAX_MESSAGE_BYTES={cap}");
            return Err(Refusal { label: "too_large", text });
        }
        let lane = Lane::of(send.priority);
        let room = |recipient: &Recipient| {
            self.delivery.has_room(&QueueId { recipient: recipient.clone(), lane })
        };
        match targets::resolve(&self.roster, no, &send.target_spec) {
            Ok(Resolved::Direct(recipient)) if room(&recipient) => {
                Ok(Addressed { recipients: vec![recipient], held: false, skipped: 0 })
            }
            Ok(Resolved::Direct(_)) => Err(queue_full()),
            Ok(Resolved::Many(mut recipients)) => {
                let all = recipients.len();
                recipients.retain(room);
                let skipped = all - recipients.len();
                Ok(Addressed { recipients, held: false, skipped })
            }
            Err(Nobody::NoTopic) => Err(Refusal {
                label: "no_topic",
                text: "not_found: no such topic in this mesh".to_owned(),
            }),
            Err(Nobody::Absent) => Err(no_recipient()),
        }
    }

    fn accept(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        no: LeaseNo,
        send: &Send,
        key: AcceptKey,
        to: Addressed,
    ) {
        let Some(lease) = self.roster.get(no) else { return };
        let sender = lease.sender.clone();
        for _ in 0..to.skipped {
            self.out.push(Effect::Count(Count::Dropped("queue_full")));
        }
        self.seq += 1;
        let envelope = Arc::new(Envelope {
            id: MessageId::at(self.seq, self.draw()),
            seq: self.seq,
            sender,
            target: send.target_spec.clone(),
            priority: send.priority,
            nonce: send.nonce.clone(),
            ciphertext: send.ciphertext.clone(),
            key,
            fingerprint: given(send.request_fingerprint.as_ref()),
            reply_to: given(send.reply_to_id.as_ref()),
            subtype: None,
            created_at: now.wall,
        });
        let accept = Accept { envelope: envelope.clone(), recipients: to.recipients.clone() };
        let then = Then::Accepted(Box::new(pipeline::Accepted {
            conn,
            number,
            ack_id: send.id.clone(),
            envelope,
            recipients: to.recipients,
            held: to.held,
            skipped: to.skipped,
        }));
        self.pipeline.push(vec![Write::Accept(accept)], then);
    }

    /// The envelope is durable, or its key belonged to an earlier one.
    pub(super) fn accepted(&mut self, accepted: pipeline::Accepted, original: Option<Accepted>) {
        let pipeline::Accepted { conn, number, ack_id, envelope, recipients, held, skipped } =
            accepted;
        if let Some(original) = original {
            self.repeat(conn, number, ack_id, &original, envelope.fingerprint.as_deref());
            return;
        }
        let message_id = envelope.id.to_string();
        let id = ack_id.unwrap_or_default();
        let ack = Ack { id, message_id, queued: true, error: None, held, skipped };
        self.reply(conn, number, Frame::Ack(ack));
        self.delivery.offer(&envelope, recipients);
    }

    /// A retry is told what the first one was told. A missing fingerprint matches any.
    fn repeat(
        &mut self,
        conn: ConnId,
        number: u64,
        ack_id: Option<String>,
        original: &Accepted,
        fingerprint: Option<&str>,
    ) {
        let same = match (original.fingerprint.as_deref(), fingerprint) {
            (Some(first), Some(again)) => first == again,
            _ => true,
        };
        if !same {
            return self.refuse_send(conn, number, ack_id, "key_reused", REUSED);
        }
        let message_id = original.message.to_string();
        let id = ack_id.unwrap_or_default();
        let ack = Ack { id, message_id, queued: true, error: None, held: false, skipped: 0 };
        self.reply(conn, number, Frame::Ack(ack));
    }

    pub(super) fn refuse_send(
        &mut self,
        conn: ConnId,
        number: u64,
        ack_id: Option<String>,
        label: &'static str,
        text: &str,
    ) {
        self.out.push(Effect::Count(Count::SendRejected(label)));
        self.reply(conn, number, Frame::Ack(Ack::refused(ack_id, text)));
    }

    // --- asking the store before a refusal --------------------------------------------------

    fn look_up(&mut self, no: LeaseNo, undecided: Undecided) {
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
        let question = Question::Identity { pubkey: target.clone(), session: Some(target) };
        self.ask(question, Asked::Target(undecided));
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
        let recipient = identity.map(|known| known.and_then(|known| absent(&known, send)));
        match (recipient, self.roster.of_conn(conn)) {
            (Ok(Some(recipient)), Some(no)) => {
                let lane = Lane::of(send.priority);
                if self.delivery.has_room(&QueueId { recipient: recipient.clone(), lane }) {
                    let to = Addressed { recipients: vec![recipient], held: true, skipped: 0 };
                    self.accept(now, (conn, number), no, send, key, to);
                } else {
                    let Refusal { label, text } = queue_full();
                    self.refuse_send(conn, number, send.id.clone(), label, &text);
                }
            }
            (Ok(_), _) => {
                self.refuse_send(conn, number, send.id.clone(), refusal.label, &refusal.text);
            }
            (Err(NoAnswer), _) => self.refuse_unavailable(conn, number, send.id.clone()),
        }
        self.go_on(now, conn);
    }

    fn refuse_unavailable(&mut self, conn: ConnId, number: u64, id: Option<String>) {
        self.refuse_send(conn, number, id, "unavailable", UNAVAILABLE);
    }

    /// What waited behind an undecided send takes its turn.
    fn go_on(&mut self, now: Now, conn: ConnId) {
        let mut waiting = self.stalled.remove(&conn).unwrap_or_default();
        while let Some((number, command)) = waiting.pop_front() {
            self.execute(now, conn, number, &command);
            if let Some(stalled) = self.stalled.get_mut(&conn) {
                stalled.append(&mut waiting);
            }
        }
    }
}

/// Clients retry what does not sound permanent.
pub const UNAVAILABLE: &str = "unavailable: the broker cannot store messages now, try again";

fn no_recipient() -> Refusal {
    let text = "no connected peer for target \
                (not online, or targetSpec is your own key without another session)";
    Refusal { label: "no_recipient", text: text.to_owned() }
}

fn queue_full() -> Refusal {
    let text = format!("queue_full: {QUEUE_QUOTA} messages wait for this recipient, try later");
    Refusal { label: "queue_full", text }
}

/// A member or a proven session that has no lease now. Not the sender's own business to forbid.
fn absent(identity: &Identity, send: &Send) -> Option<Recipient> {
    if identity.key_member.is_some() {
        return Some(Recipient::Session(send.target_spec.as_str().into()));
    }
    let member = identity.member.as_ref().filter(|member| !member.revoked)?;
    Some(Recipient::Member(MemberId::clone(&member.id)))
}

fn accept_key(send: &Send, conn: ConnId, number: u64) -> AcceptKey {
    match given(send.client_message_id.as_ref()) {
        Some(id) => AcceptKey::Client(id),
        None => AcceptKey::Link(format!("{conn}:{number}")),
    }
}

fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}
