//! The audit chain (protocol-core §7): what it has, who reads it, and that it shows a forgery.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::node::{Kind, on_each_store};
use crate::support::peer::{TestPeer, ana_and_ben};

on_each_store!(
    what_happens_is_in_the_chain,
    the_chain_is_what_the_reference_would_write,
    a_repetition_is_no_entry,
    a_query_is_bounded_and_paged,
    whom_others_write_to_is_not_everybodys_to_know,
    a_forgery_is_found,
    the_chain_goes_on_after_a_restart,
);

async fn what_happens_is_in_the_chain(kind: Kind) {
    let (_node, mut ana, ben, mesh) = ana_and_ben(kind, &[]).await;
    ana.send(&ben, "one").await.acknowledged();
    let told = query(&mut ana, json!({})).await;
    let entries = told["entries"].as_array().unwrap();
    let events: Vec<_> = entries.iter().map(|entry| entry["eventType"].clone()).collect();
    assert_eq!(events, ["message_sent", "peer_joined", "peer_joined"]);
    assert_eq!(told["total"], 3);
    let sent = &entries[0];
    assert_eq!(sent["payload"], json!({"targetSpec": ben.hello.pubkey(), "priority": "next"}));
    assert_eq!(sent["actor"], "ana");
    assert!(sent["createdAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(sent["hash"].as_str().unwrap().len(), 64);
    let joined = &entries[1]["payload"];
    assert_eq!(joined["pubkey"], mesh.member("ben").pubkey);
    assert_eq!((&joined["via"], &joined["role"]), (&json!("session_hello"), &json!("session")));
    let told = query(&mut ana, json!({"eventType": "peer_joined"})).await;
    assert_eq!((&told["total"], told["entries"].as_array().unwrap().len()), (&json!(2), 2));
}

/// Recomputed from what a client is told, in other code than the broker's.
async fn the_chain_is_what_the_reference_would_write(kind: Kind) {
    let (_node, mut ana, ben, mesh) = ana_and_ben(kind, &[]).await;
    for text in ["one", "two"] {
        ana.send(&ben, text).await.acknowledged();
    }
    let told = query(&mut ana, json!({})).await;
    let mut last = "genesis".to_owned();
    for entry in told["entries"].as_array().unwrap().iter().rev() {
        let text = |field: &str| entry[field].as_str().unwrap();
        let actor = &mesh.member(text("actor")).id;
        // serde_json sorts keys; these payloads are ASCII.
        let payload = entry["payload"].to_string();
        let line = format!(
            "{last}|{}|{}|{actor}|{payload}|{}",
            mesh.id,
            text("eventType"),
            text("createdAt")
        );
        assert_eq!(text("hash"), hex::encode(Sha256::digest(line)));
        text("hash").clone_into(&mut last);
    }
}

async fn a_repetition_is_no_entry(kind: Kind) {
    let (_node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    let first = ana.send(&ben, "one").await.acknowledged();
    // The same and new ones, in one go.
    for text in ["one", "two", "one", "three"] {
        ana.post(&crate::support::peer::envelope(&ben, text)).await;
    }
    for text in ["one", "two", "one", "three"] {
        let id = ana.ack_of(text).await.acknowledged();
        assert_eq!(id == first, text == "one");
    }
    let told = query(&mut ana, json!({"eventType": "message_sent"})).await;
    assert_eq!(told["total"], 3);
    assert_eq!(verified(&mut ana).await, json!({"valid": true, "entries": 5}));
}

async fn a_query_is_bounded_and_paged(kind: Kind) {
    let (_node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    for number in 0..250 {
        ana.post(&crate::support::peer::envelope(&ben, &number.to_string())).await;
    }
    for number in 0..250 {
        ana.ack_of(&number.to_string()).await.acknowledged();
    }
    let entries = |told: &Value| told["entries"].as_array().unwrap().clone();
    assert_eq!(entries(&query(&mut ana, json!({})).await).len(), 50);
    let told = query(&mut ana, json!({"limit": 1_000_000})).await;
    let all = entries(&told);
    assert_eq!((all.len(), &told["total"]), (200, &json!(252)));
    let told = query(&mut ana, json!({"limit": 3, "offset": 2})).await;
    assert_eq!(entries(&told), &all[2..5]);
}

/// Defect 29.
async fn whom_others_write_to_is_not_everybodys_to_know(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ana.send(&ben, "one").await.acknowledged();
    ben.send(&ana, "two").await.acknowledged();
    let told = query(&mut ben, json!({"eventType": "message_sent"})).await;
    assert_eq!((&told["total"], &told["entries"][0]["actor"]), (&json!(1), &json!("ben")));
    let told = query(&mut ben, json!({"eventType": "peer_joined"})).await;
    assert_eq!(told["total"], 2);
    let told = query(&mut ana, json!({"eventType": "message_sent"})).await;
    assert_eq!(told["total"], 2, "the owner reads all of it");
}

async fn a_forgery_is_found(kind: Kind) {
    let (node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    ana.send(&ben, "one").await.acknowledged();
    ana.send(&ben, "two").await.acknowledged();
    assert_eq!(verified(&mut ana).await, json!({"valid": true, "entries": 4}));
    let told = query(&mut ana, json!({"limit": 2})).await;
    let forged = &told["entries"][1]["id"];
    let forge = format!(
        "UPDATE mesh.audit_log SET payload = '{{\"priority\":\"now\"}}' WHERE id = {forged}"
    );
    assert_eq!(node.sql(&forge).await, 1);
    let expected = json!({"valid": false, "entries": 2, "brokenAt": forged});
    assert_eq!(verified(&mut ana).await, expected);
}

async fn the_chain_goes_on_after_a_restart(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ana.send(&ben, "one").await.acknowledged();
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    ana.send(&ben, "two").await.acknowledged();
    assert_eq!(verified(&mut ana).await, json!({"valid": true, "entries": 4}));
}

async fn query(peer: &mut TestPeer, fields: Value) -> Value {
    let mut request = fields;
    request["type"] = json!("audit_query");
    let told = peer.ask(request).await;
    assert_eq!(told["type"], "audit_result", "{told}");
    told
}

async fn verified(peer: &mut TestPeer) -> Value {
    let mut told = peer.ask(json!({"type": "audit_verify"})).await;
    assert_eq!(told["type"], "audit_verify_result", "{told}");
    let fields = told.as_object_mut().unwrap();
    fields.remove("type");
    fields.remove("_reqId");
    told
}
