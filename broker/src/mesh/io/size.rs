//! What things hold in memory, near enough to bound windows, links and outboxes with. Sizes are taken
//! from what is encoded, so that a field which is added counts by itself.

use protocol::EchoId;
use protocol::server::{Frame, bytes_of};

use super::{Command, ToEdge};

/// An answer of so many bytes is long. A connection waits for one such answer at a time, and a link
/// carries one at a time.
pub const LONG_ANSWER: usize = 32 * 1024;

/// What an item holds beside what is encoded of it.
const FRAMING: usize = 256;

impl Command {
    /// Bytes it holds in memory, near enough to bound windows with.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => {
                let ids = [
                    &send.client_message_id,
                    &send.request_fingerprint,
                    &send.reply_to_id,
                    &send.offline,
                ];
                let ids = ids.into_iter().flatten().map(String::len);
                let mentions = send.mentions.iter().flatten().map(|name| name.len() + 24);
                let body = send.ciphertext.len() + send.nonce.len() + send.target_spec.len();
                let echo = send.id.as_ref().map_or(0, echo_bytes);
                FRAMING + echo + body + ids.chain(mentions).sum::<usize>()
            }
            Self::Attach(attach) => FRAMING + bytes_of(attach),
            Self::Request(request) => FRAMING + bytes_of(request),
            Self::Detach { next, .. } => FRAMING + bytes_of(next),
            Self::ClientAck(_) | Self::Unknown => FRAMING,
        }
    }
}

impl ToEdge {
    /// Bytes it holds in memory, near enough to bound an outbox with. Of a long answer's, most may be
    /// shared with others.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Push { envelope, .. } => envelope.bytes(),
            Self::Result { frame: Some(frame), .. }
            | Self::Refused { frame: Some(frame), .. }
            | Self::Attached { frame, .. } => FRAMING + reply_bytes(frame),
            Self::Event(frame) => FRAMING + frame.json_bytes(),
            _ => FRAMING,
        }
    }

    /// Whether it is a [`LONG_ANSWER`].
    pub fn is_long_answer(&self) -> bool {
        matches!(self, Self::Result { frame: Some(_), .. }) && self.bytes() >= LONG_ANSWER
    }
}

/// Numbers and booleans are short.
fn echo_bytes(id: &EchoId) -> usize {
    id.as_text().map_or(24, str::len)
}

/// The hot path has acks, which need not be encoded to know how long they are.
fn reply_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Ack(ack) => echo_bytes(&ack.id) + ack.error.as_ref().map_or(0, String::len),
        _ => frame.json_bytes(),
    }
}
