//! P3: retrying a `send` with the same `client_message_id` never makes a second envelope; it is
//! answered with the first one's id.

use serde_json::json;

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{TestPeer, envelope, number};
use crate::support::until;

on_each_store!(
    a_retry_is_answered_with_the_first_id,
    a_retry_after_a_restart_is_answered_with_the_first_id,
    pipelined_duplicates_share_one_id,
    the_same_id_from_two_sessions_of_a_member_is_one_message,
    another_fingerprint_is_refused_for_good,
    a_missing_fingerprint_matches_any,
    another_members_id_is_another_message,
    a_retry_is_answered_though_it_would_be_refused_now,
    a_retry_to_somebody_gone_is_answered_with_the_first_id,
    what_was_refused_may_be_tried_again,
);

async fn a_retry_is_answered_with_the_first_id(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    let first = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ana.send(&ben, "one").await.acknowledged(), first);
    // Another `id` on the wire, as a reconnected client may choose.
    let mut retry = envelope(&ben, "one");
    retry["id"] = json!("again");
    assert_eq!(ana.send_frame(&retry).await.acknowledged(), first);
    ana.send(&ben, "end").await.acknowledged();
    assert_eq!(texts_until_end(&mut ben).await, ["one"]);
}

async fn a_retry_after_a_restart_is_answered_with_the_first_id(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    let first = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    until("the ack confirms", async || ana.is_delivered(&first).await).await;
    ben.expects_no_repetition();
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    assert_eq!(ana.send(&ben, "one").await.acknowledged(), first);
    ana.send(&ben, "end").await.acknowledged();
    assert_eq!(texts_until_end(&mut ben).await, [""; 0]);
}

async fn pipelined_duplicates_share_one_id(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    for _ in 0..20 {
        ana.post(&envelope(&ben, "one")).await;
    }
    let first = ana.ack_of("one").await.acknowledged();
    for _ in 1..20 {
        assert_eq!(ana.ack_of("one").await.acknowledged(), first);
    }
    ana.send(&ben, "end").await.acknowledged();
    assert_eq!(texts_until_end(&mut ben).await, ["one"]);
}

async fn the_same_id_from_two_sessions_of_a_member_is_one_message(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, &[]).await;
    let mut sister = TestPeer::session(&node, &mesh, "ana").await;
    ana.post(&envelope(&ben, "one")).await;
    sister.post(&envelope(&ben, "one")).await;
    let (first, second) = (ana.ack_of("one").await, sister.ack_of("one").await);
    assert_eq!(first.acknowledged(), second.acknowledged());
    ana.send(&ben, "end").await.acknowledged();
    assert_eq!(texts_until_end(&mut ben).await, ["one"]);
}

async fn another_fingerprint_is_refused_for_good(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind, &[]).await;
    let mut send = envelope(&ben, "one");
    send["request_fingerprint"] = json!("f1");
    let first = ana.send_frame(&send).await.acknowledged();
    let mut other = send.clone();
    other["request_fingerprint"] = json!("f2");
    let refused = ana.send_frame(&other).await;
    assert_eq!(refused.refused(), "invalid: idempotency_key_reused");
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    let refused = ana.send_frame(&other).await;
    assert_eq!(refused.refused(), "invalid: idempotency_key_reused");
    assert_eq!(ana.send_frame(&send).await.acknowledged(), first);
    ben.reconnect().await;
    assert_eq!(ben.next().await, "one");
}

async fn a_missing_fingerprint_matches_any(kind: Kind) {
    let (_node, mut ana, ben, _) = two_peers(kind, &[]).await;
    let mut send = envelope(&ben, "one");
    send["request_fingerprint"] = json!("f1");
    let first = ana.send_frame(&send).await.acknowledged();
    assert_eq!(ana.send(&ben, "one").await.acknowledged(), first);
}

async fn another_members_id_is_another_message(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    let first = ana.send(&ben, "one").await.acknowledged();
    let second = eve.send(&ben, "one").await.acknowledged();
    assert_ne!(first, second);
    let (one, two) = (ben.next_push().await, ben.next_push().await);
    assert_eq!(
        (one["senderName"].as_str(), two["senderName"].as_str()),
        (Some("ana"), Some("eve"))
    );
}

async fn a_retry_is_answered_though_it_would_be_refused_now(kind: Kind) {
    let limits = [("SEND_RATE_PER_MINUTE", "1"), ("SEND_BURST", "1")];
    let (_node, mut ana, mut ben, _) = two_peers(kind, &limits).await;
    let first = ana.send(&ben, "one").await.acknowledged();
    let refused = ana.send(&ben, "two").await;
    let text = "rate_limit: max 1 msg/min (burst 1) — slow down";
    assert_eq!(refused.refused(), text);
    assert_eq!(ana.send(&ben, "one").await.acknowledged(), first);
    assert_eq!(ana.send(&ben, "two").await.refused(), text);
    assert_eq!(ben.next().await, "one");
    assert_eq!(ben.texts().await, [""; 0]);
}

async fn a_retry_to_somebody_gone_is_answered_with_the_first_id(kind: Kind) {
    let grace = [("LEASE_GRACE_SECONDS", "1")];
    let (mut node, mut ana, mut ben, _) = two_peers(kind, &grace).await;
    let first = ana.send(&ben, "one").await.acknowledged();
    ben.leave().await;
    ana.expect_event("peer_left", "ben").await;
    assert_eq!(ana.send(&ben, "one").await.acknowledged(), first);
    assert!(ana.send(&ben, "two").await.refused().starts_with("no connected peer for target"));
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    // Whatever is pipelined behind the one that is looked up keeps its place.
    ana.post(&envelope(&ben, "one")).await;
    ana.post(&envelope(&ben, "three")).await;
    assert_eq!(ana.ack_of("one").await.acknowledged(), first);
    assert!(ana.ack_of("three").await.refused().starts_with("no connected peer for target"));
}

async fn what_was_refused_may_be_tried_again(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, &[]).await;
    let id = format!("late-{}", number());
    let key = mesh.member("eve").pubkey.clone();
    ana.send(&key, &id).await.refused();
    let mut eve = TestPeer::member(&node, &mesh, "eve").await;
    ana.send(&key, &id).await.acknowledged();
    assert_eq!(eve.next().await, id);
}

async fn two_peers(kind: Kind, settings: &[(&str, &str)]) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, settings).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    (node, ana, ben, mesh)
}

async fn texts_until_end(ben: &mut TestPeer) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        match ben.next().await {
            text if text == "end" => return texts,
            text => texts.push(text),
        }
    }
}
