//! The stream below a socket: what it bounds before a message is whole.
//!
//! The WebSocket library hands over whole messages and control frames only. So the bytes that come
//! are followed here, by the headers of their frames. Guarantees:
//!
//! * a peer cannot cut messages into small fragments without an end ([`Bound::Fragments`]);
//! * before its hello is accepted, a message is at most [`HELLO_BYTES`] ([`Bound::Hello`]);
//! * the bytes of all messages of a node that are not whole are bounded ([`Bound::Unfinished`]).
//!
//! How long a message may stay unfinished is the connection's to say; here is since when it is.
//! The largest message of an attached peer is checked by the library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use protocol::limits::HELLO_BYTES;
use protocol::{Close, close};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::session::{VERB_BURST, VERBS_PER_SECOND};

/// A fragment of a message with less than so many bytes counts as a verb, unless it is the last
/// one: larger ones pay with what they carry, and the last one makes a message, which is counted.
const SMALL: u64 = 128;

/// Bytes of an unfinished message that count for nothing: nearly all messages are smaller, and
/// 10,000 connections that each keep so much cost 160 MiB.
pub const UNFINISHED_FREE: usize = 16 * 1024;
/// Bytes beyond that of all unfinished messages of a node: thirty of the largest at once, or half
/// as many if they come in fragments, which are kept twice. Each is
/// in flight for a moment only, and a client that is refused retries.
pub const UNFINISHED_BYTES: usize = 64 * 1024 * 1024;
/// The part of it that messages before a hello may fill, so that outsiders leave room for peers.
pub const UNFINISHED_BEFORE_HELLO: usize = UNFINISHED_BYTES / 4;
/// It is taken in steps, so that few reads touch what all connections share.
const STEP: usize = 64 * 1024;

/// What a peer has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bound {
    #[error("too many small fragments of messages")]
    Fragments,
    #[error("a message too large before the hello")]
    Hello,
    #[error("too many bytes of unfinished messages at this node")]
    Unfinished,
}

impl Bound {
    /// The bound that ended a stream, if it was one of these.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|cause| cause.downcast_ref::<Self>()).copied()
    }

    /// How its connection is closed.
    pub(super) fn close(self) -> Close {
        match self {
            Self::Fragments => close::FLOOD,
            Self::Hello => close::FRAME_TOO_LARGE,
            Self::Unfinished => close::UNAVAILABLE,
        }
    }
}

/// Bytes of unfinished messages, of all connections of a node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    fn take(&self, bytes: usize, most: usize) -> bool {
        let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// What one connection has taken of [`Unfinished`]; given back when dropped.
#[derive(Debug)]
struct Share {
    all: Unfinished,
    bytes: usize,
}

impl Share {
    /// Grows for a message of which so many bytes have come, if there is room.
    fn hold(&mut self, come: u64, most: usize) -> bool {
        let come = usize::try_from(come).unwrap_or(usize::MAX);
        let Some(more) = come.saturating_sub(UNFINISHED_FREE).checked_sub(self.bytes) else {
            return true;
        };
        let more = more.div_ceil(STEP).saturating_mul(STEP);
        let taken = more == 0 || self.all.take(more, most);
        self.bytes += if taken { more } else { 0 };
        taken
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.all.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// See the module.
pub(super) struct Metered<S> {
    inner: S,
    frames: Frames,
    /// Fragments that may still come, times 1000, and since when.
    left: (u64, Instant),
    /// No hello has been accepted yet.
    greeting: bool,
    /// Since when a message has begun and is not whole.
    unfinished: Option<Instant>,
    share: Share,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, all: Unfinished) -> Self {
        Self {
            inner,
            frames: Frames::default(),
            left: (VERB_BURST * 1000, Instant::now()),
            greeting: true,
            unfinished: None,
            share: Share { all, bytes: 0 },
        }
    }

    /// The stream below, uncounted.
    pub(super) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// A hello was accepted: messages may be as large as the library lets them be.
    pub(super) fn greeted(&mut self) {
        self.greeting = false;
    }

    /// Since when a message is unfinished, if there is one.
    pub(super) fn unfinished_since(&self) -> Option<Instant> {
        self.unfinished
    }

    /// The peer could not finish its message until now: it has its whole time again.
    pub(super) fn wait_anew(&mut self) {
        self.unfinished = self.unfinished.map(|_| Instant::now());
    }

    fn afford(&mut self, fragments: u64) -> bool {
        let (left, since) = self.left;
        let now = Instant::now();
        let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let left = (VERB_BURST * 1000).min(left + ms.saturating_mul(VERBS_PER_SECOND));
        self.left = (left.saturating_sub(fragments * 1000), now);
        left >= fragments * 1000
    }

    /// These bytes have come.
    fn count(&mut self, bytes: &[u8]) -> Result<(), Bound> {
        let Come { small, whole } = self.frames.read(bytes);
        if small > 0 && !self.afford(small) {
            return Err(Bound::Fragments);
        }
        if whole {
            self.share.give_back();
        }
        if !self.frames.is_unfinished() {
            self.unfinished = None;
        } else if whole || self.unfinished.is_none() {
            self.unfinished = Some(Instant::now());
        }
        let most = if self.greeting { UNFINISHED_BEFORE_HELLO } else { UNFINISHED_BYTES };
        if self.share.hold(self.frames.kept(), most) { Ok(()) } else { Err(Bound::Unfinished) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Asked when more is wanted of a message, and not when its header comes: a hello may lie
        // before it in the same bytes, which the library would lose with an error.
        if self.greeting && self.frames.announced() > HELLO_BYTES as u64 {
            return Poll::Ready(Err(io::Error::other(Bound::Hello)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        Poll::Ready(self.count(&buf.filled()[before..]).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Follows the frames in a stream of bytes (RFC 6455 §5.2), by their headers.
#[derive(Default)]
struct Frames {
    /// What has come of a header.
    header: [u8; 14],
    len: usize,
    /// The frame whose header is complete, while its payload comes.
    frame: Option<Kind>,
    /// Bytes of its payload that have not come yet.
    payload: u64,
    /// A message has begun and its last frame has not ended.
    fragmented: bool,
    /// Bytes of the message that is not whole.
    message: u64,
    /// Bytes of its largest frame.
    largest: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Control,
    /// A frame of a message that others follow.
    Fragment,
    /// A whole message, or the end of one.
    Last,
}

/// What some bytes were.
#[derive(Debug, PartialEq, Eq)]
struct Come {
    /// So many small fragments began.
    small: u64,
    /// A message became whole, or a control frame outside of one.
    whole: bool,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) -> Come {
        let mut come = Come { small: 0, whole: false };
        loop {
            let here = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= here as u64;
            bytes = &bytes[here..];
            if self.frame.is_some_and(|kind| kind != Kind::Control) {
                self.message = self.message.saturating_add(here as u64);
            }
            if self.payload == 0
                && let Some(kind) = self.frame.take()
            {
                come.whole |= self.end(kind);
            }
            let Some((byte, rest)) = bytes.split_first() else { return come };
            bytes = rest;
            self.header[self.len] = *byte;
            self.len += 1;
            if let Some(payload) = payload(&self.header[..self.len]) {
                let kind = kind(self.header[0]);
                come.small += u64::from(kind == Kind::Fragment && payload < SMALL);
                (self.frame, self.payload, self.len) = (Some(kind), payload, 0);
                if kind != Kind::Control {
                    self.largest = self.largest.max(payload);
                }
            }
        }
    }

    /// A frame has ended; whether nothing is unfinished now.
    fn end(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::Control => {}
            Kind::Fragment => self.fragmented = true,
            Kind::Last => (self.fragmented, self.message, self.largest) = (false, 0, 0),
        }
        !self.fragmented
    }

    /// Whether something has begun that is not whole.
    fn is_unfinished(&self) -> bool {
        self.fragmented || self.frame.is_some() || self.len > 0
    }

    /// Bytes that the library keeps of it. Once a frame is over, it is copied, and the buffer in
    /// which it came stays.
    fn kept(&self) -> u64 {
        self.message.saturating_add(if self.fragmented { self.largest } else { 0 })
    }

    /// Bytes of the message that is not whole, with those that its present frame announces.
    fn announced(&self) -> u64 {
        let coming = if self.frame == Some(Kind::Control) { 0 } else { self.payload };
        self.message.saturating_add(coming)
    }
}

/// What kind of frame begins with this byte.
fn kind(first: u8) -> Kind {
    match (first & 0x0f, first & 0x80) {
        (8.., _) => Kind::Control,
        (_, 0) => Kind::Fragment,
        _ => Kind::Last,
    }
}

/// The length of a frame's payload, once its header is complete.
fn payload(header: &[u8]) -> Option<u64> {
    let (short, masked) = (header.get(1)? & 0x7f, header[1] & 0x80 != 0);
    let long = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let length = header.get(2..2 + long)?;
    header.get(..2 + long + if masked { 4 } else { 0 })?;
    let long = length.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some(if length.is_empty() { short.into() } else { long })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame, as clients send them.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(length) {
            Ok(short @ 0..126) => frame.push(0x80 | u8::try_from(short).unwrap()),
            Ok(medium) => {
                frame.push(0xfe);
                frame.extend(medium.to_be_bytes());
            }
            Err(_) => {
                frame.push(0xff);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(vec![0x01; length]);
        frame
    }

    #[test]
    fn small_fragments_are_counted_wherever_reads_cut_them() {
        // Whole messages, a ping and last fragments count for nothing, nor do large ones.
        let free =
            [(0x81, 5), (0x82, 0), (0x89, 3), (0x01, 128), (0x80, 0), (0x02, 70_000), (0x80, 1)];
        let small = [(0x01, 0), (0x00, 0), (0x00, 127), (0x80, 0), (0x02, 1), (0x00, 126)];
        let bytes = |frames: &[(u8, usize)]| {
            frames.iter().flat_map(|(first, length)| frame(*first, *length)).collect::<Vec<u8>>()
        };
        let (free, small) = (bytes(&free), bytes(&small));
        for step in [1, 2, 3, 7, 100, 4096, 1 << 20] {
            let mut frames = Frames::default();
            let mut count = |bytes: &[u8]| -> u64 {
                bytes.chunks(step).map(|bytes| frames.read(bytes).small).sum()
            };
            assert_eq!((count(&free), count(&small), count(&free)), (0, 5, 0), "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_small_fragments_fails_and_a_trickle_does_not() {
        let mut stream = Metered::new(tokio::io::empty(), Unfinished::default());
        assert!(stream.afford(VERB_BURST) && !stream.afford(1));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(stream.afford(VERBS_PER_SECOND) && !stream.afford(1));
    }

    #[test]
    fn a_message_is_unfinished_until_its_last_byte_wherever_reads_cut_it() {
        for step in [1, 2, 3, 7, 100, 4096, 1 << 20] {
            let mut frames = Frames::default();
            for (first, length, message) in
                [(0x89, 5, 0), (0x01, 300, 300), (0x8a, 4, 300), (0x00, 70_000, 70_300)]
            {
                for bytes in frame(first, length).chunks(step) {
                    frames.read(bytes);
                }
                let unfinished = message > 0;
                assert_eq!((frames.message, frames.is_unfinished()), (message, unfinished));
            }
            assert_eq!((frames.kept(), frames.announced()), (140_300, 70_300));
            let last = frame(0x80, 10);
            let come: Vec<_> = last.chunks(step).map(|bytes| frames.read(bytes).whole).collect();
            assert_eq!(come.iter().position(|whole| *whole), Some(come.len() - 1), "{step}");
            assert_eq!((frames.message, frames.is_unfinished()), (0, false), "{step}");
            frames.read(&frame(0x82, 1 << 20)[..20]);
            assert_eq!((frames.message, frames.announced()), (6, 1 << 20));
        }
    }

    #[test]
    fn unfinished_messages_share_what_there_is() {
        let all = Unfinished::default();
        let share = || Share { all: all.clone(), bytes: 0 };
        let held = || all.0.load(Ordering::Relaxed);
        let (mut one, mut other) = (share(), share());
        assert!(one.hold(UNFINISHED_FREE as u64, 0) && held() == 0);
        assert!(one.hold(UNFINISHED_FREE as u64 + 1, 2 * STEP) && held() == STEP);
        assert!(one.hold((UNFINISHED_FREE + STEP) as u64, STEP), "it has that already");
        assert!(other.hold((UNFINISHED_FREE + STEP) as u64, 2 * STEP));
        assert!(!one.hold((UNFINISHED_FREE + STEP) as u64 + 1, 2 * STEP) && held() == 2 * STEP);
        drop(other);
        assert!(one.hold((UNFINISHED_FREE + STEP) as u64 + 1, 2 * STEP));
        one.give_back();
        assert_eq!(held(), 0);
    }
}
