//! What peers say of themselves (protocol-core §5), and what of it they find again.

use serde_json::{Value, json};

use crate::support::node::{Kind, Mesh, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben};
use crate::support::until;

on_each_store!(
    what_a_peer_says_of_itself_is_listed,
    what_it_says_survives_a_restart,
    a_hidden_peer_is_hidden_and_hears_no_broadcasts,
    groups_are_entered_and_left,
    too_many_groups_are_refused,
    a_member_finds_again_what_it_left,
    sessions_leave_nothing_to_their_member,
    siblings_do_not_undo_each_others_changes,
    what_is_counted_is_counted_once,
    a_command_that_comes_and_goes_is_no_news,
    a_command_that_stays_is_a_peer_like_others,
);

async fn what_a_peer_says_of_itself_is_listed(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.post(&json!({"type": "set_summary", "summary": "reading"})).await;
    ben.post(&json!({"type": "set_status", "status": "dnd"})).await;
    ben.post(&json!({"type": "set_stats", "stats": {"messagesIn": 3, "uptime": 1.5}})).await;
    let acks = [
        ben.ask(json!({"type": "set_profile", "title": "a", "capabilities": ["x"]})).await,
        ben.ask(json!({"type": "set_profile", "title": "b", "bio": "c"})).await,
    ];
    for ack in acks {
        assert_eq!(ack["type"], "ack");
        assert_eq!(ack["id"], ack["_reqId"]);
        assert_eq!((&ack["messageId"], &ack["queued"]), (&json!(""), &json!(false)));
        assert!(ack.get("error").is_none(), "{ack}");
    }
    let row = row_of(&mut ana, "ben").await;
    assert_eq!((&row["status"], &row["summary"]), (&json!("dnd"), &json!("reading")));
    assert_eq!(row["profile"], json!({"title": "b", "bio": "c", "capabilities": ["x"]}));
    assert_eq!(row["stats"], json!({"messagesIn": 3, "uptime": 1.5}));
    // Each presence has its own (defect 30).
    let row = row_of(&mut ben, "ana").await;
    assert_eq!((&row["status"], &row["summary"]), (&json!("idle"), &Value::Null));
    assert!(row.get("profile").is_none() && row.get("stats").is_none(), "{row}");
}

async fn what_it_says_survives_a_restart(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.post(&json!({"type": "set_summary", "summary": "reading"})).await;
    ben.post(&json!({"type": "set_status", "status": "dnd"})).await;
    ben.ask(json!({"type": "set_visible", "visible": true})).await;
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    let row = row_of(&mut ana, "ben").await;
    assert_eq!((&row["status"], &row["summary"]), (&json!("dnd"), &json!("reading")));
}

async fn a_hidden_peer_is_hidden_and_hears_no_broadcasts(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut sibling = TestPeer::session(&node, &mesh, "ben").await;
    // A missing value hides, as in the reference.
    ben.ask(json!({"type": "set_visible"})).await;
    ben.ask(json!({"type": "set_visible", "visible": false})).await;
    for _ in 0..2 {
        let told = ana.expect_event("peer_hidden", "ben").await;
        assert_eq!(told["pubkey"], ben.hello.pubkey());
    }
    sibling.expect_event("peer_hidden", "ben").await;
    let own = ben.hello.pubkey();
    assert!(!keys(&mut ana).await.contains(&own), "others do not see it");
    assert!(keys(&mut sibling).await.contains(&own), "its member does");
    ana.send("*", "to all").await.acknowledged();
    ana.send(&ben, "to ben").await.acknowledged();
    assert_eq!(ben.next().await, "to ben");
    assert_eq!(sibling.next().await, "to all");
    ben.ask(json!({"type": "set_visible", "visible": true})).await;
    ana.expect_event("peer_visible", "ben").await;
    ana.send("*", "again").await.acknowledged();
    assert_eq!(ben.next().await, "again");
}

async fn groups_are_entered_and_left(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.post(&json!({"type": "join_group", "name": "team/red", "role": "lead"})).await;
    ben.post(&json!({"type": "join_group", "name": "other"})).await;
    ben.post(&json!({"type": "join_group", "name": "team/red", "role": ""})).await;
    ben.round_trip().await;
    ana.send("@team", "to the team").await.acknowledged();
    assert_eq!(ben.next().await, "to the team");
    let row = row_of(&mut ana, "ben").await;
    assert_eq!(row["groups"], json!([{"name": "team/red"}, {"name": "other"}]));
    ben.post(&json!({"type": "leave_group", "name": "team/red"})).await;
    ben.round_trip().await;
    ana.send("@team", "to nobody").await.acknowledged();
    assert_eq!(ben.texts().await, [""; 0]);
}

async fn too_many_groups_are_refused(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    for number in 0..64 {
        ben.post(&json!({"type": "join_group", "name": format!("g{number}")})).await;
    }
    let refused = ben.ask(json!({"type": "join_group", "name": "one more"})).await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("invalid")));
    let row = row_of(&mut ana, "ben").await;
    assert_eq!(row["groups"].as_array().unwrap().len(), 64);
}

async fn a_member_finds_again_what_it_left(kind: Kind) {
    let (node, mut ana, ben, mesh) = ana_and_ben(kind, &GRACE).await;
    drop(ben);
    let hello = || Hello::member(&mesh, "eve").with(&json!({"sessionId": "daemon-1"}));
    let mut eve = TestPeer::join(&node, hello()).await;
    assert!(eve.hello_ack.get("restored").is_none(), "{}", eve.hello_ack);
    ana.expect_event("peer_joined", "eve").await;
    eve.post(&json!({"type": "join_group", "name": "team"})).await;
    eve.post(&json!({"type": "set_summary", "summary": "reading"})).await;
    eve.post(&json!({"type": "set_stats", "stats": {"messagesIn": 3, "toolCalls": 2}})).await;
    eve.ask(json!({"type": "set_profile", "title": "t"})).await;
    eve.ask(json!({"type": "set_visible", "visible": false})).await;
    eve.leave().await;
    ana.expect_event("peer_left", "eve").await;
    let eve = TestPeer::join(&node, hello().with(&json!({"sessionId": "daemon-2"}))).await;
    let ack = &eve.hello_ack;
    assert_eq!(ack["restored"], true, "{ack}");
    assert_eq!(ack["lastSummary"], "reading");
    assert_eq!(ack["restoredGroups"], json!([{"name": "team"}]));
    let stats = json!({"messagesIn": 3, "messagesOut": 0, "toolCalls": 2, "errors": 0});
    assert_eq!(ack["restoredStats"], stats);
    assert!(ack["lastSeenAt"].as_str().unwrap().ends_with('Z'));
    let told = ana.expect_event("peer_returned", "eve").await;
    assert_eq!(
        (&told["summary"], &told["groups"]),
        (&json!("reading"), &json!([{"name": "team"}]))
    );
    assert!(told["lastSeenAt"].is_string(), "{told}");
    // It is hidden still: its own member sees that.
    let mut sibling = TestPeer::session(&node, &mesh, "eve").await;
    let row = row_of(&mut sibling, "eve").await;
    assert_eq!((&row["visible"], &row["profile"]), (&json!(false), &json!({"title": "t"})));
}

/// Defect 31.
async fn sessions_leave_nothing_to_their_member(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &GRACE).await;
    ben.post(&json!({"type": "join_group", "name": "team"})).await;
    ben.ask(json!({"type": "set_visible", "visible": false})).await;
    ben.leave().await;
    ana.expect_event("peer_left", "ben").await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    assert!(daemon.hello_ack.get("restored").is_none(), "{}", daemon.hello_ack);
    let row = row_of(&mut daemon, "ben").await;
    assert_eq!((&row["groups"], &row["visible"]), (&json!([]), &json!(true)));
}

/// Defect 31: the last to close does not win.
async fn siblings_do_not_undo_each_others_changes(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &GRACE).await;
    let hello =
        |id: &str| Hello::member(&mesh, "eve").with(&json!({"sessionId": id, "displayName": id}));
    let mut one = TestPeer::join(&node, hello("one")).await;
    let mut two = TestPeer::join(&node, hello("two")).await;
    one.post(&json!({"type": "join_group", "name": "team"})).await;
    one.round_trip().await;
    one.leave().await;
    ana.expect_event("peer_left", "one").await;
    two.leave().await;
    ana.expect_event("peer_left", "two").await;
    let three = TestPeer::join(&node, hello("three")).await;
    assert_eq!(three.hello_ack["restoredGroups"], json!([{"name": "team"}]));
}

/// Defect 31: clients go on counting from what they find.
async fn what_is_counted_is_counted_once(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &GRACE).await;
    let mut total = json!(0);
    for round in 1..=3 {
        let id = format!("daemon-{round}");
        let hello = Hello::member(&mesh, "eve").with(&json!({"sessionId": id, "displayName": id}));
        let mut eve = TestPeer::join(&node, hello).await;
        let found = eve.hello_ack["restoredStats"]["messagesIn"].as_u64().unwrap_or(0);
        for more in [1, 5] {
            let stats = json!({"messagesIn": found + more});
            eve.post(&json!({"type": "set_stats", "stats": stats})).await;
        }
        eve.round_trip().await;
        eve.leave().await;
        ana.expect_event("peer_left", &id).await;
        total = json!(round * 5);
    }
    let eve = TestPeer::member(&node, &mesh, "eve").await;
    assert_eq!(eve.hello_ack["restoredStats"]["messagesIn"], total);
}

fn one_shot(mesh: &Mesh) -> Hello {
    let key = crate::support::peer::fresh_key().public_hex();
    let fields = json!({"sessionPubkey": key, "channel": "claude-code", "displayName": "command"});
    Hello::member(mesh, "ben").with(&fields)
}

/// Defect 33.
async fn a_command_that_comes_and_goes_is_no_news(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut command = TestPeer::join(&node, one_shot(&mesh)).await;
    command.send(&ben, "from a command").await.acknowledged();
    command.leave().await;
    assert_eq!(ben.next().await, "from a command");
    let row = || "command".to_owned();
    until("it holds no place", async || !names(&mut ana).await.contains(&row())).await;
    assert_eq!(ana.events().await, []);
}

async fn a_command_that_stays_is_a_peer_like_others(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut peer = TestPeer::join(&node, one_shot(&mesh)).await;
    ana.expect_event("peer_joined", "command").await;
    peer.leave().await;
    peer.reconnect().await;
    assert_eq!(ana.events().await, []);
}

const GRACE: [(&str, &str); 1] = [("LEASE_GRACE_SECONDS", "1")];

async fn row_of(peer: &mut TestPeer, name: &str) -> Value {
    let rows = peer.peers().await;
    rows.into_iter().find(|row| row["displayName"] == name).unwrap()
}

async fn names(peer: &mut TestPeer) -> Vec<String> {
    let rows = peer.peers().await;
    rows.iter().map(|row| row["displayName"].as_str().unwrap().to_owned()).collect()
}

async fn keys(peer: &mut TestPeer) -> Vec<String> {
    let rows = peer.peers().await;
    rows.iter().map(|row| row["pubkey"].as_str().unwrap().to_owned()).collect()
}
