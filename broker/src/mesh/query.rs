//! Questions: who is here, what became of a message, what has happened; and the store's answers to
//! ours.

use protocol::client::{Request, Verb};
use protocol::server::{self, Frame, MessageStatusResult, Row};
use protocol::{EchoId, MessageId, names, time};

use super::facts::Fact;
use super::io::{Answer, ConnId, Ms, Now, Question, Ticket};
use super::lookup::Undecided;
use super::moderation;
use super::roster::Lease;
use super::state::Mesh;
use crate::model::{
    AUDIT_ROWS, AuditEntry, AuditQuery, Identity, Recipient, StoredMessage, Verified, VerifiedSlice,
};

/// Entries an `audit_query` brings unless it says how many.
const AUDIT_DEFAULT_ROWS: u32 = 50;

/// Bytes of the rows of a `peers_list`. A hundred peers that tell 40 KiB each of themselves fit.
pub const LIST_BYTES: usize = 4 * 1024 * 1024;

/// How long one `audit_verify` goes on. Edges wait for an answer a little longer.
const VERIFY_MS: Ms = 6_000;
/// A chain of which no more has been verified is verified from its beginning when it is asked for
/// again: that costs one slice or two.
const VERIFIED_AGAIN: u64 = 500;

const NOT_NOW: &str = "the store cannot be asked now";

/// What a ticket was drawn for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Who attaches.
    Identity(ConnId),
    /// Whether a send that is about to be refused was accepted before.
    Prior(Undecided),
    /// Whether a send's absent target is known.
    Target(Undecided),
    /// What sends wait for.
    Fact(Fact),
    /// Whether a moderation verb may be carried out.
    Moderation { conn: ConnId, number: u64, request: Request },
    /// What a peer wants to know. The next it asks waits: older clients match replies by order.
    Query { conn: ConnId, number: u64, request: Request },
    /// Whether the chain is whole. What the connection asks next is done meanwhile, and answered
    /// behind this.
    Verify(Verifying),
}

/// A verification under way.
#[derive(Debug)]
pub(crate) struct Verifying {
    conn: ConnId,
    number: u64,
    req_id: Option<EchoId>,
    since: Ms,
}

/// The store could not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoAnswer;

impl Mesh {
    pub(super) fn answered(&mut self, now: Now, ticket: Ticket, answer: Option<Answer>) {
        let Some(asked) = self.asked.remove(&ticket) else {
            let page = match answer {
                Some(Answer::Page(page)) => Some(page),
                _ => None,
            };
            return self.delivery.paged(ticket, page);
        };
        match asked {
            Asked::Identity(conn) => self.identified(now, conn, identity(answer)),
            Asked::Target(undecided) => self.target_found(now, undecided, identity(answer)),
            Asked::Fact(fact) => self.informed(now, fact, answer),
            Asked::Prior(undecided) => {
                let prior = match answer {
                    Some(Answer::Accepted(prior)) => Ok(prior),
                    _ => Err(NoAnswer),
                };
                self.looked_up(now, undecided, prior);
            }
            Asked::Moderation { conn, number, request } => {
                let known = match answer {
                    Some(Answer::Moderation(known)) => Ok(*known),
                    _ => Err(NoAnswer),
                };
                self.moderated(now, (conn, number), &request, known);
            }
            Asked::Query { conn, number, request } => {
                let frame = self.told(conn, request, answer);
                self.reply(conn, number, frame);
                self.go_on(now, conn);
            }
            Asked::Verify(verifying) => {
                let slice = match answer {
                    Some(Answer::AuditVerified(slice)) => Some(slice),
                    _ => None,
                };
                self.verified_slice(now, verifying, slice);
            }
        }
    }

    pub(super) fn query(&mut self, now: Now, conn: ConnId, number: u64, request: &Request) {
        // Its session has ended, and what it asked before has only now arrived: it may be no member.
        if self.roster.of_conn(conn).is_none() {
            let frame = error("unavailable", "this session has ended", request.req_id.clone());
            return self.reply(conn, number, frame);
        }
        let question = match &request.verb {
            Verb::ListPeers => return self.list_peers(conn, number, request.req_id.clone()),
            Verb::MessageStatus { message_id } if !MessageId::is_prefix_shaped(message_id) => {
                let length = message_id.chars().count();
                let text = format!("messageId must be 8-32 base62 chars (got {length})");
                let frame = error("invalid_argument", &text, request.req_id.clone());
                return self.reply(conn, number, frame);
            }
            Verb::MessageStatus { message_id } => Question::Messages { prefix: message_id.clone() },
            Verb::ListBans => Question::Bans,
            Verb::AuditVerify => return self.verify(now, conn, number, request.req_id.clone()),
            Verb::AuditQuery { limit, offset, event_type } => {
                let lease = self.roster.of_conn(conn).and_then(|no| self.roster.get(no));
                let reader = lease.filter(|lease| !lease.record.moderator);
                Question::Audit(AuditQuery {
                    limit: limit.unwrap_or(AUDIT_DEFAULT_ROWS).clamp(1, AUDIT_ROWS),
                    offset: offset.unwrap_or(0),
                    event: event_type.clone().filter(|event| !event.is_empty()),
                    reader: reader.map(|lease| lease.record.member.clone()),
                })
            }
            _ => return,
        };
        self.stalled.entry(conn).or_default();
        self.ask(question, Asked::Query { conn, number, request: request.clone() });
    }

    /// A chain may be long: moderators alone have it walked, one at a time, from where this owner's
    /// last walk ended. A short one is walked from its beginning every time.
    fn verify(&mut self, now: Now, conn: ConnId, number: u64, req_id: Option<EchoId>) {
        let lease = self.roster.of_conn(conn).and_then(|no| self.roster.get(no));
        if !lease.is_some_and(|lease| lease.record.moderator) {
            let text = "only owner or admin can verify the audit chain";
            return self.reply(conn, number, error("forbidden", text, req_id));
        }
        if self.asked.values().any(|asked| matches!(asked, Asked::Verify(_))) {
            let text = "another verification is under way";
            return self.reply(conn, number, error("audit_verify_error", text, req_id));
        }
        if self.verified.entries <= VERIFIED_AGAIN {
            self.verified = Verified::default();
        }
        let since = now.mono;
        self.verify_next(Verifying { conn, number, req_id, since });
    }

    fn verify_next(&mut self, verifying: Verifying) {
        self.ask(Question::VerifyAudit(self.verified.clone()), Asked::Verify(verifying));
    }

    fn verified_slice(&mut self, now: Now, verifying: Verifying, slice: Option<VerifiedSlice>) {
        let Some(VerifiedSlice { so_far, broken_at, ended }) = slice else {
            let Verifying { conn, number, req_id, .. } = verifying;
            return self.reply(conn, number, error("audit_verify_error", NOT_NOW, req_id));
        };
        let (entries, valid) = (so_far.entries, broken_at.is_none());
        self.verified = so_far;
        let late = now.mono >= verifying.since + VERIFY_MS;
        if !ended && !late && self.roster.of_conn(verifying.conn).is_some() {
            return self.verify_next(verifying);
        }
        let Verifying { conn, number, req_id, .. } = verifying;
        let frame = if ended {
            Frame::AuditVerifyResult { valid, entries, broken_at, req_id }
        } else {
            let text =
                format!("{entries} entries are right so far: ask again to go on behind them");
            error("audit_verify_error", &text, req_id)
        };
        self.reply(conn, number, frame);
    }

    /// Hidden peers are hidden from other members.
    fn list_peers(&mut self, conn: ConnId, number: u64, req_id: Option<EchoId>) {
        let own = self.roster.of_conn(conn).and_then(|no| self.roster.get(no));
        let own = own.map(|lease| lease.record.member.clone());
        let seen =
            |lease: &&Lease| lease.record.visible || own.as_ref() == Some(&lease.record.member);
        let mut leases: Vec<_> = self.roster.iter().map(|(_, lease)| lease).filter(seen).collect();
        leases.sort_by_key(|lease| (lease.is_short_lived(), lease.record.connected_at));
        let peers = rows(leases.into_iter().map(Lease::rows));
        self.reply(conn, number, Frame::PeersList { peers, req_id });
    }

    fn told(&self, conn: ConnId, request: Request, answer: Option<Answer>) -> Frame {
        let Request { verb, req_id } = request;
        match (verb, answer) {
            (Verb::MessageStatus { message_id }, Some(Answer::Messages(found))) => {
                let found = found.into_iter().filter(|message| self.may_follow(conn, message));
                self.status(message_id, found.collect(), req_id)
            }
            (_, Some(Answer::Bans(bans))) => moderation::bans(bans, req_id),
            (_, Some(Answer::Audit(entries, total))) => {
                let entries = entries.into_iter().map(audit_entry).collect();
                Frame::AuditResult { entries, total, req_id }
            }
            (Verb::AuditQuery { .. }, _) => error("audit_query_error", NOT_NOW, req_id),
            (_, _) => error("unavailable", NOT_NOW, req_id),
        }
    }

    /// What becomes of a message concerns its sender, its recipients and moderators. To everybody else
    /// it does not exist: an id begins with a place in a sequence, which anybody can count.
    fn may_follow(&self, conn: ConnId, message: &StoredMessage) -> bool {
        let lease = self.roster.of_conn(conn).and_then(|no| self.roster.get(no));
        let Some(lease) = lease else { return false };
        let own = &lease.record.member;
        let theirs = |to: &Recipient| match to {
            Recipient::Member(member) => member == own,
            // Whoever names a key has not proven it.
            Recipient::Session(key) => {
                let mut holders = self.roster.addressed(key);
                holders.any(|(_, lease)| lease.record.proven && lease.record.member == *own)
            }
            presence @ Recipient::Presence(_) => {
                self.lease_of(presence).is_some_and(|lease| lease.record.member == *own)
            }
        };
        lease.record.moderator
            || message.sender == *own
            || message.members.contains(own)
            || message.recipients.iter().chain(&message.waiting).any(theirs)
    }

    fn status(&self, asked: String, found: Vec<StoredMessage>, req_id: Option<EchoId>) -> Frame {
        if found.len() > 1 {
            let text = format!("prefix matched {} messages — use a longer id", found.len());
            return error("ambiguous_prefix", &text, req_id);
        }
        let Some(message) = found.into_iter().next() else {
            return error("not_found", "message not found", req_id);
        };
        let recipients = message.recipients.iter().map(|to| self.recipient(&message, to));
        Frame::MessageStatusResult(MessageStatusResult {
            recipients: recipients.collect(),
            message_id: asked,
            delivered: message.delivered_at.is_some(),
            delivered_at: message.delivered_at.map(time::iso),
            target_spec: message.target,
            req_id,
        })
    }

    fn recipient(&self, message: &StoredMessage, to: &Recipient) -> server::Recipient {
        let lease = self.lease_of(to);
        // What waited for an ended presence waits for its member.
        let waiting = message.waiting.contains(to)
            || (lease.is_none() && message.delivered_at.is_none() && !message.waiting.is_empty());
        let status = match (waiting, lease) {
            _ if message.undeliverable => "undeliverable",
            (false, _) => "delivered",
            (true, Some(_)) => "held",
            (true, None) => "disconnected",
        };
        let pubkey = match (lease, to) {
            (Some(lease), _) => lease.record.pubkey().to_string(),
            (None, Recipient::Session(key)) => key.to_string(),
            (None, _) => message.target.chars().take(16).collect(),
        };
        let name = lease.map_or("unknown", |lease| &lease.record.name).to_owned();
        server::Recipient { name, pubkey, status }
    }

    fn lease_of(&self, recipient: &Recipient) -> Option<&Lease> {
        match recipient {
            Recipient::Presence(id) => self.roster.get(self.roster.of_presence(id)?),
            Recipient::Session(key) => self.roster.addressed(key).next().map(|(_, lease)| lease),
            Recipient::Member(id) => {
                self.roster.iter().map(|(_, lease)| lease).find(|lease| lease.record.member == *id)
            }
        }
    }
}

/// Rows of at most [`LIST_BYTES`] together: where they are more, those that take more than an equal
/// share are short.
fn rows<'a>(all: impl Iterator<Item = &'a (Row, Row)>) -> Vec<Row> {
    let all: Vec<_> = all.collect();
    let bytes = |row: &Row| row.as_str().len() + 1;
    let sum: usize = all.iter().map(|(whole, _)| bytes(whole)).sum();
    let share = LIST_BYTES / all.len().max(1);
    let pick = |(whole, short): &(Row, Row)| {
        let fits = sum <= LIST_BYTES || bytes(whole) <= share;
        if fits { whole.clone() } else { short.clone() }
    };
    all.into_iter().map(pick).collect()
}

fn identity(answer: Option<Answer>) -> Result<Option<Box<Identity>>, NoAnswer> {
    match answer {
        Some(Answer::Identity(identity)) => Ok(identity),
        _ => Err(NoAnswer),
    }
}

fn audit_entry(entry: AuditEntry) -> server::AuditEntry {
    let actor = entry.actor_name.or(entry.actor).unwrap_or_else(|| "system".to_owned());
    server::AuditEntry {
        id: entry.id,
        event_type: entry.event,
        actor: names::tidied(&actor),
        payload: entry.payload,
        hash: entry.hash,
        created_at: time::iso(entry.created_at),
    }
}

/// What a request is refused with.
pub(super) fn error(code: &str, message: &str, req_id: Option<EchoId>) -> Frame {
    Frame::Error(server::Error {
        code: code.to_owned(),
        message: message.to_owned(),
        // Some clients look for it there (protocol-core §1.2).
        id: req_id.clone(),
        req_id,
        broker_time: None,
    })
}
