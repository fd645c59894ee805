//! Questions: who is here, what became of a message; and the store's answers to ours.

use protocol::client::MessageStatus;
use protocol::server::{self, Frame, MessageStatusResult};
use protocol::{MessageId, time};

use super::events;
use super::io::{Answer, ConnId, Now, Question, Ticket};
use super::roster::Lease;
use super::send::Undecided;
use super::state::Mesh;
use crate::model::{Identity, Recipient, StoredMessage};

/// What a ticket was drawn for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Who attaches.
    Identity(ConnId),
    /// Whether a send that is about to be refused was accepted before.
    Prior(Undecided),
    /// Whether a send's absent target is known.
    Target(Undecided),
    /// `message_status`.
    Status { conn: ConnId, number: u64, ask: MessageStatus },
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
            Asked::Prior(undecided) => {
                let prior = match answer {
                    Some(Answer::Accepted(prior)) => Ok(prior),
                    _ => Err(NoAnswer),
                };
                self.looked_up(now, undecided, prior);
            }
            Asked::Status { conn, number, ask } => {
                let frame = match answer {
                    Some(Answer::Messages(found)) => self.status(ask, found),
                    _ => error("unavailable", "the store cannot be asked now", ask.req_id),
                };
                self.reply(conn, number, frame);
            }
        }
    }

    pub(super) fn list_peers(&mut self, conn: ConnId, number: u64, req_id: Option<String>) {
        let mut leases: Vec<_> = self.roster.iter().map(|(_, lease)| lease).collect();
        leases.sort_by_key(|lease| lease.record.connected_at);
        let peers = leases.into_iter().map(events::peer).collect();
        self.reply(conn, number, Frame::PeersList { peers, req_id });
    }

    pub(super) fn message_status(&mut self, conn: ConnId, number: u64, ask: &MessageStatus) {
        if MessageId::is_prefix_shaped(&ask.message_id) {
            let question = Question::Messages { prefix: ask.message_id.clone() };
            self.ask(question, Asked::Status { conn, number, ask: ask.clone() });
        } else {
            let length = ask.message_id.chars().count();
            let text = format!("messageId must be 8-32 base62 chars (got {length})");
            self.reply(conn, number, error("invalid_argument", &text, ask.req_id.clone()));
        }
    }

    fn status(&self, ask: MessageStatus, found: Vec<StoredMessage>) -> Frame {
        if found.len() > 1 {
            let text = format!("prefix matched {} messages — use a longer id", found.len());
            return error("ambiguous_prefix", &text, ask.req_id);
        }
        let Some(message) = found.into_iter().next() else {
            return error("not_found", "message not found", ask.req_id);
        };
        let recipients = message.recipients.iter().map(|to| self.recipient(&message, to));
        Frame::MessageStatusResult(MessageStatusResult {
            recipients: recipients.collect(),
            message_id: ask.message_id,
            delivered: message.delivered_at.is_some(),
            delivered_at: message.delivered_at.map(time::iso),
            target_spec: message.target,
            req_id: ask.req_id,
        })
    }

    fn recipient(&self, message: &StoredMessage, to: &Recipient) -> server::Recipient {
        let lease = self.lease_of(to);
        // What waited for an ended presence waits for its member.
        let waiting = message.waiting.contains(to)
            || (lease.is_none() && message.delivered_at.is_none() && !message.waiting.is_empty());
        let status = match (waiting, lease) {
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

fn identity(answer: Option<Answer>) -> Result<Option<Box<Identity>>, NoAnswer> {
    match answer {
        Some(Answer::Identity(identity)) => Ok(identity),
        _ => Err(NoAnswer),
    }
}

fn error(code: &str, message: &str, req_id: Option<String>) -> Frame {
    Frame::Error(server::Error {
        code: code.to_owned(),
        message: message.to_owned(),
        // Some clients look for it there (protocol-core §1.2).
        id: req_id.clone(),
        req_id,
    })
}
