//! One WebSocket as a check uses it: everything read is kept in order, so that a check can ask for
//! what came and for what did not.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::bench::Bench;
use super::expect::{Fault, Verdict, brief, ensure, has, is_event, is_message, text};
use super::persona::Persona;
use super::socket::{Ending, PATIENCE, Socket, farewell, open};

/// See the module.
pub(crate) struct Peer<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) who: Persona,
    /// The `hello_ack`, once there was one.
    pub(crate) greeting: Value,
    /// Frames read and not asked for yet, oldest first.
    pub(crate) inbox: Vec<Value>,
    /// Whether pushes are confirmed as they are read.
    pub(crate) confirms: bool,
    pub(crate) pongs: usize,
    socket: Option<Socket>,
    ending: Option<Ending>,
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.bench.retire(socket);
        }
    }
}

impl<'a> Peer<'a> {
    /// A socket without a hello.
    pub(crate) async fn unknown(bench: &'a Bench, who: Persona) -> Verdict<Self> {
        let socket = open(&bench.address, "/ws").await.map_err(Fault::Failed)?;
        Ok(Self::on(bench, who, socket))
    }

    /// A peer on a socket that is open already.
    pub(crate) fn on(bench: &'a Bench, who: Persona, socket: Socket) -> Self {
        Self {
            bench,
            who,
            greeting: Value::Null,
            inbox: Vec::new(),
            confirms: true,
            pongs: 0,
            socket: Some(socket),
            ending: None,
        }
    }

    /// A session that has been greeted.
    pub(crate) async fn session(bench: &'a Bench, who: Persona) -> Verdict<Self> {
        let hello = who.session_hello(bench.stamp());
        Self::greeted(bench, who, hello).await
    }

    /// A member's own connection that has been greeted.
    pub(crate) async fn member(bench: &'a Bench, who: Persona) -> Verdict<Self> {
        let hello = who.hello(bench.stamp());
        Self::greeted(bench, who, hello).await
    }

    /// Says this hello and waits for its `hello_ack`.
    pub(crate) async fn greeted(bench: &'a Bench, who: Persona, hello: Value) -> Verdict<Self> {
        let mut peer = Self::unknown(bench, who).await?;
        peer.say(hello).await?;
        peer.greet().await?;
        Ok(peer)
    }

    /// Waits for the `hello_ack`, which must be the first frame.
    pub(crate) async fn greet(&mut self) -> Verdict {
        let first = self.until("a hello_ack", |_| true).await?;
        has(&first, &json!({ "type": "hello_ack" }))?;
        self.greeting = first;
        Ok(())
    }

    /// What others send to: the session's key.
    pub(crate) fn key(&self) -> String {
        self.who.key()
    }

    // --- writing ---------------------------------------------------------------------------

    /// Writes a frame.
    pub(crate) async fn say(&mut self, frame: Value) -> Verdict {
        self.write(Message::text(frame.to_string())).await
    }

    /// Writes any message.
    pub(crate) async fn write(&mut self, message: Message) -> Verdict {
        let Some(socket) = &mut self.socket else { return Err(Fault::failed("socket closed")) };
        match timeout_at(Instant::now() + PATIENCE, socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::Failed(format!("writing: {error}"))),
            Err(_) => Err(Fault::failed("the broker does not read")),
        }
    }

    /// Asks with a `_reqId` and waits for the reply that has it.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Verdict<Value> {
        let req_id = self.bench.word("req");
        frame["_reqId"] = json!(req_id);
        let what = format!("a reply to {}", text(&frame, "type"));
        self.say(frame).await?;
        self.until(&what, |frame| frame["_reqId"] == *req_id).await
    }

    /// Is answered, so what was said before has been handled.
    pub(crate) async fn is_served(&mut self) -> Verdict {
        let reply = self.ask(json!({ "type": "list_peers" })).await?;
        has(&reply, &json!({ "type": "peers_list" }))
    }

    /// Sends with whatever `with` has beside, and waits for the ack.
    pub(crate) async fn send_with(&mut self, to: &str, body: &str, with: Value) -> Verdict<Value> {
        let id = self.launch(to, body, with).await?;
        self.until("an ack", |frame| frame["type"] == "ack" && frame["id"] == *id).await
    }

    /// Sends without waiting for the ack; gives the id it will carry.
    pub(crate) async fn launch(&mut self, to: &str, body: &str, with: Value) -> Verdict<String> {
        self.bench.afford(&self.who).await;
        let mut frame = json!({
            "type": "send", "id": self.bench.word("send"), "targetSpec": to,
            "nonce": "bm9uY2U=", "ciphertext": body,
        });
        if let Value::Object(with) = with {
            with.into_iter().for_each(|(key, value)| frame[key] = value);
        }
        let id = text(&frame, "id").to_owned();
        self.say(frame).await?;
        Ok(id)
    }

    /// Sends and is accepted; gives the message's id.
    pub(crate) async fn send(&mut self, to: &str, body: &str) -> Verdict<String> {
        let ack = self.send_with(to, body, json!({})).await?;
        has(&ack, &json!({ "queued": true, "error": null }))?;
        Ok(text(&ack, "messageId").to_owned())
    }

    /// Sends and is refused; gives the text.
    pub(crate) async fn refused(&mut self, to: &str, body: &str, with: Value) -> Verdict<String> {
        let ack = self.send_with(to, body, with).await?;
        has(&ack, &json!({ "queued": false, "messageId": "" }))?;
        let error = text(&ack, "error").to_owned();
        ensure(!error.is_empty(), || format!("no error in {}", brief(&ack)))?;
        Ok(error)
    }

    // --- reading ---------------------------------------------------------------------------

    /// The first frame that fits, read before or coming now. Others stay where they are.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Verdict<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            if let Some(at) = self.inbox[from..].iter().position(&fits) {
                return Ok(self.inbox.remove(from + at));
            }
            from = self.inbox.len();
            if let Some(Ending { code, reason }) = &self.ending {
                return Err(Fault::Failed(format!("closed {code} {reason}, no {what}")));
            }
            if !self.read(deadline).await {
                let last = self.inbox.last().map_or("nothing".to_owned(), brief);
                return Err(Fault::Failed(format!("no {what} in time; last came {last}")));
            }
        }
    }

    /// The message with this body.
    pub(crate) async fn message(&mut self, body: &str) -> Verdict<Value> {
        self.until("push", |frame| is_message(frame, body)).await
    }

    /// The system event of this name about the peer with this key.
    pub(crate) async fn event(&mut self, event: &str, key: &str) -> Verdict<Value> {
        self.until(event, |frame| is_event(frame, event, key)).await
    }

    /// Waits until the broker closes the socket.
    pub(crate) async fn ending(&mut self) -> Verdict<Ending> {
        let deadline = Instant::now() + PATIENCE;
        self.ending_by(deadline).await
    }

    /// Waits until then for the broker to close the socket.
    pub(crate) async fn ending_by(&mut self, deadline: Instant) -> Verdict<Ending> {
        loop {
            if let Some(ending) = &self.ending {
                return Ok(ending.clone());
            }
            if !self.read(deadline).await {
                return Err(Fault::failed("the socket was not closed in time"));
            }
        }
    }

    /// Waits for a close with this code and reason.
    pub(crate) async fn closed(&mut self, code: u16, reason: &str) -> Verdict {
        let ending = self.ending().await?;
        let same = ending.code == code && ending.reason == reason;
        ensure(same, || format!("closed {ending:?}, expected {code} {reason}"))
    }

    /// Closes the socket and waits until the broker has done so, too: the session is in grace.
    pub(crate) async fn leave(mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = timeout_at(Instant::now() + PATIENCE, farewell(socket)).await;
        }
    }

    /// Waits for the answer to a ping.
    pub(crate) async fn pong(&mut self) -> Verdict {
        let deadline = Instant::now() + PATIENCE;
        while self.pongs == 0 {
            ensure(self.read(deadline).await && self.ending.is_none(), || "no pong".to_owned())?;
        }
        Ok(())
    }

    /// Reads one message; false when the deadline has passed.
    async fn read(&mut self, deadline: Instant) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        let Ok(message) = timeout_at(deadline, socket.next()).await else { return false };
        match message {
            Some(Ok(Message::Text(frame))) => self.take(&frame).await,
            Some(Ok(Message::Pong(_))) => self.pongs += 1,
            Some(Ok(Message::Close(close))) => {
                let (code, reason) = close.map_or((1005, String::new()), |close| {
                    (u16::from(close.code), close.reason.to_string())
                });
                self.ending = Some(Ending { code, reason });
            }
            Some(Ok(_)) => {}
            None | Some(Err(_)) => {
                let lost = Ending { code: 1006, reason: String::new() };
                self.ending.get_or_insert(lost);
            }
        }
        true
    }

    async fn take(&mut self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).unwrap_or_else(|_| json!({ "raw": frame }));
        let confirm = self.confirms && frame["type"] == "push" && frame["subtype"] != "system";
        if confirm {
            let ack = json!({ "type": "client_ack", "brokerMessageId": frame["messageId"] });
            let _ = self.say(ack).await;
        }
        self.inbox.push(frame);
    }
}
