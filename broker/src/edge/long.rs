//! Long answers, written past the WebSocket library: it would copy each into the buffer of its socket,
//! where a peer that does not read would keep it. What waits for such a peer is what others have too,
//! and one buffer.

use std::io;
use std::time::Duration;

use protocol::server::Text;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Short pieces are gathered to so many bytes.
const BUFFER: usize = 16 * 1024;
/// Bytes written at once. Others come between.
const CHUNK: usize = 64 * 1024;

/// Writes a text as one unmasked frame, as a server does (RFC 6455 §5.2). Before it, whatever the
/// library has must have been flushed. Each chunk may take `patience`.
///
/// # Errors
/// Those of the stream; `TimedOut` if a chunk was not taken in time.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    text: &Text,
    patience: Duration,
) -> io::Result<()> {
    let header = FrameHeader {
        is_final: true,
        opcode: OpCode::Data(Data::Text),
        mask: None,
        ..FrameHeader::default()
    };
    let mut head = Vec::with_capacity(10);
    header.format(text.len() as u64, &mut head).map_err(io::Error::other)?;
    let mut out = BufWriter::with_capacity(BUFFER, stream);
    let pieces = std::iter::once(&head[..]).chain(text.pieces().map(str::as_bytes));
    for chunk in pieces.flat_map(|piece| piece.chunks(CHUNK)) {
        timeout(patience, out.write_all(chunk)).await??;
        yield_now().await;
    }
    timeout(patience, out.flush()).await?
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use protocol::server::{Frame, Row};
    use tokio::io::duplex;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn a_long_answer_is_one_message() {
        for count in [0, 3, 400] {
            let rows = (0..count).map(|n| Row::of(&"x".repeat(n * 10))).collect();
            let frame = Frame::PeersList { peers: rows, req_id: Some("r".into()) };
            let (mut ours, theirs) = duplex(1024);
            let text = frame.text();
            let writing = async { write(&mut ours, &text, Duration::from_secs(9)).await };
            let reading = async {
                let mut peer = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
                peer.next().await.unwrap().unwrap()
            };
            let (written, message) = tokio::join!(writing, reading);
            written.unwrap();
            assert_eq!(message.into_text().unwrap().as_str(), frame.to_json());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut ours, _theirs) = duplex(1024);
        let text = Text::Whole("x".repeat(100_000));
        let error = write(&mut ours, &text, Duration::from_secs(9)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
