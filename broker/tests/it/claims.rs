//! Claimed session keys: a plain `hello` may name a key that it does not prove. The claim counts only
//! while the key is nobody else's, and what is sealed to it is for that session alone.

use protocol::invite::Invite;
use serde_json::{Value, json};

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope, fresh_key};
use crate::support::until;

on_each_store!(
    a_members_key_cannot_be_claimed,
    a_removed_members_key_cannot_be_claimed,
    the_owners_key_cannot_be_claimed,
    a_claim_ends_when_the_key_becomes_the_owners,
    a_claim_ends_when_a_member_with_that_key_joins,
    a_claim_ends_when_a_member_with_that_key_says_hello,
    a_key_is_claimed_by_one_member_at_a_time,
    a_claim_ends_when_the_key_is_proven,
    a_push_names_no_key_but_the_senders_own,
    sealed_mail_waits_for_the_claimed_key_to_return,
    sealed_mail_ends_with_the_presence_that_claimed_the_key,
    a_short_lived_session_that_is_gone_is_no_recipient,
    a_clients_own_key_may_be_claimed_again,
);

/// A client that names a key it does not prove, and stays.
fn claiming(mesh: &Mesh, name: &str, key: &str) -> Hello {
    Hello::member(mesh, name).with(&json!({"sessionPubkey": key, "channel": "legacy"}))
}

async fn rows_of(peer: &mut TestPeer, key: &str) -> Vec<Value> {
    peer.peers().await.into_iter().filter(|row| row["pubkey"] == key).collect()
}

/// Whoever says hello like this must not be known by the key, get its mail, or send under it.
async fn counts_for_nothing(node: &Node, mesh: &Mesh, ana: &mut TestPeer, key: &str) {
    let mut eve = TestPeer::join(node, claiming(mesh, "eve", key)).await;
    eve.post(&json!({"type": "set_visible", "visible": false})).await;
    let named = rows_of(&mut eve, key).await;
    assert!(named.iter().all(|row| row["memberPubkey"] == key), "{named:?}");
    let mut mail = envelope(key, "for the key's owner");
    mail["offline"] = json!("queue");
    ana.send_frame(&mail).await;
    let to_ana = eve.send(&*ana, "from eve").await.acknowledged();
    let push = ana.next_push().await;
    assert_eq!(push["messageId"], to_ana.as_str());
    assert_eq!(push["senderPubkey"], mesh.member("eve").pubkey, "{push}");
    assert_eq!(eve.texts().await, [""; 0]);
}

async fn a_members_key_cannot_be_claimed(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = mesh.member("ben").pubkey.clone();
    counts_for_nothing(&node, &mesh, &mut ana, &key).await;
    let own = mesh.member("eve").pubkey.clone();
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &own)).await;
    assert!(eve.peers().await.iter().any(|row| row["pubkey"] == own.as_str()));
}

async fn a_removed_members_key_cannot_be_claimed(kind: Kind) {
    let (node, mut ana, ben, mesh) = ana_and_ben(kind, &[]).await;
    let (member, session) = (mesh.member("ben").pubkey.clone(), ben.hello.pubkey());
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    counts_for_nothing(&node, &mesh, &mut ana, &member).await;
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &session)).await;
    assert_eq!(rows_of(&mut eve, &session).await, [Value::Null; 0]);
}

/// It signs the invites of a mesh, and is often no member's.
async fn the_owners_key_cannot_be_claimed(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = Invite::from_token(mesh.invite_token()).unwrap().owner_pubkey;
    let members = format!("SELECT count(*) FROM mesh.member WHERE peer_pubkey = '{key}'");
    assert_eq!(node.count(&members).await, 0);
    counts_for_nothing(&node, &mesh, &mut ana, &key).await;
}

async fn a_claim_ends_when_the_key_becomes_the_owners(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &key)).await;
    assert_eq!(rows_of(&mut eve, &key).await.len(), 1);
    let written = key.to_uppercase();
    node.sql(&format!("UPDATE mesh.mesh SET owner_pubkey = '{written}' WHERE id = '{}'", mesh.id))
        .await;
    ana.send(key.as_str(), "for the owner").await;
    assert_eq!(eve.close_frame().await, (1000, "session_replaced".to_owned()));
    eve.reconnect().await;
    assert_eq!(rows_of(&mut eve, &key).await, [Value::Null; 0]);
}

async fn a_claim_ends_when_a_member_with_that_key_joins(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &key)).await;
    assert_eq!(rows_of(&mut eve, &key).await.len(), 1);
    let body =
        json!({"invite_token": mesh.invite_token(), "peer_pubkey": key, "display_name": "joe"});
    let joined = node.post("/join", &body.to_string()).await;
    assert_eq!(joined.status, 200, "{}", joined.body);
    let mut mail = envelope(key.as_str(), "for joe");
    mail["offline"] = json!("queue");
    assert_eq!(ana.send_frame(&mail).await.0["held"], true);
    assert_eq!(eve.close_frame().await, (1000, "session_replaced".to_owned()));
    eve.reconnect().await;
    assert_eq!(rows_of(&mut eve, &key).await, [Value::Null; 0]);
    assert_eq!(eve.texts().await, [""; 0]);
}

async fn a_claim_ends_when_a_member_with_that_key_says_hello(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key();
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &key.public_hex())).await;
    let mut late = mesh.member("ben").clone();
    // As another program on the same store writes it.
    let id = "latecomer00000000000000000000000";
    node.sql(&format!(
        "INSERT INTO mesh.member (id, mesh_id, peer_pubkey, display_name, role, joined_at) \
         VALUES ('{id}', '{}', '{}', 'late', 'member', now())",
        mesh.id,
        key.public_hex()
    ))
    .await;
    (late.id, late.pubkey, late.key) = (id.to_owned(), key.public_hex(), key.clone());
    let mut hello = Hello::member(&mesh, "ben");
    hello.member = late;
    let mut late = TestPeer::join(&node, hello).await;
    assert_eq!(eve.close_frame().await, (1000, "session_replaced".to_owned()));
    ana.send(&late, "for the member").await.acknowledged();
    assert_eq!(late.next().await, "for the member");
}

async fn a_key_is_claimed_by_one_member_at_a_time(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let mut first = TestPeer::join(&node, claiming(&mesh, "ben", &key)).await;
    let mut second = TestPeer::join(&node, claiming(&mesh, "eve", &key)).await;
    let rows = rows_of(&mut ana, &key).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["memberPubkey"], mesh.member("ben").pubkey);
    first.vanish();
    ana.send(key.as_str(), "sealed").await.acknowledged();
    assert_eq!(second.texts().await, [""; 0]);
    first.reconnect().await;
    assert_eq!(first.next().await, "sealed");
}

async fn a_claim_ends_when_the_key_is_proven(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let proven = Hello::session(&mesh, "ben");
    let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &proven.pubkey())).await;
    let mut session = TestPeer::join(&node, proven).await;
    assert_eq!(eve.close_frame().await, (1000, "session_replaced".to_owned()));
    ana.send(&session, "for the prover").await.acknowledged();
    assert_eq!(session.next().await, "for the prover");
    eve.reconnect().await;
    assert_eq!(eve.texts().await, [""; 0]);
    let owner = &rows_of(&mut ana, &session.hello.pubkey()).await[0]["memberPubkey"];
    assert_eq!(*owner, mesh.member("ben").pubkey);
}

async fn a_push_names_no_key_but_the_senders_own(kind: Kind) {
    let (node, mut ana, ben, mesh) = ana_and_ben(kind, &[]).await;
    let daemon = TestPeer::member(&node, &mesh, "ben").await;
    for key in [ben.hello.pubkey(), daemon.hello.pubkey(), ana.hello.pubkey()] {
        let mut eve = TestPeer::join(&node, claiming(&mesh, "eve", &key)).await;
        for target in [ana.hello.pubkey(), "*".to_owned()] {
            let id = format!("{}-{}", &key[..6], &target[..1]);
            eve.send_frame(&envelope(target.as_str(), &id)).await.acknowledged();
            assert_eq!(ana.next_push().await["senderPubkey"], mesh.member("eve").pubkey);
        }
    }
}

/// A client that lives longer than a command keeps its mail in its grace.
async fn sealed_mail_waits_for_the_claimed_key_to_return(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let mut client = TestPeer::join(&node, claiming(&mesh, "ben", &key)).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    client.vanish();
    let sealed = ana.send(key.as_str(), "sealed").await.acknowledged();
    let all = ana.send("*", "to all").await.acknowledged();
    client.reconnect().await;
    assert_eq!([client.next().await, client.next().await], ["sealed", "to all"]);
    until("both are delivered", async || {
        ana.is_delivered(&sealed).await && ana.is_delivered(&all).await
    })
    .await;
    assert_eq!(daemon.texts().await, ["to all"]);
}

/// Its member could not decrypt it.
async fn sealed_mail_ends_with_the_presence_that_claimed_the_key(kind: Kind) {
    let (node, mut ana, ben, mesh) = ana_and_ben(kind, &[("LEASE_GRACE_SECONDS", "1")]).await;
    let key = fresh_key().public_hex();
    let hello = claiming(&mesh, "ben", &key).with(&json!({"displayName": "client"}));
    let mut client = TestPeer::join(&node, hello).await;
    ana.expect_event("peer_joined", "client").await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    drop(ben);
    client.become_one_that(crate::support::socket::Habit::Reads);
    let sealed = ana.send(key.as_str(), "sealed").await.acknowledged();
    ana.send("*", "to all").await.acknowledged();
    client.vanish();
    ana.expect_event("peer_left", "client").await;
    // What was sent to many is the member's: once as its own, once inherited.
    assert_eq!(daemon.next().await, "to all");
    assert_eq!(daemon.next().await, "to all");
    let status = ana.ask(json!({"type": "message_status", "messageId": sealed})).await;
    assert_eq!((&status["delivered"], &status["deliveredAt"]), (&json!(false), &Value::Null));
    assert_eq!(status["recipients"][0]["status"], "undeliverable", "{status}");
    assert_eq!(daemon.texts().await, [""; 0]);
    assert_eq!(ana.send(key.as_str(), "too late").await.refused()[..17], *"no connected peer");
}

async fn a_short_lived_session_that_is_gone_is_no_recipient(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let once = json!({"sessionPubkey": key, "channel": "claude-code"});
    let mut command = TestPeer::join(&node, Hello::member(&mesh, "ben").with(&once)).await;
    ana.send(key.as_str(), "while it runs").await.acknowledged();
    assert_eq!(command.next().await, "while it runs");
    command.vanish();
    until("nobody is there", async || {
        let ack = ana.send_frame(&envelope(key.as_str(), &fresh_key().public_hex()[..16])).await;
        ack.0["queued"] == false
    })
    .await;
    let refused = ana.send(key.as_str(), "gone").await;
    assert!(refused.refused().contains("no connected peer"), "{refused:?}");
}

async fn a_clients_own_key_may_be_claimed_again(kind: Kind) {
    let (mut node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key().public_hex();
    let mut client = TestPeer::join(&node, claiming(&mesh, "ben", &key)).await;
    let presence = client.presence();
    client.vanish();
    client.reconnect().await;
    assert_eq!(client.presence(), presence);
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    client.reconnect().await;
    assert_eq!(client.presence(), presence);
    ana.send(key.as_str(), "sealed").await.acknowledged();
    assert_eq!(client.next().await, "sealed");
}
