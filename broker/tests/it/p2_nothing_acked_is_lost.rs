//! P2: an acked envelope is delivered at least once, and is over only when it was confirmed: by
//! `client_ack`, or by a pong of clients that never ack.

use serde_json::json;

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer};
use crate::support::socket::{Habit, client_ack};
use crate::support::until;

on_each_store!(
    mail_waits_for_a_recipient_who_is_away,
    mail_waits_through_a_restart,
    a_broadcast_waits_for_those_who_are_away,
    what_was_not_confirmed_comes_again_on_reattach,
    what_was_confirmed_does_not_come_again,
    an_ack_by_the_senders_id_confirms,
    a_strangers_ack_confirms_nothing,
    a_peer_that_never_acks_confirms_by_pong,
    a_daemon_does_not_confirm_by_pong,
    a_member_without_a_connection_finds_its_mail_on_the_next,
    mail_queued_for_the_absent_is_held,
);

async fn mail_waits_for_a_recipient_who_is_away(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.leave().await;
    ana.send(&ben, "one").await.acknowledged();
    ana.send(&ben, "two").await.acknowledged();
    ben.reconnect().await;
    assert_eq!(ben.next().await, "one");
    assert_eq!(ben.next().await, "two");
}

async fn mail_waits_through_a_restart(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.leave().await;
    ana.send(&ben, "one").await.acknowledged();
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ana.send(&ben, "two").await.acknowledged();
    node.kill();
    node.restart().await;
    ben.reconnect().await;
    assert_eq!(ben.next().await, "one");
    assert_eq!(ben.next().await, "two");
}

async fn a_broadcast_waits_for_those_who_are_away(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.leave().await;
    ana.send("*", "all").await.acknowledged();
    ben.reconnect().await;
    assert_eq!(ben.next().await, "all");
}

async fn what_was_not_confirmed_comes_again_on_reattach(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.become_one_that(Habit::Reads);
    ana.send(&ben, "one").await.acknowledged();
    ana.send(&ben, "two").await.acknowledged();
    assert_eq!((ben.next().await, ben.next().await), ("one".into(), "two".into()));
    ben.reconnect().await;
    assert_eq!((ben.next().await, ben.next().await), ("one".into(), "two".into()));
    node.kill();
    node.restart().await;
    ben.reconnect().await;
    assert_eq!((ben.next().await, ben.next().await), ("one".into(), "two".into()));
}

async fn what_was_confirmed_does_not_come_again(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind).await;
    let one = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    until("the ack confirms", async || ana.is_delivered(&one).await).await;
    ben.expects_no_repetition();
    ben.reconnect().await;
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    ana.send(&ben, "two").await.acknowledged();
    assert_eq!(ben.next().await, "two");
    assert_eq!(ben.texts().await, [""; 0]);
}

async fn an_ack_by_the_senders_id_confirms(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.become_one_that(Habit::Reads);
    let one = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    assert!(!ana.is_delivered(&one).await);
    ben.post(&json!({"type": "client_ack", "clientMessageId": "one"})).await;
    until("the ack confirms", async || ana.is_delivered(&one).await).await;
}

async fn a_strangers_ack_confirms_nothing(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    ben.become_one_that(Habit::Reads);
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ana.send(&ben, "one").await.acknowledged();
    let push = ben.next_push().await;
    eve.post(&client_ack(&push)).await;
    ana.post(&client_ack(&push)).await;
    eve.round_trip().await;
    ana.round_trip().await;
    ben.reconnect().await;
    assert_eq!(ben.next().await, "one");
}

async fn a_peer_that_never_acks_confirms_by_pong(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let hello = Hello::session(&mesh, "eve").with(&json!({"channel": "claude-code"}));
    let mut eve = TestPeer::join_as(&node, hello, Habit::Reads).await;
    let one = ana.send(&eve, "one").await.acknowledged();
    assert_eq!(eve.next().await, "one");
    until("the pong confirms", async || ana.is_delivered(&one).await).await;
    eve.reconnect().await;
    ana.send(&eve, "two").await.acknowledged();
    assert_eq!(eve.next().await, "two");
    assert_eq!(eve.texts().await, [""; 0]);
}

/// Another peer's pong, asked for later, has come by the time this one's could have.
async fn a_daemon_does_not_confirm_by_pong(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    ben.become_one_that(Habit::Reads);
    let one = ana.send(&ben, "one").await.acknowledged();
    let hello = Hello::session(&mesh, "eve").with(&json!({"channel": "claude-code"}));
    let eve = TestPeer::join_as(&node, hello, Habit::Reads).await;
    let two = ana.send(&eve, "two").await.acknowledged();
    until("the pong confirms", async || ana.is_delivered(&two).await).await;
    assert!(!ana.is_delivered(&one).await);
    ben.reconnect().await;
    assert_eq!((ben.next().await, ben.next().await), ("one".into(), "one".into()));
}

/// Written to the member, read by a connection that gave up on it: the next one gets it.
async fn a_member_without_a_connection_finds_its_mail_on_the_next(kind: Kind) {
    let node = Node::start(kind, &[("LEASE_GRACE_SECONDS", "1")]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::member(&node, &mesh, "ben").await;
    ben.leave().await;
    let key = mesh.member("ben").pubkey.clone();
    ana.send(&key, "one").await.acknowledged();
    ana.expect_event("peer_left", "ben").await;
    let mut other = TestPeer::member(&node, &mesh, "ben").await;
    assert_eq!(other.next().await, "one");
}

async fn mail_queued_for_the_absent_is_held(kind: Kind) {
    let mut node = Node::start(kind, &[("OFFLINE_DIRECT", "queue")]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let key = mesh.member("ben").pubkey.clone();
    let ack = ana.send(&key, "one").await;
    ack.acknowledged();
    assert_eq!(ack.0["held"], true, "{ack:?}");
    node.kill();
    node.restart().await;
    let mut ben = TestPeer::member(&node, &mesh, "ben").await;
    assert_eq!(ben.next().await, "one");
}

async fn two_peers(kind: Kind) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    (node, ana, ben, mesh)
}
