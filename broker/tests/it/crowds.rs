//! What one member may take of a mesh: places, takeovers, hellos.

use serde_json::json;

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben};
use crate::support::socket::Socket;
use crate::support::until;

on_each_store!(
    a_flapping_session_takes_one_place_and_nobody_hears_of_it,
    look_alikes_take_two_places,
    a_second_hello_replaces_the_presence_of_its_socket,
    one_member_does_not_fill_a_mesh,
    a_member_alone_may_fill_its_mesh,
    hellos_of_a_member_are_limited,
);

async fn hello(socket: &mut Socket, hello: &Hello) -> serde_json::Value {
    socket.post(&hello.frame()).await;
    socket.take("an answer", |f| f["type"] == "hello_ack" || f["type"] == "error").await
}

async fn hellos_in_a_row(node: &Node, one: &Hello, count: usize) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = Socket::open(&node.address()).await;
        let answer = hello(&mut socket, one).await;
        assert_eq!(answer["type"], "hello_ack", "{answer}");
        sockets.push(socket);
    }
    sockets
}

/// Its old sockets are half-open: nobody closes them.
async fn a_flapping_session_takes_one_place_and_nobody_hears_of_it(kind: Kind) {
    let (node, mut ana, ben, _mesh) = ana_and_ben(kind, &[]).await;
    let mut sockets = hellos_in_a_row(&node, &ben.hello, 14).await;
    let rows = ana.peers().await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(ana.events().await, []);
    let last = sockets.pop().unwrap();
    for mut old in sockets {
        assert_eq!(old.close_frame().await, (1000, "session_replaced".to_owned()));
    }
    ana.send(&ben, "to the last").await.acknowledged();
    let mut last = last;
    last.take("the mail", |frame| frame["ciphertext"] == "to the last").await;
    until("the conflict is counted", async || {
        node.metric("broker_session_conflicts_total").await.is_some_and(|count| count >= 1.0)
    })
    .await;
}

async fn look_alikes_take_two_places(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let daemon = Hello::member(&mesh, "eve").with(&json!({"displayName": "eve"}));
    let _sockets = hellos_in_a_row(&node, &daemon, 14).await;
    let rows = ana.peers().await;
    let eves = rows.iter().filter(|row| row["displayName"] == "eve").count();
    assert!((1..=2).contains(&eves), "{rows:?}");
    let events = ana.events().await;
    let joined = events.iter().filter(|(event, _)| event == "peer_joined").count();
    assert!((1..=2).contains(&joined), "{events:?}");
    assert!(!events.iter().any(|(event, _)| event == "peer_left"), "{events:?}");
}

async fn a_second_hello_replaces_the_presence_of_its_socket(kind: Kind) {
    let settings = [("MAX_CONNECTIONS_PER_MESH", "8"), ("HELLO_RATE_PER_MINUTE", "0")];
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &settings).await;
    let mut socket = Socket::open(&node.address()).await;
    let named = json!({"displayName": "eve"});
    for _ in 0..30 {
        let answer = hello(&mut socket, &Hello::session(&mesh, "eve").with(&named)).await;
        assert_eq!(answer["type"], "hello_ack", "{answer}");
    }
    assert_eq!(ana.peers().await.len(), 3);
    // The same one again is silent, and keeps its presence.
    let again = Hello::session(&mesh, "eve").with(&json!({"displayName": "again"}));
    let first = hello(&mut socket, &again).await["presenceId"].clone();
    ana.expect_event("peer_joined", "again").await;
    assert_eq!(hello(&mut socket, &again).await["presenceId"], first);
    assert!(ana.events().await.iter().all(|(_, name)| name != "again"));
}

async fn fill(node: &Node, mesh: &Mesh, name: &str) -> (Vec<TestPeer>, serde_json::Value) {
    let mut peers = Vec::new();
    loop {
        let mut socket = Socket::open(&node.address()).await;
        let one = Hello::session(mesh, name);
        let answer = hello(&mut socket, &one).await;
        if answer["type"] == "error" {
            return (peers, answer);
        }
        drop(socket);
        peers.push(TestPeer::join(node, one).await);
    }
}

async fn one_member_does_not_fill_a_mesh(kind: Kind) {
    for (setting, most) in [("", 6), ("2", 2)] {
        let settings = [("MAX_CONNECTIONS_PER_MESH", "8"), ("MAX_SESSIONS_PER_MEMBER", setting)];
        let node = Node::start(kind, &settings).await;
        let mesh = node.mesh("red", &["ana", "eve"]).await;
        let (mut eves, refused) = fill(&node, &mesh, "eve").await;
        assert_eq!((eves.len(), &refused["code"]), (most, &json!("capacity")), "{refused}");
        TestPeer::session(&node, &mesh, "ana").await.round_trip().await;
        // Whoever has a lease may come back to it.
        for eve in &mut eves {
            eve.reconnect().await;
        }
    }
}

async fn a_member_alone_may_fill_its_mesh(kind: Kind) {
    let node = Node::start(kind, &[("MAX_CONNECTIONS_PER_MESH", "8")]).await;
    let mesh = node.mesh("red", &["eve"]).await;
    assert_eq!(fill(&node, &mesh, "eve").await.0.len(), 8);
}

async fn hellos_of_a_member_are_limited(kind: Kind) {
    let settings = [("MAX_CONNECTIONS_PER_MESH", "10"), ("HELLO_RATE_PER_MINUTE", "1")];
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &settings).await;
    let eve = Hello::session(&mesh, "eve");
    let _sockets = hellos_in_a_row(&node, &eve, 10).await;
    let mut socket = Socket::open(&node.address()).await;
    let refused = hello(&mut socket, &eve).await;
    assert_eq!(refused["code"], "rate_limit", "{refused}");
    assert_eq!(socket.close_frame().await, (1008, "rate_limit".to_owned()));
    ana.reconnect().await;
    assert_eq!(ana.peers().await.len(), 3);
}
