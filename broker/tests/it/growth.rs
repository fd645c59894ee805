//! What the store keeps is bounded, whatever one member does.

use serde_json::{Value, json};

use crate::support::node::{Kind, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope};
use crate::support::until;

on_each_store!(
    an_audit_entry_is_small_whatever_it_is_about,
    a_recipients_queue_is_bounded_in_bytes,
    a_meshs_queues_are_bounded_in_bytes,
    a_body_that_waits_for_many_counts_once_in_the_mesh,
    a_full_queue_is_left_out_of_a_broadcast,
    what_is_dropped_gives_its_bytes_back,
);

async fn an_audit_entry_is_small_whatever_it_is_about(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let groups: Vec<Value> =
        (0..64).map(|n| json!({"name": format!("{n:0>256}"), "role": "r".repeat(256)})).collect();
    for hello in [Hello::session(&mesh, "eve"), Hello::member(&mesh, "eve")] {
        TestPeer::join(&node, hello.with(&json!({"groups": groups}))).await;
    }
    let long = "\u{1}".repeat(120);
    ana.send(&long, "nobody").await.refused();
    let told = ana.ask(json!({"type": "audit_query", "eventType": "peer_joined"})).await;
    assert_eq!(told["entries"][0]["payload"]["groups"], 64);
    assert_eq!(told["entries"][1]["payload"]["groups"], 64);
    let largest = "SELECT CAST(max(length(CAST(payload AS text))) AS bigint) FROM mesh.audit_log";
    let largest = node.count(largest).await;
    assert!(largest < 1_000, "an entry has {largest} bytes");
}

/// A message whose body has so many bytes.
fn body(to: &TestPeer, id: &str, bytes: usize) -> Value {
    let mut send = envelope(to, id);
    send["nonce"] = json!("");
    send["ciphertext"] = json!("x".repeat(bytes));
    send
}

async fn busy(peer: &mut TestPeer) {
    peer.post(&json!({"type": "set_status", "status": "dnd"})).await;
    peer.round_trip().await;
}

async fn fits(from: &mut TestPeer, to: &TestPeer, id: &str, bytes: usize) -> bool {
    let ack = from.send_frame(&body(to, id, bytes)).await;
    let full = ack.0["error"].as_str().is_some_and(|error| error.starts_with("queue_full"));
    assert!(full || ack.0["queued"] == true, "{}", ack.0);
    !full
}

/// How many of them fit.
async fn fill(from: &mut TestPeer, to: &TestPeer, what: &str, bytes: usize) -> usize {
    for number in 0..100 {
        if !fits(from, to, &format!("{what}-{number}"), bytes).await {
            return number;
        }
    }
    panic!("{what}: there is no end");
}

async fn a_recipients_queue_is_bounded_in_bytes(kind: Kind) {
    let settings = [("QUEUE_BYTES_PER_RECIPIENT", "20000")];
    let (mut node, mut ana, mut ben, _) = ana_and_ben(kind, &settings).await;
    busy(&mut ben).await;
    assert_eq!(fill(&mut ana, &ben, "first", 1_000).await, 20);
    // The next owner knows what waits, though it has not read it.
    node.kill();
    node.restart().await;
    ben.take_over().await;
    ana.take_over().await;
    assert!(!fits(&mut ana, &ben, "after the restart", 1_000).await);
    ben.post(&json!({"type": "set_status", "status": "idle"})).await;
    let mut tries = 0;
    until("what is confirmed gives its bytes back", async || {
        tries += 1;
        fits(&mut ana, &ben, &format!("again-{tries}"), 1_000).await
    })
    .await;
}

async fn a_meshs_queues_are_bounded_in_bytes(kind: Kind) {
    let settings = [("QUEUE_BYTES_PER_MESH", "20000")];
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &settings).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    busy(&mut ben).await;
    busy(&mut eve).await;
    for number in 0..10 {
        assert!(fits(&mut ana, &ben, &format!("ben-{number}"), 1_000).await);
        assert!(fits(&mut ana, &eve, &format!("eve-{number}"), 1_000).await);
    }
    assert!(!fits(&mut ana, &ben, "one too many", 1_000).await);
    assert!(!fits(&mut ana, &eve, "for her, too", 1_000).await);
    eve.post(&json!({"type": "set_status", "status": "idle"})).await;
    let mut tries = 0;
    until("there is room again", async || {
        tries += 1;
        fits(&mut ana, &ben, &format!("again-{tries}"), 1_000).await
    })
    .await;
}

async fn a_body_that_waits_for_many_counts_once_in_the_mesh(kind: Kind) {
    let settings = [("QUEUE_BYTES_PER_MESH", "20000")];
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &settings).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut eve = TestPeer::session(&node, &mesh, "eve").await;
        busy(&mut eve).await;
        others.push(eve);
    }
    busy(&mut ben).await;
    for number in 0..10 {
        let mut send = body(&ben, &format!("all-{number}"), 1_000);
        send["targetSpec"] = json!("*");
        let ack = ana.send_frame(&send).await;
        assert_eq!(ack.0["queued"], true, "{}", ack.0);
    }
    // Five deliveries each, and ten thousand bytes in all.
    let rows = "SELECT count(*) FROM broker.delivery";
    assert_eq!(node.count(rows).await, 50);
    assert_eq!(fill(&mut ana, &ben, "more", 1_000).await, 10);
}

async fn a_full_queue_is_left_out_of_a_broadcast(kind: Kind) {
    let settings = [("QUEUE_BYTES_PER_RECIPIENT", "5000")];
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &settings).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    busy(&mut ben).await;
    assert_eq!(fill(&mut ana, &ben, "ben", 1_000).await, 5);
    let mut send = body(&ben, "all", 1_000);
    send["targetSpec"] = json!("*");
    let ack = ana.send_frame(&send).await;
    assert_eq!((&ack.0["queued"], &ack.0["skipped"]), (&json!(true), &json!(1)), "{}", ack.0);
    assert_eq!(eve.next().await.len(), 1_000);
}

async fn what_is_dropped_gives_its_bytes_back(kind: Kind) {
    let settings = [("QUEUE_BYTES_PER_MESH", "20000")];
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &settings).await;
    let eve = TestPeer::session(&node, &mesh, "eve").await;
    busy(&mut ben).await;
    assert_eq!(fill(&mut ana, &ben, "first", 1_000).await, 20);
    assert!(!fits(&mut ana, &eve, "no room", 1_000).await);
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    let mut tries = 0;
    until("the banned member's mail takes no room", async || {
        tries += 1;
        fits(&mut ana, &eve, &format!("again-{tries}"), 1_000).await
    })
    .await;
}
