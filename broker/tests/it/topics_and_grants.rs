//! Who may write to whom: grants (protocol-core §4.4), and topics as `send` knows them (§4.5).

use serde_json::json;

use crate::support::node::{Kind, Member, Mesh, Node, on_each_store};
use crate::support::peer::{Ack, Hello, TestPeer, ana_and_ben, envelope};
use crate::support::until;

on_each_store!(
    a_topic_reaches_the_sessions_of_its_members,
    a_topics_history_has_what_was_accepted,
    whom_a_topic_message_names_is_notified,
    a_topic_is_written_to_by_its_members,
    a_blocked_sender_is_told,
    a_broadcast_passes_those_by_who_do_not_want_it,
    grants_are_asked_again_when_an_envelope_leaves,
    a_grant_finds_a_member_whose_key_is_written_in_capitals,
);

const TOPIC: &str = "topic0000000000000000000";

/// `#general` with these members.
async fn topic(node: &Node, mesh: &Mesh, members: &[&str]) {
    node.sql(&format!(
        "INSERT INTO mesh.topic (id, mesh_id, name, created_at) \
         VALUES ('{TOPIC}', '{}', 'general', now())",
        mesh.id
    ))
    .await;
    for name in members {
        node.sql(&format!(
            "INSERT INTO mesh.topic_member (topic_id, member_id, joined_at) \
             VALUES ('{TOPIC}', '{}', now())",
            mesh.member(name).id
        ))
        .await;
    }
}

/// Defects 11 and 35.
async fn a_topic_reaches_the_sessions_of_its_members(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    topic(&node, &mesh, &["ana", "ben"]).await;
    let mut bens = TestPeer::session(&node, &mesh, "ben").await;
    let mut anas = TestPeer::session(&node, &mesh, "ana").await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ben.vanish();
    for target in ["#general", &format!("#{TOPIC}")] {
        let id = ana.send(target, target).await.acknowledged();
        for peer in [&mut bens, &mut anas] {
            let push = peer.next_push().await;
            assert_eq!((&push["messageId"], &push["topic"]), (&json!(id), &json!("general")));
            assert_eq!(push["senderName"], "ana");
        }
    }
    // One that was away gets them, too.
    ben.reconnect().await;
    assert_eq!(ben.next().await, "#general");
    assert_eq!(ben.next_push().await["topic"], "general");
    for peer in [&mut ana, &mut eve] {
        assert_eq!(peer.texts().await, [""; 0]);
    }
}

async fn a_topics_history_has_what_was_accepted(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    topic(&node, &mesh, &["ana"]).await;
    let first = ana.send("#general", "one").await.acknowledged();
    // A repetition is no second message.
    assert_eq!(ana.send("#general", "one").await.acknowledged(), first);
    let mut reply = envelope("#general", "two");
    reply["replyToId"] = json!(first);
    let second = ana.send_frame(&reply).await.acknowledged();
    let mut stray = envelope("#general", "three");
    stray["replyToId"] = json!("00000000000000000000000000000000");
    let third = ana.send_frame(&stray).await.acknowledged();
    let history = async |condition: &str| {
        let query = format!("SELECT count(*) FROM mesh.topic_message WHERE {condition}");
        node.count(&query).await
    };
    assert_eq!(history("true").await, 3);
    assert_eq!(history(&format!("id = '{first}' AND ciphertext = 'one'")).await, 1);
    assert_eq!(history(&format!("id = '{second}' AND reply_to_id = '{first}'")).await, 1);
    assert_eq!(history(&format!("id = '{third}' AND reply_to_id IS NULL")).await, 1);
}

async fn whom_a_topic_message_names_is_notified(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    topic(&node, &mesh, &["ana"]).await;
    let mut listed = envelope("#general", "one");
    listed["mentions"] = json!(["@BEN", "ana", "nobody"]);
    let first = ana.send_frame(&listed).await.acknowledged();
    let mut named = envelope("#general", "two");
    // "hi @Eve, and mail to a@ben.org"
    named["ciphertext"] = json!("aGkgQEV2ZSwgYW5kIG1haWwgdG8gYUBiZW4ub3Jn");
    let second = ana.send_frame(&named).await.acknowledged();
    for (message, name) in [(first, "ben"), (second, "eve")] {
        let member = &mesh.member(name).id;
        let query = format!(
            "SELECT count(*) FROM mesh.notification WHERE message_id = '{message}' \
             AND recipient_member_id = '{member}' AND kind = 'mention'"
        );
        assert_eq!(node.count(&query).await, 1, "{name}");
    }
    assert_eq!(node.count("SELECT count(*) FROM mesh.notification").await, 2);
}

/// Defect 25.
async fn a_topic_is_written_to_by_its_members(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    topic(&node, &mesh, &["ana"]).await;
    let ack = ben.send("#general", "one").await;
    assert!(ack.refused().starts_with("forbidden"), "{ack:?}");
    let ack = ana.send("#nowhere", "two").await;
    assert!(ack.refused().starts_with("not_found"), "{ack:?}");
    // Another mesh's topic is none of this one's.
    let blue = node.mesh("blue", &["dan"]).await;
    let mut dan = TestPeer::session(&node, &blue, "dan").await;
    let ack = dan.send(&format!("#{TOPIC}"), "three").await;
    assert!(ack.refused().starts_with("not_found"), "{ack:?}");
    assert_eq!(node.count("SELECT count(*) FROM mesh.topic_message").await, 0);
}

async fn a_blocked_sender_is_told(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let member = mesh.member("ana").pubkey.clone();
    node.grant(&mesh, "ben", &json!({&member: []})).await;
    let text = "blocked by recipient grants (sender lacks dm capability)";
    assert_eq!(eventually_refused(&mut ana, &ben, "a").await.refused(), text);
    let ack = ana.send(&mesh.member("ben").pubkey, "to the member").await;
    assert_eq!(ack.refused(), text);
    let denied = "broker_messages_dropped_by_grant_total{cap=\"dm\"}";
    assert!(node.metric(denied).await.unwrap() >= 2.0);
    // What was accepted before is still found.
    let before = ben.send(&ana, "before").await.acknowledged();
    node.grant(&mesh, "ana", &json!({&mesh.member("ben").pubkey: ["read"]})).await;
    eventually_refused(&mut ben, &ana, "b").await;
    assert_eq!(ben.send(&ana, "before").await.acknowledged(), before);
    // The session's key counts where the member's is not named (defect 27).
    node.grant(&mesh, "ben", &json!({&ana.hello.pubkey(): ["read"]})).await;
    assert_eq!(eventually_refused(&mut ana, &ben, "c").await.refused(), text);
    let both = json!({&ana.hello.pubkey(): [], &member: ["dm"]});
    node.grant(&mesh, "ben", &both).await;
    until("the member's key counts first", async || ana.send(&ben, "d").await.0["queued"] == true)
        .await;
}

async fn a_broadcast_passes_those_by_who_do_not_want_it(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    node.grant(&mesh, "ben", &json!({&mesh.member("ana").pubkey: ["dm"]})).await;
    let denied = "broker_messages_dropped_by_grant_total{cap=\"broadcast\"}";
    let mut sent = 0;
    until("the grant is known", async || {
        sent += 1;
        ana.send("*", &format!("all {sent}")).await.acknowledged();
        node.metric(denied).await == Some(1.0)
    })
    .await;
    let last = format!("all {sent}");
    while eve.next().await != last {}
    assert!(!ben.texts().await.contains(&last));
    ana.send(&ben, "directly").await.acknowledged();
    assert_eq!(ben.next().await, "directly");
}

/// Defect 27.
async fn grants_are_asked_again_when_an_envelope_leaves(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ben.post(&json!({"type": "set_status", "status": "dnd"})).await;
    ben.round_trip().await;
    ana.send(&ben, "before the block").await.acknowledged();
    eve.send(&ben, "of eve").await.acknowledged();
    node.grant(&mesh, "ben", &json!({&mesh.member("ana").pubkey: []})).await;
    eventually_refused(&mut ana, &ben, "x").await;
    ben.post(&json!({"type": "set_status", "status": "idle"})).await;
    assert_eq!(ben.next().await, "of eve");
    assert_eq!(ben.texts().await, [""; 0]);
}

/// As other programs may have written it. Such a member says a plain hello, under the key as written.
async fn a_grant_finds_a_member_whose_key_is_written_in_capitals(kind: Kind) {
    let (node, _ana, ben, mesh) = ana_and_ben(kind, &[]).await;
    let Member { id, pubkey, .. } = mesh.member("eve").clone();
    let written = pubkey.to_uppercase();
    let write = format!("UPDATE mesh.member SET peer_pubkey = '{written}' WHERE id = '{id}'");
    assert_eq!(node.sql(&write).await, 1);
    let mut hello = Hello::member(&mesh, "eve");
    hello.member.pubkey = written;
    let mut eve = TestPeer::join(&node, hello).await;
    eve.send(&ben, "before").await.acknowledged();
    node.grant(&mesh, "ben", &json!({&pubkey: []})).await;
    eventually_refused(&mut eve, &ben, "x").await;
}

/// What others write to the store is known within a second.
async fn eventually_refused(from: &mut TestPeer, to: &TestPeer, mark: &str) -> Ack {
    let mut refused = None;
    let mut number = 0;
    until("the grant is known", async || {
        number += 1;
        // Messages nobody is pushed leave the others' order alone.
        let mut send = envelope(to, &format!("{mark}{number}"));
        send["priority"] = json!("low");
        let ack = from.send_frame(&send).await;
        let is_refused = ack.0["queued"] == false;
        refused = Some(ack).filter(|_| is_refused);
        is_refused
    })
    .await;
    refused.unwrap()
}
