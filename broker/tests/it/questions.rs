//! What peers ask: who may, in which order they are answered, and that it costs nobody else.

use broker::edge::session::{COST_BURST, COST_PER_SECOND};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope};
use crate::support::socket::Habit;

on_each_store!(
    answers_come_in_the_order_of_the_requests,
    whom_a_message_does_not_concern_is_told_nothing_of_it,
    the_chain_is_verified_for_moderators_and_on_the_command_line,
);

/// Answered at the edge, from memory, from the store, behind a commit, late, and not at all.
fn requests() -> Vec<Value> {
    vec![
        json!({"type": "list_peers"}),
        json!({"type": "vault_list"}),
        json!({"type": "audit_verify"}),
        json!({"type": "ban", "target": 7}),
        json!({"type": "audit_query", "limit": 3}),
        json!({"type": "set_profile", "title": "t"}),
        json!({"type": "message_status", "messageId": "short"}),
        json!({"type": "message_status", "messageId": "zzzzzzzz"}),
        json!({"type": "set_visible", "visible": true}),
        json!({"type": "list_bans"}),
        json!({"type": "set_status", "status": "asleep"}),
        json!({"type": "kick", "target": "nobody"}),
        json!({"type": "list_peers"}),
        json!({"type": "unban", "target": "nobody"}),
        json!({"type": "ban", "target": "nobody"}),
        json!({"type": "vault_get"}),
    ]
}

async fn asks_in_order(peer: &mut TestPeer, other: &TestPeer) {
    for round in 0..3 {
        let mut asked = Vec::new();
        for (number, mut request) in requests().into_iter().enumerate() {
            let id = format!("{round}-{number}");
            request["_reqId"] = json!(id);
            asked.push(id);
            peer.post(&request).await;
            peer.post(&json!({"type": "set_summary", "summary": "s"})).await;
            peer.post(&envelope(other, &format!("m-{round}-{number}"))).await;
        }
        let mut answered = Vec::new();
        while answered.len() < asked.len() {
            let is_answer = |frame: &Value| frame["_reqId"].is_string();
            answered.push(peer.take("an answer", is_answer).await);
        }
        let ids: Vec<_> = answered.iter().map(|a| a["_reqId"].as_str().unwrap()).collect();
        assert_eq!(ids, asked);
        for number in 0..asked.len() {
            peer.ack_of(&format!("m-{round}-{number}")).await.acknowledged();
        }
    }
}

async fn answers_come_in_the_order_of_the_requests(kind: Kind) {
    let (_node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    asks_in_order(&mut ana, &ben).await;
}

/// Whoever asks is connected to one node, and another runs the mesh.
#[tokio::test]
async fn answers_from_another_node_come_in_the_order_of_the_requests() {
    let cluster = Cluster::of(2, &[]).await;
    let mesh = cluster.mesh_on(0, &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&cluster.nodes[1], &mesh, "ana").await;
    let ben = TestPeer::session(&cluster.nodes[1], &mesh, "ben").await;
    asks_in_order(&mut ana, &ben).await;
}

async fn status(peer: &mut TestPeer, message: &str) -> Value {
    let mut status = peer.ask(json!({"type": "message_status", "messageId": message})).await;
    for field in ["_reqId", "id"] {
        status.as_object_mut().unwrap().remove(field);
    }
    status
}

async fn whom_a_message_does_not_concern_is_told_nothing_of_it(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve", "carl"]).await;
    let join = async |name: &str| TestPeer::session(&node, &mesh, name).await;
    let (mut ana, mut ben, mut eve, mut carl) =
        (join("ana").await, join("ben").await, join("eve").await, join("carl").await);
    eve.become_one_that(Habit::Reads);
    let (mut ben_too, mut eve_too) = (join("ben").await, join("eve").await);
    let direct = ben.send(&eve, "one").await.acknowledged();
    let to_member = ben.send(&mesh.member("eve").pubkey, "two").await.acknowledged();
    let nothing = status(&mut carl, "zzzzzzzzzzzz").await;
    assert_eq!(nothing["code"], "not_found");
    for message in [&direct, &to_member] {
        for length in [8, 9, 20, 32] {
            let prefix = &message[..length];
            assert_eq!(status(&mut carl, prefix).await, nothing, "{prefix}");
            for concerned in [&mut ben, &mut ben_too, &mut eve, &mut eve_too, &mut ana] {
                let told = status(concerned, prefix).await;
                assert_eq!(told["type"], "message_status_result", "{told}");
            }
        }
        // The same place, another message.
        let wrong = format!("{}{}", &message[..8], "0".repeat(24));
        assert_eq!(status(&mut ben, &wrong).await, nothing);
    }
    // Once its recipient is gone, it still is its member's.
    eve.leave().await;
    assert_eq!(status(&mut eve_too, &direct).await["type"], "message_status_result");
    assert_eq!(status(&mut carl, &direct).await, nothing);
    let to_all = ana.send("*", "all").await.acknowledged();
    for name in ["ben", "carl", "eve"] {
        let mut other = join(name).await;
        assert_eq!(status(&mut other, &to_all).await["type"], "message_status_result", "{name}");
    }
}

async fn the_chain_is_verified_for_moderators_and_on_the_command_line(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let blue = node.mesh("blue", &["ana"]).await;
    let refused = ben.ask(json!({"type": "audit_verify"})).await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("forbidden")));
    for number in 0..600 {
        ana.post(&envelope(&ben, &number.to_string())).await;
    }
    for number in 0..600 {
        ana.ack_of(&number.to_string()).await.acknowledged();
    }
    for _ in 0..2 {
        let told = ana.ask(json!({"type": "audit_verify"})).await;
        assert_eq!((&told["valid"], &told["entries"]), (&json!(true), &json!(602)), "{told}");
    }
    let verified = async |args: &[&str]| -> Value {
        let args: Vec<_> = ["audit", "verify", "--json"].iter().chain(args).copied().collect();
        serde_json::from_slice(&node.run(&args).await).unwrap()
    };
    let all = verified(&[]).await;
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let red = json!([{"mesh_id": mesh.id, "slug": "red", "valid": true, "entries": 602}]);
    assert_eq!(verified(&["--mesh", "red"]).await, red);
    assert_eq!(verified(&["--mesh", &blue.id]).await[0]["entries"], 0);
    let first = format!(
        "UPDATE mesh.audit_log SET actor_member_id = 'x' WHERE mesh_id = '{}' AND prev_hash = 'genesis'",
        mesh.id
    );
    assert_eq!(node.sql(&first).await, 1);
    let (code, told) = node.run_to_fail(&["audit", "verify"]).await;
    assert!(code == 1 && told.contains("broken at row"), "{code} {told}");
}

/// Some who ask as much as they may, in one mesh; and what another mesh's sends take meanwhile.
#[tokio::test]
async fn who_asks_much_is_answered_more_slowly_and_nobody_else() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let other: Mesh = node.mesh("blue", &["carl", "dora"]).await;
    let groups: Vec<Value> = (0..64).map(|n| json!({"name": format!("{n:0>256}")})).collect();
    let mut fat = Vec::new();
    for _ in 0..60 {
        let hello = Hello::session(&mesh, "ana").with(&json!({"groups": groups}));
        fat.push(TestPeer::join_as(&node, hello, Habit::Reads).await);
    }
    let (start, count) = (Instant::now(), 14);
    let mut asker = TestPeer::session(&node, &mesh, "ben").await;
    let list = asker.ask(json!({"type": "list_peers"})).await.to_string().len() as u64;
    for _ in 0..count {
        asker.peers().await;
    }
    // The last one or two are still owed.
    let paid = (count - 2) * list - COST_BURST;
    let least = Duration::from_millis(1000 * paid / COST_PER_SECOND);
    assert!(start.elapsed() > least, "{count} lists of {list} bytes in {:?}", start.elapsed());
    // It goes on sending while it owes, and others are not held up.
    let mut carl = TestPeer::session(&node, &other, "carl").await;
    let dora = TestPeer::session(&node, &other, "dora").await;
    asker.send("*", "while it owes").await.acknowledged();
    carl.send(&dora, "x").await.acknowledged();
}
