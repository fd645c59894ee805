//! Who a connection is: what is proven counts, and nobody is thrown out by a look-alike.

use serde_json::json;

use crate::support::node::{Kind, Member, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben};
use crate::support::socket::Socket;
use crate::support::until;

on_each_store!(
    a_socket_that_dies_during_hello_leaves_nothing,
    a_session_id_in_common_evicts_nobody,
    a_proven_key_cannot_be_claimed,
    an_archived_mesh_lets_nobody_in,
    a_banned_member_is_not_mailed_either,
    a_member_deleted_and_invited_again_keeps_its_session_keys,
);

/// Defect 2.
async fn a_socket_that_dies_during_hello_leaves_nothing(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[("LEASE_GRACE_SECONDS", "1")]).await;
    for _ in 0..20 {
        let socket = Socket::open(&node.address()).await;
        socket.post(&Hello::session(&mesh, "eve").frame()).await;
        drop(socket);
    }
    until("all of them are gone", async || ana.peers().await.len() == 2).await;
    let events = ana.events().await;
    let count = |event: &str| events.iter().filter(|(of, _)| of == event).count();
    assert_eq!(count("peer_joined"), count("peer_left"), "{events:?}");
}

/// Defect 20: containers have equal pids, commands the session id of their session.
async fn a_session_id_in_common_evicts_nobody(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let id = ben.hello.frame()["sessionId"].clone();
    let shared = json!({"sessionId": id});
    let mut others = vec![
        TestPeer::join(&node, Hello::session(&mesh, "eve").with(&shared)).await,
        TestPeer::join(&node, Hello::session(&mesh, "ben").with(&shared)).await,
        TestPeer::join(&node, Hello::member(&mesh, "ben").with(&shared)).await,
    ];
    others.push(TestPeer::join(&node, Hello::member(&mesh, "eve").with(&shared)).await);
    ben.round_trip().await;
    for peer in &mut others {
        peer.round_trip().await;
    }
    assert_eq!(ana.peers().await.len(), 6);
}

/// Defect 21.
async fn a_proven_key_cannot_be_claimed(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = ben.hello.pubkey();
    let claim = Hello::member(&mesh, "eve").with(&json!({"sessionPubkey": key}));
    let mut eve = TestPeer::join(&node, claim).await;
    let rows = ana.peers().await;
    let named = rows.iter().filter(|row| row["pubkey"] == key.as_str()).count();
    assert_eq!(named, 1, "the key is Ben's alone");
    ben.vanish();
    ana.send(key.as_str(), "for ben").await.acknowledged();
    assert_eq!(eve.texts().await, [""; 0]);
    ben.reconnect().await;
    assert_eq!(ben.next().await, "for ben");
}

/// Defect 26.
async fn an_archived_mesh_lets_nobody_in(kind: Kind) {
    let (node, _ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    node.sql("UPDATE mesh.mesh SET archived_at = now()").await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&Hello::session(&mesh, "eve").frame()).await;
    let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
    assert_eq!(error["code"], "unauthorized");
    assert_eq!(socket.close_frame().await.0, 1008);
}

async fn a_banned_member_is_not_mailed_either(kind: Kind) {
    let (_node, mut ana, ben, mesh) = ana_and_ben(kind, &[("OFFLINE_DIRECT", "queue")]).await;
    let session = ben.hello.pubkey();
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    for target in [session, mesh.member("ben").pubkey.clone()] {
        let ack = ana.send(target.as_str(), &target).await;
        assert!(ack.refused().contains("no connected peer"), "{ack:?}");
    }
}

/// As README allows it: the row is deleted beside the broker, and another made for the same key.
async fn a_member_deleted_and_invited_again_keeps_its_session_keys(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let Member { id: old, pubkey, .. } = mesh.member("ben").clone();
    assert_eq!(node.sql(&format!("DELETE FROM mesh.member WHERE id = '{old}'")).await, 1);
    assert_eq!(ben.close_frame().await, (4002, "banned".into()));
    let new = "invitedagain00000000000000000000";
    node.sql(&format!(
        "INSERT INTO mesh.member (id, mesh_id, peer_pubkey, display_name, role, joined_at) \
         VALUES ('{new}', '{}', '{pubkey}', 'ben', 'member', now())",
        mesh.id
    ))
    .await;
    new.clone_into(&mut ben.hello.member.id);
    ben.reconnect().await;
    let mail = ana.send(&ben, "welcome back").await.acknowledged();
    assert_eq!(ben.next().await, "welcome back");
    // The key is the new member's: what was sent to it concerns the member.
    until("the status of the message is told", async || {
        ben.ask(json!({"type": "message_status", "messageId": mail})).await["delivered"] == true
    })
    .await;
    // And nobody else's.
    let claim = Hello::member(&mesh, "eve").with(&json!({"sessionPubkey": ben.hello.pubkey()}));
    let _eve = TestPeer::join(&node, claim).await;
    let rows = ana.peers().await;
    let named = rows.iter().filter(|row| row["pubkey"] == ben.hello.pubkey()).count();
    assert_eq!(named, 1, "{rows:?}");
}
