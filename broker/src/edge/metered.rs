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

use std::collections::HashMap;
use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use protocol::limits::HELLO_BYTES;
use protocol::{Close, MeshId, close};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::session::{VERB_BURST, VERBS_PER_SECOND};

/// A fragment of a message with less than so many bytes counts as a verb, unless it is the last
/// one: larger ones pay with what they carry, and the last one makes a message, which is counted.
const SMALL: u64 = 128;

/// Bytes of an unfinished message that count for nothing: nearly all messages are smaller, and
/// 10,000 connections that each keep so much cost 160 MiB.
pub const UNFINISHED_FREE: usize = 16 * 1024;
/// Bytes beyond that of all unfinished messages of a node, in frames of the largest size; half as many
/// if they come in fragments, which are kept twice. Each is in flight for a moment only, and a client
/// that is refused retries.
pub const UNFINISHED_FRAMES: usize = 8;
/// Of them those of one mesh, so that its members leave room for others; and those of all sockets
/// without a hello, so that outsiders leave room for peers.
pub const UNFINISHED_PART_FRAMES: usize = UNFINISHED_FRAMES / 4;
/// It is taken in steps, so that few reads touch what all connections share.
const STEP: usize = 64 * 1024;
/// Sockets of one mesh at a node whose refusal may wait: beyond them it comes at once.
const REFUSALS: usize = 128;
/// Bytes of one connection that are read before others have their turn.
const TURN: usize = 16 * 1024;

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

/// Bytes of unfinished messages, of all connections of a node, and of them those of each mesh and of
/// nobody yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unfinished(Arc<Node>);

#[derive(Debug)]
struct Node {
    all: AtomicUsize,
    outsiders: Arc<Part>,
    meshes: Mutex<HashMap<MeshId, Weak<Part>>>,
    largest: usize,
}

/// What the connections of one mesh have of a node's time and memory together.
#[derive(Debug)]
pub(super) struct Part {
    unfinished: AtomicUsize,
    /// Who sends without a pause is read in turns: as many of a mesh at once as there are processors.
    /// However many they are, others wait for one of them.
    pub(super) turns: Arc<Semaphore>,
    /// Places for refused hellos that wait for their answer.
    pub(super) refusals: Semaphore,
}

impl Part {
    fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            unfinished: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(processors)),
            refusals: Semaphore::new(REFUSALS),
        }
    }
}

impl Unfinished {
    /// Nothing is unfinished. `largest`: bytes of the largest frame.
    pub fn new(largest: usize) -> Self {
        Self(Arc::new(Node {
            all: AtomicUsize::new(0),
            outsiders: Arc::new(Part::new()),
            meshes: Mutex::default(),
            largest,
        }))
    }

    /// The part of a mesh.
    pub(super) fn of_mesh(&self, mesh: &MeshId) -> Arc<Part> {
        let mut meshes = self.0.meshes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = meshes.get(mesh).and_then(Weak::upgrade) {
            return part;
        }
        meshes.retain(|_, part| part.strong_count() > 0);
        let part = Arc::new(Part::new());
        meshes.insert(mesh.clone(), Arc::downgrade(&part));
        part
    }
}

fn take(count: &AtomicUsize, bytes: usize, most: usize) -> bool {
    let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// What one connection has taken of [`Unfinished`]; given back when dropped.
#[derive(Debug)]
struct Share {
    node: Unfinished,
    /// Its part: its mesh's, or the outsiders'.
    part: Arc<Part>,
    bytes: usize,
}

impl Share {
    fn new(node: Unfinished) -> Self {
        let part = node.0.outsiders.clone();
        Self { node, part, bytes: 0 }
    }

    /// Grows for a message of which so many bytes have come, if there is room.
    fn hold(&mut self, come: u64) -> bool {
        let come = usize::try_from(come).unwrap_or(usize::MAX);
        let Some(more) = come.saturating_sub(UNFINISHED_FREE).checked_sub(self.bytes) else {
            return true;
        };
        let more = more.div_ceil(STEP).saturating_mul(STEP);
        if more == 0 {
            return true;
        }
        let largest = self.node.0.largest;
        if !take(&self.part.unfinished, more, UNFINISHED_PART_FRAMES * largest) {
            return false;
        }
        if !take(&self.node.0.all, more, UNFINISHED_FRAMES * largest) {
            self.part.unfinished.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.part.unfinished.fetch_sub(bytes, Ordering::Relaxed);
            self.node.0.all.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// What it holds counts there from now on.
    fn move_to(&mut self, part: Arc<Part>) {
        part.unfinished.fetch_add(self.bytes, Ordering::Relaxed);
        self.part.unfinished.fetch_sub(self.bytes, Ordering::Relaxed);
        self.part = part;
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
    /// Bytes read since others had their turn.
    read: usize,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, all: Unfinished) -> Self {
        Self {
            inner,
            frames: Frames::default(),
            left: (VERB_BURST * 1000, Instant::now()),
            greeting: true,
            unfinished: None,
            share: Share::new(all),
            read: 0,
        }
    }

    /// The stream below, uncounted.
    pub(super) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// A hello was accepted: messages may be as large as the library lets them be, and count as their
    /// mesh's ([`Unfinished::of_mesh`]).
    pub(super) fn greeted(&mut self, part: Arc<Part>) {
        self.greeting = false;
        self.share.move_to(part);
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
        if self.share.hold(self.frames.kept()) { Ok(()) } else { Err(Bound::Unfinished) }
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
        if self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(cx, buf) else {
            self.read = 0;
            return Poll::Pending;
        };
        read?;
        self.read += buf.filled().len() - before;
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
        let mut stream = Metered::new(tokio::io::empty(), Unfinished::new(STEP));
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
        const PART: usize = UNFINISHED_PART_FRAMES * 16 * STEP;
        let node = Unfinished::new(16 * STEP);
        let share = |mesh: &str| {
            let mut share = Share::new(node.clone());
            share.move_to(node.of_mesh(&mesh.into()));
            share
        };
        let held = || node.0.all.load(Ordering::Relaxed);
        let mut one = share("red");
        assert!(one.hold(UNFINISHED_FREE as u64) && held() == 0);
        assert!(one.hold(UNFINISHED_FREE as u64 + 1) && held() == STEP);
        assert!(one.hold((UNFINISHED_FREE + STEP) as u64) && held() == STEP, "it has that already");
        // One mesh fills its part, and others find room.
        let mut other = share("red");
        let rest = (UNFINISHED_FREE + PART - STEP) as u64;
        assert!(other.hold(rest) && !other.hold(rest + 1) && held() == PART);
        assert!(!one.hold((UNFINISHED_FREE + STEP) as u64 + 1));
        let whole = (UNFINISHED_FREE + PART) as u64;
        let mut outsider = Share::new(node.clone());
        assert!(outsider.hold(UNFINISHED_FREE as u64 + 1));
        let mut others = ["blue", "green", "grey"].map(share);
        let held_by_others = others.each_mut().map(|share| share.hold(whole));
        assert_eq!(held_by_others, [true, true, false], "the outsider has taken a step");
        drop(other);
        assert!(one.hold((UNFINISHED_FREE + STEP) as u64 + 1));
        one.give_back();
        outsider.give_back();
        assert_eq!(held(), 2 * PART);
    }
}
