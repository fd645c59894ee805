//! Clients that are not answered within three seconds try another connection, as a command of the
//! same member, under the same `client_message_id`: whichever way a message takes, it is accepted
//! once, and arrives once.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::cluster::apart;
use crate::support::node::{Ground, Mesh, Node};
use crate::support::peer::{Hello, TestPeer, envelope, fresh_key};
use crate::support::postgres::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::socket::Socket;
use crate::support::until;

/// Clients wait so long for an ack.
const PATIENCE: Duration = Duration::from_secs(3);
/// Then the store is away for so long still.
const LONGER: Duration = Duration::from_secs(2);

/// A command of Ana's, as her client starts it: a plain hello under a key of its own.
fn command(mesh: &Mesh) -> Hello {
    let key = fresh_key().public_hex();
    let fields = json!({"sessionPubkey": key, "channel": "claude-code"});
    Hello::member(mesh, "ana").with(&fields)
}

/// Says hello until it is let in: what cannot be answered now is refused so.
async fn connect(node: &Node, hello: &Hello) -> Socket {
    loop {
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&hello.frame()).await;
        let answer = socket.next_frame().await;
        if answer["type"] == "hello_ack" {
            return socket;
        }
        assert_eq!(answer["code"], "unavailable", "{answer}");
    }
}

/// Sends until it is accepted, always under the same id; the message's id.
async fn insist(socket: &mut Socket, send: &Value) -> String {
    loop {
        socket.post(send).await;
        let id = accepted(socket, send).await;
        if let Some(id) = id {
            return id;
        }
    }
}

/// The answer to a send, unless it is that there is none now.
async fn accepted(socket: &mut Socket, send: &Value) -> Option<String> {
    let ack = socket.take("an ack", |f| f["type"] == "ack" && f["id"] == send["id"]).await;
    if ack["queued"] == true {
        return Some(ack["messageId"].as_str().unwrap().to_owned());
    }
    assert!(ack["error"].as_str().unwrap().starts_with("unavailable"), "{ack}");
    None
}

/// The first way's answer, in the end.
async fn first_way(ana: &mut TestPeer, send: &Value) -> String {
    match accepted(ana, send).await {
        Some(id) => id,
        None => insist(ana, send).await,
    }
}

async fn arrived_once(ana: &mut TestPeer, ben: &mut TestPeer, message: &str) {
    ana.send(ben, "end").await.acknowledged();
    let push = ben.next_push().await;
    assert_eq!(
        (push["ciphertext"].as_str(), push["messageId"].as_str()),
        (Some("one"), Some(message))
    );
    assert_eq!(ben.next().await, "end");
    until("it is confirmed", async || ana.is_delivered(message).await).await;
    assert_eq!(ben.texts().await, [""; 0]);
}

/// The store is away, or works and is not heard.
async fn falls_back(away: fn(&ChaosProxy)) {
    let server = Server::shared();
    let proxy = ChaosProxy::start(server.port()).await;
    let ground = Ground::through(server, proxy.port()).await;
    let node = Node::start_on(ground, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let mut send = envelope(&ben, "one");
    send["request_fingerprint"] = json!("fingerprint");
    away(&proxy);
    ana.post(&send).await;
    let early = timeout(PATIENCE, ana.ack_of("one")).await;
    assert!(early.is_err(), "answered without a store: {early:?}");
    // The other way says less of it.
    let other = envelope(&ben, "one");
    let hello = command(&mesh);
    let second = async {
        let mut socket = connect(&node, &hello).await;
        let message = insist(&mut socket, &other).await;
        (socket, message)
    };
    let back = async {
        sleep(LONGER).await;
        proxy.resume();
    };
    let ((_socket, by_second), ()) = tokio::join!(second, back);
    let by_first = first_way(&mut ana, &send).await;
    assert_eq!(by_first, by_second);
    arrived_once(&mut ana, &mut ben, &by_first).await;
}

#[tokio::test]
async fn a_message_is_accepted_once_while_postgres_is_away() {
    falls_back(ChaosProxy::pause).await;
}

#[tokio::test]
async fn a_message_is_accepted_once_while_postgres_is_not_heard() {
    falls_back(ChaosProxy::swallow_replies).await;
}

/// Ana's node cannot reach the owner; her command finds the owner's node, which accepts it. What she
/// had said before arrives there when Redis is back.
#[tokio::test]
async fn a_message_is_accepted_once_while_redis_is_away() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let send = envelope(&ben, "one");
    cluster.redis.kill();
    ana.post(&send).await;
    let early = timeout(PATIENCE, ana.ack_of("one")).await;
    assert!(early.is_err(), "answered without the owner: {early:?}");
    let mut second = connect(&cluster.nodes[0], &command(&mesh)).await;
    let by_second = insist(&mut second, &send).await;
    cluster.redis.start();
    let by_first = first_way(&mut ana, &send).await;
    assert_eq!(by_first, by_second);
    arrived_once(&mut ana, &mut ben, &by_first).await;
}

/// The same, while the command cannot reach the owner either.
#[tokio::test]
async fn a_message_is_accepted_once_while_nobody_reaches_the_owner() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let send = envelope(&ben, "one");
    cluster.redis.kill();
    ana.post(&send).await;
    let early = timeout(PATIENCE, ana.ack_of("one")).await;
    assert!(early.is_err(), "answered without the owner: {early:?}");
    let hello = command(&mesh);
    let second = async {
        let mut socket = connect(&cluster.nodes[2], &hello).await;
        let message = insist(&mut socket, &send).await;
        (socket, message)
    };
    let back = async {
        sleep(LONGER).await;
        cluster.redis.start();
    };
    let ((_socket, by_second), ()) = tokio::join!(second, back);
    let by_first = first_way(&mut ana, &send).await;
    assert_eq!(by_first, by_second);
    arrived_once(&mut ana, &mut ben, &by_first).await;
}
