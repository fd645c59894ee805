//! Members, roles and meshes that others change in the database while peers are connected.

use serde_json::{Value, json};

use crate::support::node::{Kind, Node, on_each_store};
use crate::support::peer::{TestPeer, ana_and_ben};
use crate::support::socket::{Habit, Socket};
use crate::support::until;

on_each_store!(
    a_member_revoked_in_the_database_is_disconnected,
    a_member_deleted_from_the_database_is_disconnected,
    a_revoked_member_in_its_grace_is_gone,
    what_waits_of_and_for_a_revoked_member_is_dropped,
    a_reinstated_member_comes_back_and_is_heard,
    an_archived_mesh_disconnects_everybody,
    a_changed_role_counts_on_live_connections,
);

async fn set_member(node: &Node, id: &str, change: &str) {
    let change = format!("UPDATE mesh.member SET {change} WHERE id = '{id}'");
    assert_eq!(node.sql(&change).await, 1);
}

async fn a_member_revoked_in_the_database_is_disconnected(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    node.revoke(&mesh, "ben").await;
    for peer in [&mut ben, &mut daemon] {
        assert_eq!(peer.close_frame().await, (4002, "banned".into()));
        ana.expect_event("peer_left", "ben").await;
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&peer.hello.frame()).await;
        let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
        assert_eq!(error["code"], "revoked");
    }
    assert_eq!(ana.peers().await.len(), 1);
    assert!(ana.send(&ben, "gone").await.refused().starts_with("no connected peer"));
    let verified = ana.ask(json!({"type": "audit_verify"})).await;
    assert_eq!(verified["valid"], true, "{verified}");
}

async fn a_member_deleted_from_the_database_is_disconnected(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let id = &mesh.member("ben").id;
    assert_eq!(node.sql(&format!("DELETE FROM mesh.member WHERE id = '{id}'")).await, 1);
    assert_eq!(ben.close_frame().await, (4002, "banned".into()));
    ana.expect_event("peer_left", "ben").await;
}

async fn a_revoked_member_in_its_grace_is_gone(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    ben.vanish();
    node.revoke(&mesh, "ben").await;
    ana.expect_event("peer_left", "ben").await;
    assert_eq!(ana.peers().await.len(), 1);
}

async fn what_waits_of_and_for_a_revoked_member_is_dropped(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ben.become_one_that(Habit::Reads);
    eve.post(&json!({"type": "set_status", "status": "dnd"})).await;
    eve.round_trip().await;
    ben.send(&eve, "of ben").await.acknowledged();
    eve.send(&ben, "for ben").await.acknowledged();
    assert_eq!(ben.next().await, "for ben");
    ana.send(&eve, "of ana").await.acknowledged();
    node.revoke(&mesh, "ben").await;
    assert_eq!(ben.close_frame().await.0, 4002);
    let dropped = "broker_messages_dropped_total{reason=\"banned\"}";
    until("both are counted", async || node.metric(dropped).await == Some(2.0)).await;
    eve.post(&json!({"type": "set_status", "status": "idle"})).await;
    assert_eq!(eve.next().await, "of ana");
    assert_eq!(eve.texts().await, [""; 0]);
}

async fn a_reinstated_member_comes_back_and_is_heard(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    node.revoke(&mesh, "ben").await;
    assert_eq!(ben.close_frame().await.0, 4002);
    set_member(&node, &mesh.member("ben").id, "revoked_at = NULL").await;
    ben.reconnect().await;
    ana.expect_event("peer_joined", "ben").await;
    ana.send(&ben, "welcome").await.acknowledged();
    assert_eq!(ben.next().await, "welcome");
    ben.send(&ana, "thank you").await.acknowledged();
    assert_eq!(ana.next().await, "thank you");
    // It stays: what was read of it before it was let in again is not held against it.
    let wait = ana.ask(json!({"type": "list_bans"})).await;
    assert_eq!(wait["bans"], json!([]));
    ben.round_trip().await;
}

async fn an_archived_mesh_disconnects_everybody(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let archive = format!("UPDATE mesh.mesh SET archived_at = now() WHERE id = '{}'", mesh.id);
    assert_eq!(node.sql(&archive).await, 1);
    for peer in [&mut ana, &mut ben] {
        assert_eq!(peer.close_frame().await, (1008, "unauthorized".into()));
    }
    let leases = "SELECT count(*) FROM broker.lease";
    until("no lease is left", async || node.count(leases).await == 0).await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&ana.hello.frame()).await;
    let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
    assert_eq!(error["code"], "unauthorized");
}

async fn a_changed_role_counts_on_live_connections(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    ana.send(&ben, "one").await.acknowledged();
    let id = &mesh.member("ben").id;
    let query = json!({"type": "audit_query", "eventType": "message_sent"});
    let seen = async |ben: &mut TestPeer| ben.ask(query.clone()).await["total"].clone();
    assert_eq!(seen(&mut ben).await, Value::from(0));
    set_member(&node, id, "role = 'admin'").await;
    until("an admin sees it", async || seen(&mut ben).await == 1).await;
    set_member(&node, id, "role = 'member'").await;
    until("an admin no more sees it no more", async || seen(&mut ben).await == 0).await;
}
