//! P7: capacity and counts are sizes of sets: nothing leaks, whatever comes and goes.

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer};
use crate::support::socket::Socket;
use crate::support::until;

on_each_store!(
    a_full_mesh_refuses_one_more,
    a_full_mesh_resumes_its_own,
    a_full_mesh_resumes_its_own_after_a_restart,
    departures_free_their_places,
    refusals_take_no_place,
    hundreds_of_returns_take_one_place,
);

async fn a_full_mesh_refuses_one_more(kind: Kind) {
    let (node, mesh, mut peers) = full_mesh(kind, "30").await;
    is_full(&node, &mesh).await;
    assert_eq!(peers[0].peers().await.len(), 3);
    let green = node.mesh("green", &["ana"]).await;
    TestPeer::session(&node, &green, "ana").await.round_trip().await;
}

async fn a_full_mesh_resumes_its_own(kind: Kind) {
    let (node, mesh, mut peers) = full_mesh(kind, "30").await;
    peers[0].reconnect().await;
    peers[1].leave().await;
    is_full(&node, &mesh).await;
    peers[1].reconnect().await;
    peers[2].take_over().await;
    is_full(&node, &mesh).await;
    for peer in &mut peers {
        assert_eq!(peer.peers().await.len(), 3);
    }
}

async fn a_full_mesh_resumes_its_own_after_a_restart(kind: Kind) {
    let (mut node, mesh, mut peers) = full_mesh(kind, "30").await;
    node.kill();
    node.restart().await;
    is_full(&node, &mesh).await;
    for peer in &mut peers {
        peer.reconnect().await;
    }
    is_full(&node, &mesh).await;
}

async fn departures_free_their_places(kind: Kind) {
    let (node, mesh, mut peers) = full_mesh(kind, "1").await;
    for round in 0..2 {
        peers[1].leave().await;
        peers[2].leave().await;
        let (name, other) = if round == 0 { ("p1", "p2") } else { ("a", "b") };
        peers[0].expect_event("peer_left", name).await;
        peers[0].expect_event("peer_left", other).await;
        let named = |name: &str| {
            Hello::session(&mesh, "p1").with(&serde_json::json!({"displayName": name}))
        };
        peers[1] = TestPeer::join(&node, named("a")).await;
        peers[2] = TestPeer::join(&node, named("b")).await;
        is_full(&node, &mesh).await;
    }
}

async fn refusals_take_no_place(kind: Kind) {
    let node = Node::start(kind, &[("MAX_CONNECTIONS_PER_MESH", "2")]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    for _ in 0..20 {
        let mut hello = Hello::session(&mesh, "ana").frame();
        hello["signature"] = serde_json::json!("00".repeat(64));
        refused_with(&node, &hello, "bad_signature").await;
        let mut hello = Hello::session(&mesh, "ana");
        hello.member.id = "somebody".into();
        refused_with(&node, &hello.frame(), "parent_member_id_mismatch").await;
    }
    TestPeer::session(&node, &mesh, "ana").await.leave().await;
    TestPeer::session(&node, &mesh, "ana").await.round_trip().await;
    is_full(&node, &mesh).await;
}

async fn hundreds_of_returns_take_one_place(kind: Kind) {
    let settings = [("MAX_CONNECTIONS_PER_MESH", "3"), ("HALF_OPEN_PER_ADDRESS", "4")];
    let node = Node::start(kind, &settings).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    for _ in 0..300 {
        ben.reconnect().await;
    }
    assert_eq!(ana.peers().await.len(), 2);
    ana.send(&ben, "hello").await.acknowledged();
    assert_eq!(ben.next().await, "hello");
    let active = "broker_connections_active";
    until("old sockets are gone", async || node.metric(active).await == Some(2.0)).await;
}

async fn full_mesh(kind: Kind, grace: &str) -> (Node, Mesh, Vec<TestPeer>) {
    let settings = [("MAX_CONNECTIONS_PER_MESH", "3"), ("LEASE_GRACE_SECONDS", grace)];
    let node = Node::start(kind, &settings).await;
    let mesh = node.mesh("red", &["p0", "p1", "p2", "p3"]).await;
    let mut peers = Vec::new();
    for name in ["p0", "p1", "p2"] {
        peers.push(TestPeer::session(&node, &mesh, name).await);
    }
    (node, mesh, peers)
}

async fn is_full(node: &Node, mesh: &Mesh) {
    let name = mesh.members.last().unwrap().name.clone();
    refused_with(node, &Hello::session(mesh, &name).frame(), "capacity").await;
}

async fn refused_with(node: &Node, hello: &serde_json::Value, code: &str) {
    let mut socket = Socket::open(&node.address()).await;
    socket.post(hello).await;
    let error = socket.next_frame().await;
    assert_eq!((&error["type"], error["code"].as_str()), (&"error".into(), Some(code)), "{error}");
    assert_eq!(socket.close_frame().await, (1008, code.to_owned()));
}
