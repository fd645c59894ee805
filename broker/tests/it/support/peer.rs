//! Peers as clients make them: an identity, a way of saying hello, a connection that may be cut
//! and made again.

use std::collections::{HashSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use protocol::canonical;
use protocol::signature::Keypair;
use serde_json::{Value, json};

use super::node::{Kind, Member, Mesh, Node};
use super::socket::{Habit, Socket, is_envelope, is_event};
use super::until;

/// An attestation of these tests lasts so long, in milliseconds.
pub(crate) const ATTESTED_MS: i64 = 3_600_000;

impl Mesh {
    /// What the invite link carries.
    pub(crate) fn invite_token(&self) -> &str {
        self.invite_url.rsplit('/').next().unwrap()
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        self.members.iter().find(|member| member.name == name).expect("such a member")
    }
}

/// Milliseconds since the Unix epoch, never the same twice: a signature is accepted once.
pub(crate) fn timestamp() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    let before = LAST.fetch_max(now, Ordering::SeqCst);
    if before < now { now } else { LAST.fetch_add(1, Ordering::SeqCst) + 1 }
}

/// A key nobody has.
pub(crate) fn fresh_key() -> Keypair {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    Keypair::from_seed(&seed)
}

/// A number nobody has.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How a peer says hello. Each frame is signed anew.
#[derive(Clone)]
pub(crate) struct Hello {
    pub(crate) mesh: String,
    pub(crate) member: Member,
    /// A session's own key, proven.
    pub(crate) session: Option<Keypair>,
    /// Overrides the other fields.
    pub(crate) fields: Value,
}

impl Hello {
    /// As a member's own connection.
    pub(crate) fn member(mesh: &Mesh, name: &str) -> Self {
        let number = number();
        let fields = json!({
            "sessionId": format!("daemon-{number}"),
            "pid": number,
            "cwd": "/home/test",
            "hostname": "testhost",
            "channel": "claudemesh-daemon",
            "peerType": "ai",
        });
        Self { mesh: mesh.id.clone(), member: mesh.member(name).clone(), session: None, fields }
    }

    /// As a session of that member, with a key of its own.
    pub(crate) fn session(mesh: &Mesh, name: &str) -> Self {
        let hello = Self::member(mesh, name);
        let fields = json!({
            "sessionId": format!("session-{}", number()),
            "channel": "claudemesh-session",
            "displayName": name,
        });
        Self { session: Some(fresh_key()), ..hello }.with(&fields)
    }

    /// With these fields as well; `null` takes one away.
    pub(crate) fn with(mut self, fields: &Value) -> Self {
        for (name, value) in fields.as_object().unwrap() {
            self.fields[name] = value.clone();
        }
        self
    }

    /// The key others address it by.
    pub(crate) fn pubkey(&self) -> String {
        match (&self.session, self.fields["sessionPubkey"].as_str()) {
            (Some(key), _) => key.public_hex(),
            (None, Some(key)) => key.to_owned(),
            (None, None) => self.member.pubkey.clone(),
        }
    }

    /// The frame, signed now.
    pub(crate) fn frame(&self) -> Value {
        self.frame_at(timestamp())
    }

    /// The frame, signed at another time.
    pub(crate) fn frame_at(&self, at: i64) -> Value {
        let mut frame = match &self.session {
            None => self.member_frame(at),
            Some(session) => self.session_frame(session, at),
        };
        merge(&mut frame, &self.fields);
        frame
    }

    fn member_frame(&self, at: i64) -> Value {
        let Member { id, pubkey, key, .. } = &self.member;
        let signature = key.sign(&canonical::hello(&self.mesh, id, pubkey, at));
        json!({
            "type": "hello", "meshId": self.mesh, "memberId": id, "pubkey": pubkey,
            "timestamp": at, "signature": signature,
        })
    }

    fn session_frame(&self, session: &Keypair, at: i64) -> Value {
        let Member { id, pubkey, .. } = &self.member;
        let own = session.public_hex();
        let signature = session.sign(&canonical::session_hello(&self.mesh, pubkey, &own, at));
        json!({
            "type": "session_hello", "meshId": self.mesh, "parentMemberId": id,
            "parentMemberPubkey": pubkey, "sessionPubkey": own,
            "parentAttestation": attestation(&self.member, &own, at + ATTESTED_MS),
            "timestamp": at, "signature": signature,
        })
    }
}

/// A member's word for a session's key.
pub(crate) fn attestation(member: &Member, session: &str, expires_at: i64) -> Value {
    let text = canonical::session_attestation(&member.pubkey, session, expires_at);
    json!({
        "sessionPubkey": session, "parentMemberPubkey": member.pubkey,
        "expiresAt": expires_at, "signature": member.key.sign(&text),
    })
}

fn merge(into: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            into[name] = value.clone();
        }
    }
}

/// What a `send` may be addressed to.
pub(crate) trait Target {
    fn spec(&self) -> String;
}

impl Target for TestPeer {
    fn spec(&self) -> String {
        self.hello.pubkey()
    }
}

impl Target for str {
    fn spec(&self) -> String {
        self.to_owned()
    }
}

impl Target for String {
    fn spec(&self) -> String {
        self.clone()
    }
}

/// The answer to a `send`.
#[derive(Debug)]
pub(crate) struct Ack(pub(crate) Value);

impl Ack {
    /// The message's id: it was accepted.
    pub(crate) fn acknowledged(&self) -> String {
        assert!(self.0["queued"] == true && self.0["error"].is_null(), "refused: {}", self.0);
        self.0["messageId"].as_str().unwrap().to_owned()
    }

    /// Why it was not accepted.
    pub(crate) fn refused(&self) -> &str {
        assert!(self.0["queued"] == false && self.0["messageId"] == "", "accepted: {}", self.0);
        self.0["error"].as_str().unwrap()
    }
}

/// A `send`, complete; the text is its ciphertext, its client's id and its `id`.
pub(crate) fn envelope(to: &(impl Target + ?Sized), text: &str) -> Value {
    json!({
        "type": "send", "id": text, "targetSpec": to.spec(), "priority": "next",
        "nonce": "bm9uY2U=", "ciphertext": text, "client_message_id": text,
    })
}

/// A peer at home in a mesh. Derefs to its present connection.
pub(crate) struct TestPeer {
    pub(crate) hello: Hello,
    /// What the last hello was answered.
    pub(crate) hello_ack: Value,
    address: String,
    habit: Habit,
    /// Taken while there is no connection.
    socket: Option<Socket>,
    heard: VecDeque<Value>,
    /// Messages that were taken and acked.
    acked: HashSet<String>,
    /// Whether the broker may not know of those acks: P2 lets it push such a message again.
    unsettled: Arc<AtomicBool>,
    /// Likewise: the last of them may have been lost with a connection.
    cut: bool,
    /// The test has seen that it does know.
    settled: bool,
}

impl Deref for TestPeer {
    type Target = Socket;
    fn deref(&self) -> &Socket {
        self.socket.as_ref().expect("the peer is connected")
    }
}

impl DerefMut for TestPeer {
    fn deref_mut(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the peer is connected")
    }
}

impl TestPeer {
    /// A session of `name` that acks what it keeps.
    pub(crate) async fn session(node: &Node, mesh: &Mesh, name: &str) -> Self {
        Self::join(node, Hello::session(mesh, name)).await
    }

    /// The member's own connection.
    pub(crate) async fn member(node: &Node, mesh: &Mesh, name: &str) -> Self {
        Self::join(node, Hello::member(mesh, name)).await
    }

    pub(crate) async fn join(node: &Node, hello: Hello) -> Self {
        Self::join_as(node, hello, Habit::Acks).await
    }

    pub(crate) async fn join_as(node: &Node, hello: Hello, habit: Habit) -> Self {
        let mut peer = Self {
            hello,
            hello_ack: Value::Null,
            address: node.address(),
            habit,
            socket: None,
            heard: VecDeque::new(),
            acked: HashSet::new(),
            unsettled: node.unsettled(),
            cut: false,
            settled: false,
        };
        peer.reconnect().await;
        peer
    }

    /// Ends the connection, if there is one, makes another, and says hello again. The broker has
    /// heard of the end first, unless the peer does not read.
    pub(crate) async fn reconnect(&mut self) {
        if self.socket.is_some() && self.habit != Habit::Stalls {
            self.close().await;
        }
        self.take_over().await;
    }

    /// Comes back as clients do: refused because the store did not answer in time, it tries again.
    pub(crate) async fn come_back(&mut self) {
        until("the hello is accepted", async || match self.try_take_over().await {
            Ok(()) => true,
            Err(first) => {
                assert_eq!(first["code"], "unavailable", "{first}");
                false
            }
        })
        .await;
    }

    /// Connects again while the broker may believe in the connection before.
    pub(crate) async fn take_over(&mut self) {
        self.try_take_over().await.unwrap();
    }

    async fn try_take_over(&mut self) -> Result<(), Value> {
        self.vanish();
        let mut socket = Socket::open(&self.address).await;
        if self.habit != Habit::Stalls {
            socket.set_habit(self.habit);
        }
        socket.post(&self.hello.frame()).await;
        let first = socket.next_frame().await;
        if first["type"] != "hello_ack" {
            return Err(first);
        }
        socket.set_habit(self.habit);
        socket.remember(std::mem::take(&mut self.heard));
        self.hello_ack = first;
        self.socket = Some(socket);
        Ok(())
    }

    /// The same at another node.
    pub(crate) async fn move_to(&mut self, node: &Node) {
        self.address = node.address();
        self.take_over().await;
    }

    /// The same, at another node.
    pub(crate) async fn come_back_to(&mut self, node: &Node) {
        self.address = node.address();
        self.come_back().await;
    }

    /// Is gone without a word.
    pub(crate) fn vanish(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.cut |= !socket.has_ended();
            self.heard = socket.cut();
        }
    }

    /// From now on a repetition is a fault, whatever happens to the broker: the test has seen that
    /// every ack up to now is known to it.
    pub(crate) fn expects_no_repetition(&mut self) {
        self.settled = true;
    }

    /// Whether an envelope is to be shown to the test. Once a mesh may have changed its owner, one
    /// that was acked may come again with the same `messageId`; clients drop it, and so does this.
    fn is_news(&mut self, push: &Value) -> bool {
        let id = push["messageId"].as_str().unwrap_or_default();
        let again = self.acked.contains(id);
        if self.habit == Habit::Acks {
            self.acked.insert(id.to_owned());
        }
        let may_come_again = self.cut || self.unsettled.load(Ordering::SeqCst);
        !again || self.settled || !may_come_again
    }

    /// Closes the connection in order.
    pub(crate) async fn leave(&mut self) {
        self.close().await;
        self.vanish();
    }

    /// What the reader does from now on, on this connection and the next.
    pub(crate) fn become_one_that(&mut self, habit: Habit) {
        self.habit = habit;
        if let Some(socket) = &self.socket {
            socket.set_habit(habit);
        }
    }

    pub(crate) fn presence(&self) -> String {
        self.hello_ack["presenceId"].as_str().unwrap().to_owned()
    }

    /// Sends a text and waits for the answer.
    pub(crate) async fn send(&mut self, to: &(impl Target + ?Sized), text: &str) -> Ack {
        self.send_frame(&envelope(to, text)).await
    }

    /// Sends any `send` with an `id` and waits for its answer.
    pub(crate) async fn send_frame(&mut self, frame: &Value) -> Ack {
        self.post(frame).await;
        self.ack_of(frame["id"].as_str().unwrap()).await
    }

    /// The answer to the send with this `id`.
    pub(crate) async fn ack_of(&mut self, id: &str) -> Ack {
        let wanted = |frame: &Value| frame["type"] == "ack" && frame["id"] == id;
        Ack(self.take(&format!("the ack of {id}"), wanted).await)
    }

    /// The next envelope.
    pub(crate) async fn next_push(&mut self) -> Value {
        loop {
            let push = self.take("a push", is_envelope).await;
            if self.is_news(&push) {
                return push;
            }
        }
    }

    /// The next envelope's text.
    pub(crate) async fn next(&mut self) -> String {
        self.next_push().await["ciphertext"].as_str().unwrap().to_owned()
    }

    /// Waits for an event about `name`; its data.
    pub(crate) async fn expect_event(&mut self, event: &str, name: &str) -> Value {
        let wanted = |frame: &Value| {
            is_event(frame) && frame["event"] == event && frame["eventData"]["name"] == name
        };
        self.take(&format!("{event} of {name}"), wanted).await["eventData"].take()
    }

    /// Asks and waits for the answer: what the mesh did before has arrived by then.
    pub(crate) async fn ask(&mut self, mut request: Value) -> Value {
        let id = format!("req-{}", number());
        request["_reqId"] = json!(id);
        self.post(&request).await;
        let what = format!("the answer to {request}");
        self.take(&what, |frame| frame["_reqId"] == id.as_str()).await
    }

    /// See [`TestPeer::ask`].
    pub(crate) async fn round_trip(&mut self) {
        self.peers().await;
    }

    /// The rows of `list_peers`.
    pub(crate) async fn peers(&mut self) -> Vec<Value> {
        let list = self.ask(json!({"type": "list_peers"})).await;
        assert_eq!(list["type"], "peers_list", "{list}");
        list["peers"].as_array().unwrap().clone()
    }

    /// Whether `message_status` calls a message delivered.
    pub(crate) async fn is_delivered(&mut self, message: &str) -> bool {
        let status = self.ask(json!({"type": "message_status", "messageId": message})).await;
        assert_eq!(status["type"], "message_status_result", "{status}");
        status["delivered"] == true
    }

    /// All events heard up to now, as (event, name).
    pub(crate) async fn events(&mut self) -> Vec<(String, String)> {
        self.round_trip().await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.take_kept(is_event);
        events.iter().map(|e| (text(&e["event"]), text(&e["eventData"]["name"]))).collect()
    }

    /// The texts of all envelopes heard up to now and not asked for.
    pub(crate) async fn texts(&mut self) -> Vec<String> {
        self.round_trip().await;
        let mut pushes = self.take_kept(is_envelope);
        pushes.retain(|push| self.is_news(push));
        pushes.iter().map(|push| push["ciphertext"].as_str().unwrap().to_owned()).collect()
    }
}

/// A broker, and in its mesh `red` of Ana (its owner), Ben and Eve a session each of the first two,
/// who know of each other.
pub(crate) async fn ana_and_ben(
    kind: Kind,
    settings: &[(&str, &str)],
) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, settings).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    ana.expect_event("peer_joined", "ben").await;
    (node, ana, ben, mesh)
}
