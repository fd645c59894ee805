//! A WebSocket as a test holds it: everything heard is kept until asked for, in order.

use std::collections::VecDeque;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SOON;

/// Frames a test may leave unread; none hears so many.
const INBOX: usize = 1 << 17;

/// How a socket ended: code and reason, unless it broke.
pub(crate) type Ended = Option<(u16, String)>;

/// What the reader does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Acks each push once it is in the inbox.
    Acks,
    /// Reads and says nothing.
    Reads,
    /// Does not even read.
    Stalls,
}

#[derive(Debug)]
enum Heard {
    Frame(Value),
    Ended(Ended),
}

/// One connection to a broker.
pub(crate) struct Socket {
    out: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Heard>,
    habit: watch::Sender<Habit>,
    /// Heard and not asked for yet.
    kept: VecDeque<Value>,
    ended: Option<Ended>,
    _work: JoinSet<()>,
}

impl Socket {
    /// Connects, and says nothing.
    pub(crate) async fn open(address: &str) -> Self {
        match Self::try_open(address).await {
            Ok(socket) => socket,
            Err(status) => panic!("the upgrade is refused with {status:?}"),
        }
    }

    /// The same, or the HTTP status of a refusal: none if the connection was closed at once.
    pub(crate) async fn try_open(address: &str) -> Result<Self, Option<u16>> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{address}/ws");
        let stream = match tokio_tungstenite::client_async(url, stream).await {
            Ok((stream, _)) => stream,
            Err(Error::Http(answer)) => return Err(Some(answer.status().as_u16())),
            Err(Error::Io(_) | Error::Protocol(ProtocolError::HandshakeIncomplete)) => {
                return Err(None);
            }
            Err(error) => panic!("the upgrade fails: {error}"),
        };
        let (sink, stream) = stream.split();
        let (out, outgoing) = mpsc::channel(INBOX);
        let (heard, inbox) = mpsc::channel(INBOX);
        let (habit, habits) = watch::channel(Habit::Acks);
        let mut work = JoinSet::new();
        work.spawn(write(sink, outgoing));
        work.spawn(read(stream, heard, out.clone(), habits));
        let kept = VecDeque::new();
        Ok(Self { out, inbox, habit, kept, ended: None, _work: work })
    }

    pub(crate) fn set_habit(&self, habit: Habit) {
        self.habit.send_replace(habit);
    }

    /// Writes a frame.
    pub(crate) async fn post(&self, frame: &Value) {
        self.post_text(&frame.to_string()).await;
    }

    /// Writes any text.
    pub(crate) async fn post_text(&self, text: &str) {
        self.post_message(Message::text(text)).await;
    }

    /// Writes anything. What cannot be written any more is lost, as on any network.
    pub(crate) async fn post_message(&self, message: Message) {
        let _ = self.out.send(message).await;
    }

    /// The next frame that `pick` wants; earlier ones stay for others.
    pub(crate) async fn take(&mut self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        match self.take_or_end(what, pick).await {
            Ok(frame) => frame,
            Err(ended) => panic!("ended with {ended:?} instead of {what}; heard {}", self.heard()),
        }
    }

    /// The same, or how the socket ended instead.
    pub(crate) async fn take_or_end(
        &mut self,
        what: &str,
        pick: impl Fn(&Value) -> bool,
    ) -> Result<Value, Ended> {
        if let Some(index) = self.kept.iter().position(&pick) {
            return Ok(self.kept.remove(index).unwrap());
        }
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let deadline = Instant::now() + SOON;
        loop {
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(Heard::Frame(frame))) if pick(&frame) => return Ok(frame),
                Ok(Some(Heard::Frame(frame))) => self.kept.push_back(frame),
                Ok(Some(Heard::Ended(ended))) => {
                    self.ended = Some(ended.clone());
                    return Err(ended);
                }
                Ok(None) => return Err(None),
                Err(late) => panic!("in vain ({late}): {what}; heard {}", self.heard()),
            }
        }
    }

    /// The next frame, whatever it is.
    pub(crate) async fn next_frame(&mut self) -> Value {
        self.take("any frame", |_| true).await
    }

    /// Waits for the socket's end; how it came.
    pub(crate) async fn ended(&mut self) -> Ended {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let deadline = Instant::now() + SOON;
        loop {
            match timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(Heard::Frame(frame))) => self.kept.push_back(frame),
                Ok(Some(Heard::Ended(ended))) => {
                    self.ended = Some(ended.clone());
                    return ended;
                }
                Ok(None) => return None,
                Err(late) => {
                    panic!("in vain ({late}): the end of the socket; heard {}", self.heard())
                }
            }
        }
    }

    /// Whether its end has been seen.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// How it ended, if that was said.
    pub(crate) async fn close_frame(&mut self) -> (u16, String) {
        let ended = self.ended().await;
        ended.unwrap_or_else(|| panic!("the socket broke; heard {}", self.heard()))
    }

    /// Ends the connection in order.
    pub(crate) async fn close(&mut self) {
        self.post_message(Message::Close(None)).await;
        self.ended().await;
    }

    /// Ends it without a word. What was heard before is answered.
    pub(crate) fn cut(self) -> VecDeque<Value> {
        let Self { mut inbox, mut kept, _work: work, .. } = self;
        drop(work);
        while let Ok(heard) = inbox.try_recv() {
            if let Heard::Frame(frame) = heard {
                kept.push_back(frame);
            }
        }
        kept
    }

    /// Puts frames of an earlier connection before those of this one.
    pub(crate) fn remember(&mut self, mut frames: VecDeque<Value>) {
        frames.append(&mut self.kept);
        self.kept = frames;
    }

    /// Everything heard so far that `pick` wants, without waiting.
    pub(crate) fn take_kept(&mut self, pick: impl Fn(&Value) -> bool) -> Vec<Value> {
        while let Ok(heard) = self.inbox.try_recv() {
            match heard {
                Heard::Frame(frame) => self.kept.push_back(frame),
                Heard::Ended(ended) => self.ended = Some(ended),
            }
        }
        let (taken, kept) = self.kept.drain(..).partition(|frame| pick(frame));
        self.kept = kept;
        let taken: VecDeque<Value> = taken;
        taken.into()
    }

    fn heard(&self) -> String {
        let frames = self.kept.iter().rev().take(5).map(|frame| {
            let text = frame.to_string();
            text.chars().take(300).collect::<String>()
        });
        let last: Vec<String> = frames.collect();
        format!("{} frames, the last: {last:#?}", self.kept.len())
    }
}

type Ws = WebSocketStream<TcpStream>;

async fn write(mut sink: SplitSink<Ws, Message>, mut outgoing: mpsc::Receiver<Message>) {
    while let Some(message) = outgoing.recv().await {
        let mut fine = sink.feed(message).await.is_ok();
        while fine && let Ok(message) = outgoing.try_recv() {
            fine = sink.feed(message).await.is_ok();
        }
        if !fine || sink.flush().await.is_err() {
            return;
        }
    }
}

async fn read(
    mut stream: SplitStream<Ws>,
    heard: mpsc::Sender<Heard>,
    out: mpsc::Sender<Message>,
    mut habits: watch::Receiver<Habit>,
) {
    let mut ended = None;
    loop {
        let Ok(habit) = habits.wait_for(|habit| *habit != Habit::Stalls).await.map(|h| *h) else {
            return;
        };
        let message = tokio::select! {
            biased;
            _ = habits.changed() => continue,
            message = stream.next() => message,
        };
        let frame = match message {
            Some(Ok(Message::Text(text))) => serde_json::from_str::<Value>(&text).unwrap(),
            Some(Ok(Message::Close(close))) => {
                ended = close.map(|close| (u16::from(close.code), close.reason.to_string()));
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => break,
        };
        let ack = (habit == Habit::Acks && is_envelope(&frame)).then(|| client_ack(&frame));
        if heard.send(Heard::Frame(frame)).await.is_err() {
            return;
        }
        if let Some(ack) = ack {
            let _ = out.send(Message::text(ack.to_string())).await;
        }
    }
    let _ = heard.send(Heard::Ended(ended)).await;
}

/// Whether a frame is a push of an envelope.
pub(crate) fn is_envelope(frame: &Value) -> bool {
    frame["type"] == "push" && frame["subtype"] != "system"
}

/// Whether a frame tells of peers.
pub(crate) fn is_event(frame: &Value) -> bool {
    frame["type"] == "push" && frame["subtype"] == "system"
}

/// What a client says once it keeps a push.
pub(crate) fn client_ack(push: &Value) -> Value {
    let broker = &push["messageId"];
    let client =
        if push["client_message_id"].is_string() { &push["client_message_id"] } else { broker };
    json!({"type": "client_ack", "clientMessageId": client, "brokerMessageId": broker})
}
