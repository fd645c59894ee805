//! One WebSocket, read and written by one task: frames are gathered both ways, so that a batch
//! costs one flush, and reading goes on while a write waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::Error;
use crate::wire::Incoming;

/// Resident for every connection, and enough for some twenty frames.
const READ_BUFFER: usize = 16 * 1024;
/// Frames taken in at once.
const BATCH: usize = 256;
/// Frames that may wait to be written before reading stops. Acks alone add up: one for each read.
const OUTBOX: usize = 4 * BATCH;
/// Opening a connection, and an answer to its hello: what clients allow, and then some.
const GREETING: Duration = Duration::from_secs(10);
/// For the closing handshake.
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) struct Pipe {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    outbox: VecDeque<String>,
    unflushed: bool,
}

impl Pipe {
    /// Connects and says hello; comes back once it is acknowledged.
    pub(crate) async fn open(url: &str, hello: String) -> Result<Self, Error> {
        let (mut pipe, _) = Self::connect(url).await?;
        pipe.greet(hello).await?;
        Ok(pipe)
    }

    /// Connects, and says which server a balancer in front chose, if there is one that tells
    /// (`x-served-by`).
    pub(crate) async fn connect(url: &str) -> Result<(Self, Option<String>), Error> {
        let failed = |why: String| Error::Connect { url: url.to_owned(), why };
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let connecting = connect_async_with_config(url, Some(config), true);
        let (socket, answer) = timeout(GREETING, connecting)
            .await
            .map_err(|_| failed("no answer".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        let server = answer.headers().get("x-served-by").and_then(|name| name.to_str().ok());
        let server = server.map(ToOwned::to_owned);
        Ok((Self { socket, outbox: VecDeque::new(), unflushed: false }, server))
    }

    /// Says hello; the text of the acknowledgement.
    pub(crate) async fn greet(&mut self, hello: String) -> Result<Utf8Bytes, Error> {
        self.outbox.push_back(hello);
        let greeted = timeout(GREETING, self.greeted()).await;
        greeted.map_err(|_| Error::Hello("no answer".to_owned()))?
    }

    async fn greeted(&mut self) -> Result<Utf8Bytes, Error> {
        loop {
            // One at a time: what follows the ack is for the caller.
            let text = std::future::poll_fn(|cx| self.poll_frame(cx)).await?;
            let Ok(frame) = serde_json::from_str::<Incoming<'_>>(&text) else { continue };
            match frame.kind.as_ref() {
                "hello_ack" => return Ok(text),
                "error" => return Err(Error::Hello(format!("{}: {}", frame.code, frame.message))),
                _ => {}
            }
        }
    }

    /// Queues a frame; it leaves with the next [`receive`](Self::receive).
    pub(crate) fn queue(&mut self, text: String) {
        self.outbox.push_back(text);
    }

    /// Writes what is queued, and reads nothing.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        let flushed = std::future::poll_fn(|cx| self.poll_write(cx)).await;
        flushed.map_err(|error| Error::Lost(error.to_string()))
    }

    /// Writes a ping.
    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        let written = self.socket.send(Message::Ping("ping".into())).await;
        written.map_err(|error| Error::Lost(error.to_string()))
    }

    /// Writes the beginning of a message, of so many bytes.
    pub(crate) async fn begin_message(&mut self, bytes: usize) -> Result<(), Error> {
        let text = OpCode::Data(Data::Text);
        let frame = Frame::message(vec![b' '; bytes], text, false);
        let written = self.socket.send(Message::Frame(frame)).await;
        written.map_err(|error| Error::Lost(error.to_string()))
    }

    /// Writes what is queued and waits for frames, which are added to `into`. Nothing is lost if
    /// the future is dropped.
    pub(crate) async fn receive(&mut self, into: &mut Vec<Utf8Bytes>) -> Result<(), Error> {
        std::future::poll_fn(|cx| {
            while into.len() < BATCH {
                match self.poll_frame(cx) {
                    Poll::Ready(Ok(text)) => into.push(text),
                    // What came before the end is worth having; the end is found again.
                    Poll::Ready(Err(_)) if !into.is_empty() => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if into.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Utf8Bytes, Error>> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(Error::Lost(error.to_string())));
            }
            if self.outbox.len() > OUTBOX {
                return Poll::Pending;
            }
            return Poll::Ready(match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => Ok(text),
                Some(Ok(Message::Close(close))) => Err(Error::Lost(close.map_or_else(
                    || "closed without a code".to_owned(),
                    |close| format!("closed {} {}", u16::from(close.code), close.reason),
                ))),
                Some(Ok(_)) => {
                    // A ping's pong waits in the socket for a flush.
                    self.unflushed = true;
                    continue;
                }
                Some(Err(error)) => Err(Error::Lost(error.to_string())),
                None => Err(Error::Lost("end of stream".to_owned())),
            });
        }
    }

    /// Ready when all is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.outbox.is_empty() {
            ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(text) = self.outbox.pop_front() {
                socket.as_mut().start_send(Message::text(text))?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            ready!(socket.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued and closes.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            while let Some(text) = self.outbox.pop_front() {
                self.socket.feed(Message::text(text)).await?;
            }
            self.socket.close(None).await?;
            // Until the broker has closed too: a socket full of unread frames would be reset, and
            // what was just written could be lost with it.
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<(), WsError>(())
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;

    /// A broker that pings, and pushes only once it has its pong.
    #[tokio::test]
    async fn a_ping_is_answered_while_waiting_for_frames() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let broker = async {
            let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
            socket.send(Message::text(r#"{"type":"hello_ack"}"#)).await.unwrap();
            socket.send(Message::Ping("nonce".into())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("nonce".into()));
            socket.send(Message::text("pushed")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("last words"));
            assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
        };
        let peer = async {
            let mut pipe = Pipe::open(&url, "hello".to_owned()).await.unwrap();
            let mut frames = Vec::new();
            pipe.receive(&mut frames).await.unwrap();
            assert_eq!(frames, ["pushed"]);
            pipe.queue("last words".to_owned());
            pipe.close().await;
        };
        tokio::join!(broker, peer);
    }

    #[tokio::test]
    async fn a_refused_hello_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let broker = async {
            let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
            let refusal = r#"{"type":"error","code":"capacity","message":"full"}"#;
            socket.send(Message::text(refusal)).await.unwrap();
        };
        let (opened, ()) = tokio::join!(Pipe::open(&url, "hello".to_owned()), broker);
        assert_eq!(opened.err().unwrap().to_string(), "hello refused: capacity: full");
    }
}
