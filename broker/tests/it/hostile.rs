//! Every verb, given what no honest client gives it: an answer, and nobody else is hurt (P9).

use serde_json::{Value, json};

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{TestPeer, envelope};

on_each_store!(each_verb_answers_nonsense, others_ids_open_no_doors);

/// Each verb as an honest client would use it.
fn verbs(target: &str) -> Vec<Value> {
    vec![
        json!({"type": "send", "targetSpec": target, "nonce": "", "ciphertext": "x"}),
        json!({"type": "message_status", "messageId": "00000001"}),
        json!({"type": "set_status", "status": "idle"}),
        json!({"type": "set_summary", "summary": "s"}),
        json!({"type": "set_visible", "visible": true}),
        json!({"type": "set_profile", "title": "t", "capabilities": ["c"]}),
        json!({"type": "set_stats", "stats": {"messagesIn": 1}}),
        json!({"type": "join_group", "name": "g", "role": "r"}),
        json!({"type": "leave_group", "name": "g"}),
        json!({"type": "kick", "target": "nobody", "stale": 1e9, "all": false}),
        json!({"type": "disconnect", "target": "nobody"}),
        json!({"type": "ban", "target": "nobody"}),
        json!({"type": "unban", "target": "nobody"}),
        json!({"type": "audit_query", "limit": 1, "offset": 0, "eventType": "e"}),
    ]
}

/// What a field is given instead.
fn nonsense() -> Vec<Value> {
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        json!(null),
        json!(-1),
        json!(1e300),
        json!(true),
        json!([[]]),
        json!({"a": {"b": null}}),
        json!("a\0b"),
        json!("x".repeat(20_000)),
        json!("\u{1f600}".repeat(2_000)),
        json!("__proto__"),
        deep,
    ]
}

async fn each_verb_answers_nonsense(kind: Kind) {
    let (_node, mut ana, mut ben, mut eve, _) = scene(kind).await;
    let (mut number, mut errors) = (0, Vec::new());
    for verb in verbs(&ben.hello.pubkey()) {
        let fields: Vec<String> = verb.as_object().unwrap().keys().cloned().collect();
        for field in fields.iter().filter(|field| *field != "type") {
            let mut frames: Vec<Value> = nonsense()
                .into_iter()
                .map(|value| {
                    let mut frame = verb.clone();
                    frame[field] = value;
                    frame
                })
                .collect();
            let mut missing = verb.clone();
            missing.as_object_mut().unwrap().remove(field);
            frames.push(missing);
            for mut frame in frames {
                // Verbs without a reply are followed by one that has one.
                frame["id"] = json!(format!("h{number}"));
                frame["_reqId"] = json!(format!("h{number}"));
                number += 1;
                eve.post(&frame).await;
                eve.round_trip().await;
            }
            errors.extend(eve.take_kept(|frame| frame["type"] == "error"));
            // A connection that goes on like this is closed for a flood: the next begins anew.
            eve.reconnect().await;
            let text = format!("beside {number}");
            ana.send(&ben, &text).await.acknowledged();
            ben.take(&text, |frame| frame["ciphertext"] == text.as_str()).await;
        }
    }
    assert!(errors.len() > 100, "{}", errors.len());
    for error in errors {
        assert!(error["code"].is_string() && error["id"] == error["_reqId"], "{error}");
        assert_ne!(error["code"], "unknown_message_type");
    }
    // What hid it was no nonsense: `visible` left out.
    eve.ask(json!({"type": "set_visible", "visible": true})).await;
    assert_eq!(ana.peers().await.len(), 3);
}

async fn others_ids_open_no_doors(kind: Kind) {
    let (node, mut ana, mut ben, mut eve, mesh) = scene(kind).await;
    let other = node.mesh("blue", &["dan"]).await;
    let mut dan = TestPeer::session(&node, &other, "dan").await;
    let id = ana.send(&ben, "one").await.acknowledged();
    assert_eq!(ben.next().await, "one");
    let foreign = [
        json!({"type": "message_status", "messageId": id}),
        json!({"type": "ban", "target": ben.hello.pubkey()}),
        json!({"type": "unban", "target": mesh.member("ben").pubkey}),
    ];
    for request in foreign {
        let error = dan.ask(request.clone()).await;
        assert_eq!(error["code"], "not_found", "{request} got {error}");
    }
    let ended = dan.ask(json!({"type": "kick", "target": mesh.member("ben").pubkey})).await;
    assert_eq!(ended["kicked"], json!([]));
    let ack = dan.send(&mesh.member("ben").pubkey, "across").await;
    assert!(ack.refused().contains("no connected peer"), "{ack:?}");
    // In the mesh, but not a moderator's.
    for verb in ["kick", "ban", "unban", "disconnect"] {
        let error = eve.ask(json!({"type": verb, "target": "ben", "all": true})).await;
        assert_eq!(error["code"], "forbidden", "{error}");
    }
    // A frame cannot name another presence than its own.
    let claimed = json!({
        "type": "set_summary", "summary": "mine", "presenceId": ben.presence(),
        "memberId": mesh.member("ben").id, "pubkey": ben.hello.pubkey(),
    });
    eve.post(&claimed).await;
    eve.round_trip().await;
    let rows = ana.peers().await;
    let summary =
        |name: &str| rows.iter().find(|row| row["displayName"] == name).unwrap()["summary"].clone();
    assert_eq!((summary("ben"), summary("eve")), (Value::Null, json!("mine")));
    let mut stolen = envelope(&ben, "two");
    stolen["senderMemberId"] = json!(mesh.member("ben").id);
    eve.send_frame(&stolen).await.acknowledged();
    assert_eq!(ben.next_push().await["senderMemberId"], mesh.member("eve").id);
}

async fn scene(kind: Kind) -> (Node, TestPeer, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[("SEND_RATE_PER_MINUTE", "0")]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    let eve = TestPeer::session(&node, &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    (node, ana, ben, eve, mesh)
}
