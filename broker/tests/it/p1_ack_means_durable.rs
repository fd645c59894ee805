//! P1: `ack{queued:true}` leaves the node only after the envelope is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::support::node::{Ground, Kind, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, envelope};
use crate::support::postgres::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::socket::Habit;
use crate::support::until;

on_each_store!(
    what_was_acked_survives_the_death_of_the_broker,
    what_was_acked_survives_deaths_in_the_middle_of_a_stream,
);

async fn what_was_acked_survives_the_death_of_the_broker(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::join_as(&node, Hello::session(&mesh, "ben"), Habit::Stalls).await;
    ana.send(&ben, "hello").await.acknowledged();
    node.kill();
    node.restart().await;
    ben.vanish();
    ben.become_one_that(Habit::Acks);
    ben.reconnect().await;
    assert_eq!(ben.next().await, "hello");
}

/// Each time the broker dies while most of what was sent has no answer yet.
async fn what_was_acked_survives_deaths_in_the_middle_of_a_stream(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let mut acked = BTreeSet::new();
    for round in 0..3 {
        for number in 0..300 {
            ana.post(&envelope(&ben, &format!("{round}-{number}"))).await;
        }
        let ack = ana.ack_of(&format!("{round}-{}", 40 + 70 * round)).await;
        ack.acknowledged();
        node.kill();
        ana.ended().await;
        acked.insert(ack.0["id"].as_str().unwrap().to_owned());
        for ack in ana.take_kept(|frame| frame["type"] == "ack") {
            assert_eq!(ack["queued"], true, "{ack}");
            acked.insert(ack["id"].as_str().unwrap().to_owned());
        }
        node.restart().await;
        ana.reconnect().await;
        ben.reconnect().await;
    }
    assert!(acked.len() > 300, "only {} were acked", acked.len());
    receives_all(&mut ben, acked).await;
}

#[tokio::test]
async fn what_was_acked_survives_the_death_of_postgres() {
    let server = Arc::new(tokio::task::spawn_blocking(Server::own).await.unwrap());
    server.ready().await;
    let ground = Ground::on(server.clone()).await;
    let node = Node::start_on(ground, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    for number in 0..500 {
        ana.post(&envelope(&ben, &number.to_string())).await;
    }
    ana.ack_of("100").await.acknowledged();
    server.kill();
    server.start();
    server.ready().await;
    let mut acked = BTreeSet::from(["100".to_owned()]);
    for number in (0..500).filter(|number| *number != 100) {
        // What the node could not store it refused in words that ask for another try.
        let mut ack = ana.ack_of(&number.to_string()).await;
        while ack.0["queued"] == false {
            assert!(ack.refused().starts_with("unavailable"), "{ack:?}");
            ack = ana.send(&ben, &number.to_string()).await;
        }
        acked.insert(number.to_string());
    }
    assert_eq!(acked.len(), 500);
    receives_all(&mut ben, acked).await;
}

/// Nobody knows what becomes of a send whose commit has no answer: it is refused in words that ask
/// for another try, and nobody is sent away. (That it is in time, the simulator checks.)
#[tokio::test]
async fn sends_are_refused_while_postgres_does_not_answer() {
    let server = Server::shared();
    let proxy = ChaosProxy::start(server.port()).await;
    let ground = Ground::through(server, proxy.port()).await;
    let node = Node::start_on(ground, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let first = ana.send(&ben, "before").await.acknowledged();
    assert_eq!(ben.next().await, "before");
    until("the ack confirms", async || ana.is_delivered(&first).await).await;
    // What cannot be committed now may be done twice.
    node.unsettle();
    proxy.pause();
    ana.post(&envelope(&ben, "during")).await;
    ben.round_trip().await;
    assert!(ana.ack_of("during").await.refused().starts_with("unavailable"));
    // Whatever cannot be answered is refused by name, and nobody is sent away.
    let answer = ana.ask(json!({"type": "list_peers"})).await;
    assert!(answer["type"] == "peers_list" || answer["code"] == "unavailable", "{answer}");
    assert_eq!(node.http("GET", "/health").await.status, 200);
    until("the node is not ready", async || node.http("GET", "/health/ready").await.status == 503)
        .await;
    proxy.resume();
    let mut ack = ana.send(&ben, "during").await;
    while ack.0["queued"] == false {
        assert!(ack.refused().starts_with("unavailable"), "{ack:?}");
        ack = ana.send(&ben, "during").await;
    }
    let second = ack.acknowledged();
    assert_eq!(ana.send(&ben, "before").await.acknowledged(), first);
    assert_eq!(ana.send(&ben, "during").await.acknowledged(), second);
    assert_eq!(ben.next().await, "during");
    until("the node is ready", async || node.http("GET", "/health/ready").await.status == 200)
        .await;
    assert_eq!(ben.texts().await, [""; 0]);
    assert_eq!(ana.peers().await.len(), 2);
}

async fn receives_all(ben: &mut TestPeer, mut missing: BTreeSet<String>) {
    while !missing.is_empty() {
        let text = ben.next().await;
        missing.remove(&text);
    }
}
