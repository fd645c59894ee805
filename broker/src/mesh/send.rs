//! Accepting envelopes: limits, targets, and what a retry is told. Who is about to be refused is
//! looked up first ([`lookup`](super::lookup)).

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::client::Send;
use protocol::server::{Ack, Frame};
use protocol::{EchoId, MessageId};

use super::audit;
use super::facts::Fact;
use super::io::{Answer, Command, ConnId, Count, Effect, Now, Question};
use super::lookup::Undecided;
use super::mentions::mentions;
use super::pipeline::{self, Then};
use super::query::Asked;
use super::room::Wanted;
use super::roster::LeaseNo;
use super::state::Mesh;
use super::targets::{self, Nobody, Reached, Resolved};
use crate::model::{
    Accept, AcceptKey, Accepted, AuditRow, Capability, Envelope, History, Lane, QueueId, Recipient,
    Sender, Topic, Write,
};

/// Why a send is refused: a label for the metric, and words for the client. Words that clients
/// take as permanent (protocol-core §11.2) are used only for what stays so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) label: &'static str,
    pub(super) text: String,
}

/// Whom a send goes to.
#[derive(Default)]
pub(super) struct Addressed {
    pub(super) recipients: Vec<Recipient>,
    pub(super) held: bool,
    pub(super) skipped: usize,
    pub(super) topic: Option<Arc<Topic>>,
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
        let Some(no) = self.roster.of_conn(conn) else { return };
        if self.pipeline.is_full(self.limits.capacity) {
            return self.refuse_unavailable(conn, number, send.id.clone());
        }
        let fact = Fact::for_target(&send.target_spec);
        // Who may send nothing now is not worth a question.
        let may_send =
            self.roster.get(no).is_some_and(|lease| self.sends.has(&lease.record.member, now.mono));
        if may_send && !self.facts.are_fresh(&fact, now.mono) {
            return self.wait_for(fact, conn, number, command);
        }
        let key = accept_key(send, conn, number);
        if may_send {
            match self.room.wants(&self.limits, body_bytes(send), now.mono) {
                Wanted::Wait => return self.wait_for(Fact::QueueBytes, conn, number, command),
                Wanted::Ask => self.ask_queue_bytes(),
                Wanted::Nothing => {}
            }
        }
        match self.address(now, no, send) {
            Ok(to) => self.accept(now, (conn, number), no, send, key, to),
            Err(refusal) => {
                let wanted = send.offline.as_deref() == Some("queue");
                let absent = refusal.label == "no_recipient" && !self.is_own(no, &send.target_spec);
                let queue = absent && (wanted || self.limits.offline_queue);
                let asks = queue || key.client_id().is_some();
                if asks && !self.may_look_up(no, now) {
                    let text = "rate_limit: too many refused messages — slow down";
                    self.refuse_send(conn, number, send.id.clone(), "rate_limit", text);
                } else if asks {
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

    /// A send waits until something is known that the store must tell.
    fn wait_for(&mut self, fact: Fact, conn: ConnId, number: u64, command: &Arc<Command>) {
        self.stalled.entry(conn).or_default().push_back((number, command.clone()));
        if self.facts.wait(&fact, conn) {
            let question = match &fact {
                Fact::Grants => self.grants_question(),
                Fact::Topic(spec) => Question::Topic { spec: spec.clone() },
                Fact::QueueBytes if self.room.is_asking() => return,
                Fact::QueueBytes => return self.ask_queue_bytes(),
            };
            self.ask(question, Asked::Fact(fact));
        }
    }

    fn ask_queue_bytes(&mut self) {
        self.room.ask(self.clock);
        self.ask(Question::QueueBytes, Asked::Fact(Fact::QueueBytes));
    }

    /// The store has told what sends waited for, or could not.
    pub(super) fn informed(&mut self, now: Now, fact: Fact, answer: Option<Answer>) {
        let waiting = self.facts.answered(&fact);
        let told = answer.is_some();
        if fact == Fact::QueueBytes && !told {
            self.room.answered(None, now.mono);
        }
        match (fact, answer) {
            (Fact::Grants, Some(Answer::Grants { grants, taken })) => {
                self.facts.learn_grants(grants, now.mono);
                for key in taken {
                    self.end_claims(now, &key);
                }
            }
            (Fact::Topic(spec), Some(Answer::Topic(topic))) => {
                self.facts.learn_topic(spec, topic, now.mono);
            }
            (Fact::QueueBytes, Some(Answer::QueueBytes(bytes))) => {
                self.room.answered(Some(bytes), now.mono);
            }
            _ => {
                for conn in &waiting {
                    let first = self.stalled.get_mut(conn).and_then(VecDeque::pop_front);
                    if let Some((number, command)) = first
                        && let Command::Send(send) = &*command
                    {
                        self.refuse_unavailable(*conn, number, send.id.clone());
                    }
                }
            }
        }
        let asking = |asked: &Asked| matches!(asked, Asked::Fact(Fact::Grants));
        if !told && self.facts.awaits_grants() && !self.asked.values().any(asking) {
            let question = self.grants_question();
            self.ask(question, Asked::Fact(Fact::Grants));
        }
        for conn in waiting {
            self.go_on(now, conn);
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
        if !self.sends.take(&lease.record.member, now.mono) {
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
        let sender = lease.sender.clone();
        let topic = send.target_spec.strip_prefix('#').and_then(|spec| self.facts.topic(spec));
        match targets::resolve(&self.roster, no, &send.target_spec, topic.as_deref()) {
            Ok(Resolved::Direct(reached)) => self.address_one(send, &sender, reached),
            Ok(Resolved::Many(reached)) => Ok(self.address_many(send, &sender, topic, reached)),
            Err(Nobody::NoTopic) => Err(Refusal {
                label: "no_topic",
                text: "not_found: no such topic in this mesh".to_owned(),
            }),
            Err(Nobody::NotInTopic) => Err(Refusal {
                label: "no_topic",
                text: "forbidden: only members of a topic write to it".to_owned(),
            }),
            Err(Nobody::Absent) => Err(no_recipient()),
        }
    }

    pub(super) fn address_one(
        &mut self,
        send: &Send,
        sender: &Sender,
        (recipient, member): Reached,
    ) -> Result<Addressed, Refusal> {
        if !self.facts.allow(&member, sender, Capability::Dm) {
            self.out.push(Effect::Count(Count::Denied(Capability::Dm)));
            let text = "blocked by recipient grants (sender lacks dm capability)";
            return Err(Refusal { label: "grants", text: text.to_owned() });
        }
        if !self.has_room(send, &recipient) {
            return Err(queue_full());
        }
        Ok(Addressed { recipients: vec![recipient], ..Addressed::default() })
    }

    fn address_many(
        &mut self,
        send: &Send,
        sender: &Sender,
        topic: Option<Arc<Topic>>,
        mut reached: Vec<Reached>,
    ) -> Addressed {
        if topic.is_none() {
            let all = reached.len();
            reached.retain(|(_, m)| self.facts.allow(m, sender, Capability::Broadcast));
            let denied = Effect::Count(Count::Denied(Capability::Broadcast));
            self.out.extend(std::iter::repeat_n(denied, all - reached.len()));
        }
        let all = reached.len();
        let recipients = reached.into_iter().map(|(recipient, _)| recipient);
        let recipients: Vec<_> = recipients.filter(|to| self.has_room(send, to)).collect();
        Addressed { skipped: all - recipients.len(), recipients, held: false, topic }
    }

    fn has_room(&self, send: &Send, recipient: &Recipient) -> bool {
        let lane = Lane::of(send.priority);
        self.delivery.has_room(&QueueId { recipient: recipient.clone(), lane })
            && self.room.fits(&self.limits, recipient, body_bytes(send))
    }

    pub(super) fn accept(
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
        if to.skipped > 0 {
            self.out.push(Effect::Count(Count::Dropped("queue_full", to.skipped as u64)));
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
            topic: to.topic.as_ref().map(|topic| topic.name.clone()),
            created_at: now.wall,
        });
        self.room.accept(&to.recipients, envelope.body_bytes());
        let accept = Accept { envelope: envelope.clone(), recipients: to.recipients.clone() };
        let mut writes = vec![Write::Accept(accept)];
        writes.extend(to.topic.map(|topic| {
            Write::History(History {
                topic: topic.id.clone(),
                envelope: envelope.clone(),
                body_version: send.body_version.unwrap_or(1),
                mentions: mentions(send),
            })
        }));
        writes.push(Write::Audit(sent(&envelope)));
        let then = Then::Accepted(Box::new(pipeline::Accepted {
            conn,
            number,
            ack_id: send.id.clone(),
            envelope,
            recipients: to.recipients,
            held: to.held,
            skipped: to.skipped,
        }));
        self.pipeline.push(writes, then);
    }

    /// The envelope is durable, or its key belonged to an earlier one.
    pub(super) fn accepted(&mut self, accepted: pipeline::Accepted, original: Option<Accepted>) {
        let pipeline::Accepted { conn, number, ack_id, envelope, recipients, held, skipped } =
            accepted;
        self.room.settle(&recipients, envelope.body_bytes(), original.is_none());
        if let Some(original) = original {
            self.repeat(conn, number, ack_id, &original, envelope.fingerprint.as_deref());
            return;
        }
        let message_id = envelope.id.to_string();
        let id = ack_id.unwrap_or_default();
        let count = u32::try_from(recipients.len()).unwrap_or(u32::MAX);
        let ack = Ack {
            id,
            message_id,
            queued: true,
            error: None,
            held,
            skipped,
            recipients: targets::is_many(&envelope.target).then_some(count),
            req_id: None,
        };
        self.reply(conn, number, Frame::Ack(ack));
        self.delivery.offer(&envelope, recipients);
    }

    /// A retry is told what the first one was told. A missing fingerprint matches any.
    pub(super) fn repeat(
        &mut self,
        conn: ConnId,
        number: u64,
        ack_id: Option<EchoId>,
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
        let ack = Ack { message_id, queued: true, error: None, ..Ack::refused(Some(id), "") };
        self.reply(conn, number, Frame::Ack(ack));
    }

    pub(super) fn refuse_send(
        &mut self,
        conn: ConnId,
        number: u64,
        ack_id: Option<EchoId>,
        label: &'static str,
        text: &str,
    ) {
        self.out.push(Effect::Count(Count::SendRejected(label)));
        self.reply_refusal(conn, number, Frame::Ack(Ack::refused(ack_id, text)));
    }

    pub(super) fn refuse_unavailable(&mut self, conn: ConnId, number: u64, id: Option<EchoId>) {
        self.refuse_send(conn, number, id, "unavailable", UNAVAILABLE);
    }

    /// What waited behind an undecided send takes its turn.
    pub(super) fn go_on(&mut self, now: Now, conn: ConnId) {
        if self.unsaid.contains_key(&conn) {
            return; // it goes on behind that
        }
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
    let text = "queue_full: too much waits for this recipient or in this mesh, try later";
    Refusal { label: "queue_full", text: text.to_owned() }
}

/// `message_sent`, in canonical JSON. On the hot path, so it is written as it comes out.
fn sent(envelope: &Envelope) -> AuditRow {
    let target = serde_json::Value::from(envelope.target.as_str());
    let payload =
        format!(r#"{{"priority":"{}","targetSpec":{target}}}"#, envelope.priority.as_str());
    audit::canonical_entry("message_sent", &envelope.sender, payload, envelope.created_at)
}

fn accept_key(send: &Send, conn: ConnId, number: u64) -> AcceptKey {
    match given(send.client_message_id.as_ref()) {
        Some(id) => AcceptKey::Client(id),
        None => AcceptKey::Link(format!("{conn}:{number}")),
    }
}

pub(super) fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn body_bytes(send: &Send) -> u64 {
    (send.nonce.len() + send.ciphertext.len()) as u64
}

fn units(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}
