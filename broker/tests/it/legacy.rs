//! Clients as they are: what they do that a new one would not (protocol-core §11).

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::{Kind, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope};
use crate::support::socket::{Habit, Socket};
use crate::support::until;

on_each_store!(
    a_client_that_matches_replies_by_their_order,
    a_client_that_says_hello_twice,
    a_client_that_closes_right_after_a_verb,
    a_client_that_never_acks,
    a_client_that_acks_what_it_dropped_before,
    a_client_that_reconnects_at_once_from_every_close,
    a_daemon_and_its_sessions_share_an_inbox,
);

/// It sends no `_reqId`, and gives each reply to the oldest request of its kind.
async fn a_client_that_matches_replies_by_their_order(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.become_one_that(Habit::Reads);
    let known = ana.send(&ben, "known").await.acknowledged();
    let requests = [
        json!({"type": "list_peers"}),
        json!({"type": "message_status", "messageId": known}),
        json!({"type": "list_bans"}),
        json!({"type": "message_status", "messageId": "00000001"}),
        json!({"type": "audit_query", "limit": 1}),
        json!({"type": "audit_query", "limit": 2}),
    ];
    for request in &requests {
        ana.post(request).await;
    }
    let statuses = ["message_status_result", "message_status_result"];
    let mut found = Vec::new();
    for kind in statuses {
        let reply = ana.take(kind, |frame| frame["type"] == kind).await;
        assert!(reply.get("_reqId").is_none(), "{reply}");
        found.push(reply["messageId"].clone());
    }
    assert_eq!(found, [json!(known), json!("00000001")]);
    for limit in 1..=2 {
        let reply = ana.take("the entries", |frame| frame["type"] == "audit_result").await;
        assert_eq!(reply["entries"].as_array().unwrap().len(), limit);
    }
}

/// Defect 19.
async fn a_client_that_says_hello_twice(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    let presence = ben.presence();
    ben.post(&ben.hello.frame()).await;
    ben.post(&envelope(&ana, "behind the second hello")).await;
    let ack = ben.take("the second hello_ack", |frame| frame["type"] == "hello_ack").await;
    assert_eq!(ack["presenceId"], presence);
    ben.ack_of("behind the second hello").await.acknowledged();
    assert_eq!(ana.next().await, "behind the second hello");
    assert_eq!(ana.events().await, []);
}

/// One-shot commands close without waiting, and without a code.
async fn a_client_that_closes_right_after_a_verb(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let eve = Hello::member(&mesh, "eve").with(&json!({"displayName": "eve"}));
    let socket = Socket::open(&node.address()).await;
    socket.post(&eve.frame()).await;
    socket.post(&json!({"type": "set_summary", "summary": "last words"})).await;
    socket.post(&json!({"type": "join_group", "name": "team"})).await;
    socket.post(&envelope(&ana, "farewell")).await;
    socket.post_message(Message::Close(None)).await;
    assert_eq!(ana.next().await, "farewell");
    let rows = ana.peers().await;
    let row = rows.iter().find(|row| row["displayName"] == "eve").unwrap();
    assert_eq!(
        (&row["summary"], &row["groups"]),
        (&json!("last words"), &json!([{"name": "team"}]))
    );
}

/// A pong behind the pushes says that they arrived.
async fn a_client_that_never_acks(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let hello = Hello::member(&mesh, "eve").with(&json!({"channel": "bridge"}));
    let mut eve = TestPeer::join_as(&node, hello, Habit::Reads).await;
    let id = ana.send(&mesh.member("eve").pubkey, "one").await.acknowledged();
    assert_eq!(eve.next().await, "one");
    until("the pong confirms", async || ana.is_delivered(&id).await).await;
    eve.vanish();
    eve.reconnect().await;
    assert_eq!(eve.texts().await, [""; 0]);
}

/// The daemon's inbox acks repetitions as well, by both ids.
async fn a_client_that_acks_what_it_dropped_before(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.become_one_that(Habit::Reads);
    let id = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    ben.reconnect().await;
    let again = ben.next_push().await;
    assert_eq!(again["messageId"], id);
    let ack = json!({
        "type": "client_ack", "clientMessageId": again["client_message_id"], "brokerMessageId": id,
    });
    for _ in 0..2 {
        ben.post(&ack).await;
    }
    until("it is confirmed", async || ana.is_delivered(&id).await).await;
    ben.reconnect().await;
    assert_eq!(ben.texts().await, [""; 0]);
}

/// Every close code is retried for ever, 4001 and 4002 too.
async fn a_client_that_reconnects_at_once_from_every_close(kind: Kind) {
    let (node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    ben.close_frame().await;
    for _ in 0..10 {
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&ben.hello.frame()).await;
        assert_eq!(socket.close_frame().await.0, 4002);
    }
    assert_eq!(ana.peers().await.len(), 1);
    let rejected = "broker_connections_rejected_total{reason=\"revoked\"}";
    assert_eq!(node.metric(rejected).await, Some(10.0));
}

/// Its sockets drop what names them as the sender; each message reaches a socket that keeps it.
async fn a_daemon_and_its_sessions_share_an_inbox(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ana").await;
    ben.send(&mesh.member("ana").pubkey, "to the member").await.acknowledged();
    assert_eq!(ana.next().await, "to the member");
    ana.send(&mesh.member("ana").pubkey, "to my own member").await.acknowledged();
    let push = daemon.next_push().await;
    assert!(push.get("senderMemberPubkey").is_none(), "it would drop it: {push}");
}

/// Pongs that come late, or carry what nobody asked for, are pongs.
#[tokio::test]
async fn a_client_that_answers_pings_late() {
    let (node, mut ana, _ben, mesh) = ana_and_ben(Kind::Sqlite, &[]).await;
    let hello = Hello::member(&mesh, "eve").with(&json!({"channel": "bridge"}));
    let mut eve = TestPeer::join_as(&node, hello, Habit::Stalls).await;
    let id = ana.send(&mesh.member("eve").pubkey, "one").await.acknowledged();
    for bytes in [&b""[..], b"late", &[0; 8], &[255; 8]] {
        eve.post_message(Message::Pong(bytes.to_vec().into())).await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!ana.is_delivered(&id).await, "only the probe's own pong confirms");
    eve.become_one_that(Habit::Reads);
    assert_eq!(eve.next().await, "one");
    until("the late pong confirms", async || ana.is_delivered(&id).await).await;
}
