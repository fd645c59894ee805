//! A hello is accepted once: not from another connection, not by the next owner, not after a restart.
//! Which of two hellos is newer, their clients' clocks do not say.

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::node::{Kind, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, timestamp};
use crate::support::socket::Socket;
use crate::support::until;

on_each_store!(
    a_captured_hello_is_refused_after_a_restart,
    a_laptop_whose_clock_steps_back_is_let_in,
);

async fn is_replayed(node: &Node, frame: &Value) {
    let mut thief = Socket::open(&node.address()).await;
    thief.post(frame).await;
    let error = thief.next_frame().await;
    assert_eq!(error["code"], "replayed", "{error}");
    assert_eq!(thief.close_frame().await, (1008, "replayed".to_owned()));
}

/// Joins with a frame that somebody else has seen.
async fn join_seen(node: &Node, hello: &Hello) -> (Socket, Value) {
    let frame = hello.frame();
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&frame).await;
    let first = socket.next_frame().await;
    assert_eq!(first["type"], "hello_ack", "{first}");
    (socket, frame)
}

async fn a_captured_hello_is_refused_after_a_restart(kind: Kind) {
    let (mut node, _ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let hellos = [Hello::session(&mesh, "eve"), Hello::member(&mesh, "eve")];
    let mut seen = Vec::new();
    for hello in &hellos {
        seen.push(join_seen(&node, hello).await);
    }
    node.kill();
    node.restart().await;
    for (hello, (_, frame)) in hellos.iter().zip(&seen) {
        is_replayed(&node, frame).await;
        let mut louder = frame.clone();
        louder["signature"] = json!(frame["signature"].as_str().unwrap().to_uppercase());
        louder["displayName"] = json!("somebody else");
        is_replayed(&node, &louder).await;
        let mut back = TestPeer::join(&node, hello.clone()).await;
        is_replayed(&node, frame).await;
        back.round_trip().await;
    }
}

#[tokio::test]
async fn a_captured_hello_is_refused_by_the_next_owner() {
    let mut cluster = Cluster::of(3, &[]).await;
    let mesh = cluster.mesh_on(0, &["ana", "ben"]).await;
    let hello = Hello::session(&mesh, "ben");
    let (mut socket, frame) = join_seen(&cluster.nodes[1], &hello).await;
    cluster.nodes[0].kill();
    cluster.nodes.remove(0);
    until("another runs the mesh", async || matches!(cluster.owner(&mesh).await, Some(1 | 2)))
        .await;
    for node in &cluster.nodes {
        is_replayed(node, &frame).await;
    }
    socket.post(&json!({"type": "list_peers", "_reqId": "r"})).await;
    socket.take("the answer", |frame| frame["_reqId"] == "r").await;
}

async fn a_laptop_whose_clock_steps_back_is_let_in(kind: Kind) {
    let (node, mut ana, mut ben, _mesh) = ana_and_ben(kind, &[]).await;
    let presence = ben.presence();
    for back in [5_000, 55_000] {
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&ben.hello.frame_at(timestamp() - back)).await;
        let first = socket.next_frame().await;
        assert_eq!((&first["type"], &first["presenceId"]), (&json!("hello_ack"), &json!(presence)));
        ben.vanish();
    }
    assert_eq!(ana.events().await, []);
}
