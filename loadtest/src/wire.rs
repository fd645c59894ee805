//! Frames as the generator reads and writes them: as little JSON as it takes.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;

/// Characters a [`Mark`] takes at the front of a ciphertext. All are hex digits, and a multiple of
/// four, so the whole stays base64.
pub(crate) const MARK_CHARS: usize = 48;

/// Filler that bodies start in at different places, so that no two neighbours are alike.
const FILLER_OFFSETS: usize = 4096;

/// Who, to whom, which and when: written into every ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Tells runs apart.
    pub(crate) run: u32,
    pub(crate) sender: u32,
    pub(crate) recipient: u32,
    /// Which one of this sender to this recipient.
    pub(crate) counter: u32,
    /// From when its latency counts, in microseconds of the run.
    pub(crate) origin: u64,
}

impl Mark {
    fn write(&self, out: &mut String) {
        let Self { run, sender, recipient, counter, origin } = self;
        // Writing into a String cannot fail.
        let _ = write!(out, "{run:08x}{sender:08x}{recipient:08x}{counter:08x}{origin:016x}");
    }

    /// Reads a ciphertext; nothing if it is of someone else.
    pub(crate) fn read(ciphertext: &str) -> Option<Self> {
        let word = |at: usize| u32::from_str_radix(ciphertext.get(at..at + 8)?, 16).ok();
        Some(Self {
            run: word(0)?,
            sender: word(8)?,
            recipient: word(16)?,
            counter: word(24)?,
            origin: u64::from_str_radix(ciphertext.get(32..MARK_CHARS)?, 16).ok()?,
        })
    }
}

/// Writes sends of one size.
#[derive(Clone)]
pub(crate) struct Composer {
    filler: Arc<str>,
    payload: usize,
}

impl Composer {
    /// Bodies of `payload` characters, random-looking by `seed`.
    pub(crate) fn new(payload: usize, seed: u64) -> Self {
        const BASE64: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut state = seed | 1;
        let filler = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(BASE64[(state >> 58) as usize])
        });
        Self { filler: filler.take(payload + FILLER_OFFSETS).collect::<String>().into(), payload }
    }

    /// A `send`. The same arguments give the same text, as a retry must.
    pub(crate) fn send(&self, number: u32, target: &str, mark: &Mark) -> String {
        let mut text = String::with_capacity(self.payload + 320);
        let id = Id { run: mark.run, sender: mark.sender, number };
        let offset = number.wrapping_mul(61) as usize % FILLER_OFFSETS;
        let (nonce, body) = self.filler[offset..].split_at(32.min(self.payload));
        let body = &body[..(self.payload - MARK_CHARS).min(body.len())];
        let _ = write!(
            text,
            r#"{{"type":"send","id":"{id}","targetSpec":"{target}","priority":"next","nonce":"{nonce}","ciphertext":""#
        );
        mark.write(&mut text);
        let _ = write!(text, r#"{body}","client_message_id":"{id}"}}"#);
        text
    }
}

/// A short `send`, with any priority, and perhaps without the id that makes a retry safe.
pub(crate) fn write_send(
    number: u32,
    target: &str,
    priority: &str,
    retryable: bool,
    mark: &Mark,
) -> String {
    let id = Id { run: mark.run, sender: mark.sender, number };
    let mut text = String::with_capacity(320);
    let _ = write!(
        text,
        r#"{{"type":"send","id":"{id}","targetSpec":"{target}","priority":"{priority}","nonce":"bm9uY2U=","ciphertext":""#
    );
    mark.write(&mut text);
    text.push('"');
    if retryable {
        let _ = write!(text, r#","client_message_id":"{id}""#);
    }
    text.push('}');
    text
}

/// A message's id, the same at every attempt.
struct Id {
    run: u32,
    sender: u32,
    number: u32,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "load-{:08x}-{}-{}", self.run, self.sender, self.number)
    }
}

/// The message's number, from its id.
pub(crate) fn number(id: &str) -> Option<u32> {
    id.strip_prefix("load-")?.rsplit_once('-')?.1.parse().ok()
}

/// A `client_ack` of a push.
pub(crate) fn client_ack(push: &Incoming<'_>) -> String {
    let (broker, client) = (&push.message_id, &push.client_message_id);
    let client = if client.is_empty() { broker } else { client };
    format!(r#"{{"type":"client_ack","clientMessageId":"{client}","brokerMessageId":"{broker}"}}"#)
}

/// Any frame of a broker: what of it matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow, default, rename = "messageId")]
    pub(crate) message_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) client_message_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) ciphertext: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) subtype: Cow<'a, str>,
    /// Of an `ack`.
    #[serde(default)]
    pub(crate) error: Option<String>,
    /// Of an `error`.
    #[serde(borrow, default)]
    pub(crate) code: Cow<'a, str>,
    /// Of an `error`.
    #[serde(borrow, default)]
    pub(crate) message: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use protocol::client::{self, Frame};

    use super::*;

    const MARK: Mark =
        Mark { run: 0xdead_beef, sender: 3, recipient: 70_000, counter: 12, origin: 1 << 40 };

    #[test]
    fn a_send_is_valid_has_the_size_asked_for_and_carries_its_mark() {
        for payload in [MARK_CHARS, 64, 512, 60_000] {
            let text = Composer::new(payload, 1).send(4_000_000_000, "k", &MARK);
            let Ok(Frame::Send(send)) = client::parse(&text) else { panic!("{text}") };
            assert_eq!(send.ciphertext.len(), payload);
            assert_eq!(Mark::read(&send.ciphertext), Some(MARK));
            let id = send.id.as_ref().and_then(protocol::EchoId::as_text).unwrap();
            assert_eq!(Some(id), send.client_message_id.as_deref());
            assert_eq!(number(id), Some(4_000_000_000));
        }
    }

    #[test]
    fn a_short_send_has_an_id_to_dedupe_by_only_if_asked() {
        for retryable in [true, false] {
            let text = write_send(7, "k", "low", retryable, &MARK);
            let Ok(Frame::Send(send)) = client::parse(&text) else { panic!("{text}") };
            assert_eq!(Mark::read(&send.ciphertext), Some(MARK));
            let id = send.id.as_ref().and_then(protocol::EchoId::as_text).unwrap();
            assert_eq!(number(id), Some(7));
            assert_eq!(send.client_message_id.is_some(), retryable);
        }
    }

    #[test]
    fn a_retry_is_the_same_text_and_neighbours_differ() {
        let composer = Composer::new(512, 7);
        assert_eq!(composer.send(1, "k", &MARK), composer.send(1, "k", &MARK));
        assert_ne!(composer.send(1, "k", &MARK)[400..], composer.send(2, "k", &MARK)[400..]);
    }

    #[test]
    fn texts_of_others_carry_no_mark() {
        for text in ["", "deadbeef", &"g".repeat(MARK_CHARS), &"é".repeat(MARK_CHARS)] {
            assert_eq!(Mark::read(text), None);
        }
        assert_eq!(number("load-00000000-1-x"), None);
    }

    #[test]
    fn a_client_ack_names_both_ids() {
        let push =
            r#"{"type":"push","messageId":"m","client_message_id":"c","eventData":{"a":[1]}}"#;
        let Ok(Frame::ClientAck(ack)) =
            client::parse(&client_ack(&serde_json::from_str(push).unwrap()))
        else {
            panic!("a client_ack")
        };
        assert_eq!(ack.client_message_id.as_deref(), Some("c"));
        assert_eq!(ack.broker_message_id.as_deref(), Some("m"));
    }
}
