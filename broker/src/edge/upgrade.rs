//! The WebSocket handshake (RFC 6455 §4.2), and the stream below a socket.
//!
//! What reads messages never hears of the pieces they come in: a peer could send pieces without an
//! end and cost the node its time without ever sending a message that counts. So the stream counts
//! pieces, and fails when there are too many small ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::session::{VERB_BURST, VERBS_PER_SECOND};

/// A piece of a message with less than so many bytes counts as a verb, unless it is the last one:
/// larger ones pay with what they carry, and the last one makes a message, which is counted.
const SMALL: u64 = 128;

/// A connection as its task holds it.
pub(super) type Socket = WebSocketStream<Metered<TokioIo<Upgraded>>>;

/// A request to become a WebSocket.
pub(super) struct Upgrade {
    accept: String,
    upgrade: OnUpgrade,
}

impl Upgrade {
    /// What the request asks for, if it is a handshake.
    pub(super) fn of(parts: &mut Parts) -> Option<Self> {
        let asked = parts.method == Method::GET
            && names(&parts.headers, &header::CONNECTION, "upgrade")
            && names(&parts.headers, &header::UPGRADE, "websocket")
            && names(&parts.headers, &header::SEC_WEBSOCKET_VERSION, "13");
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
        let accept = derive_accept_key(key.as_bytes());
        Some(Self { accept, upgrade: parts.extensions.remove::<OnUpgrade>()? })
    }

    /// The answer to the request.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }

    /// The socket, once the answer has been written; nothing if the peer has gone meanwhile.
    pub(super) async fn socket(self, config: WebSocketConfig) -> Option<Socket> {
        let stream = Metered::new(TokioIo::new(self.upgrade.await.ok()?));
        Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
    }
}

/// Whether a header has this word in its list.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// Too many small pieces of messages.
#[derive(Debug, thiserror::Error)]
#[error("too many small pieces of messages")]
pub(super) struct Pieces;

impl Pieces {
    /// Whether it was these that ended a stream.
    pub(super) fn ended(error: &io::Error) -> bool {
        error.get_ref().and_then(|cause| cause.downcast_ref::<Self>()).is_some()
    }
}

/// A stream that fails with [`Pieces`] when its peer cuts messages too small: as many as verbs are
/// allowed, as often.
pub(super) struct Metered<S> {
    inner: S,
    frames: Frames,
    /// Pieces that may still come, times 1000, and since when.
    left: (u64, Instant),
}

impl<S> Metered<S> {
    fn new(inner: S) -> Self {
        Self { inner, frames: Frames::default(), left: (VERB_BURST * 1000, Instant::now()) }
    }

    /// The stream below, uncounted.
    pub(super) fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    fn afford(&mut self, pieces: u64) -> bool {
        let (left, since) = self.left;
        let now = Instant::now();
        let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let left = (VERB_BURST * 1000).min(left + ms.saturating_mul(VERBS_PER_SECOND));
        self.left = (left.saturating_sub(pieces * 1000), now);
        left >= pieces * 1000
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let pieces = self.frames.small_pieces(&buf.filled()[before..]);
        if pieces > 0 && !self.afford(pieces) {
            return Poll::Ready(Err(io::Error::other(Pieces)));
        }
        Poll::Ready(Ok(()))
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
    /// Bytes of the payload that have not come yet.
    payload: u64,
}

impl Frames {
    /// How many small pieces that are not the last of their message begin in these bytes.
    fn small_pieces(&mut self, mut bytes: &[u8]) -> u64 {
        let mut small = 0;
        loop {
            let here = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= here as u64;
            bytes = &bytes[here..];
            let Some((byte, rest)) = bytes.split_first() else { return small };
            bytes = rest;
            self.header[self.len] = *byte;
            self.len += 1;
            if let Some(payload) = payload(&self.header[..self.len]) {
                let (last, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0f);
                small += u64::from(!last && opcode < 8 && payload < SMALL);
                (self.payload, self.len) = (payload, 0);
            }
        }
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
    fn small_pieces_are_counted_wherever_reads_cut_them() {
        // Whole messages, a ping and last pieces count for nothing, nor do large pieces.
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
                bytes.chunks(step).map(|bytes| frames.small_pieces(bytes)).sum()
            };
            assert_eq!((count(&free), count(&small), count(&free)), (0, 5, 0), "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_small_pieces_fails_and_a_trickle_does_not() {
        let mut stream = Metered::new(tokio::io::empty());
        assert!(stream.afford(VERB_BURST) && !stream.afford(1));
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(stream.afford(VERBS_PER_SECOND) && !stream.afford(1));
    }
}
