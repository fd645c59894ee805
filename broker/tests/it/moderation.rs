//! Ending connections, sessions and memberships (protocol-core §6).

use serde_json::{Value, json};

use crate::support::node::{Kind, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben};
use crate::support::socket::{Habit, Socket};
use crate::support::until;

on_each_store!(
    only_owner_and_admins_moderate,
    a_kicked_session_stays_out_for_a_while,
    a_kick_outlives_the_owner,
    an_unban_lifts_a_kick,
    a_kick_leaves_a_members_own_connection_alone,
    a_disconnected_peer_may_come_back,
    connections_are_chosen_by_target_or_silence_or_all,
    a_kick_in_the_grace_ends_it,
    a_banned_member_is_gone,
    what_waits_of_and_for_a_banned_member_is_dropped,
    a_ban_names_whom_it_can,
    a_banned_key_does_not_rejoin_by_invite,
    kicked_peers_hold_no_place,
);

async fn only_owner_and_admins_moderate(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    for (verb, word) in
        [("disconnect", "disconnected"), ("kick", "kicked"), ("ban", "ban"), ("unban", "unban")]
    {
        let error = ben.ask(json!({"type": verb, "target": "ana"})).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("forbidden")));
        assert_eq!(error["message"], format!("only owner or admin can {word}"));
        assert_eq!(error["id"], error["_reqId"]);
    }
    assert_eq!(ana.events().await, []);
    assert_eq!(ben.ask(json!({"type": "list_bans"})).await["bans"], json!([]));
}

/// Defect 34: daemons are back within a second.
async fn a_kicked_session_stays_out_for_a_while(kind: Kind) {
    let (node, mut ana, mut ben, _) = ana_and_ben(kind, &[("KICK_SESSION_SECONDS", "2")]).await;
    let ack = ana.ask(json!({"type": "kick", "target": "ben"})).await;
    assert_eq!(ack["type"], "kick_ack");
    assert_eq!((&ack["kicked"], &ack["affected"]), (&json!(["ben"]), &json!(["ben"])));
    assert!(ack.get("skipped_control_plane").is_none(), "{ack}");
    assert_eq!(ben.close_frame().await, (4001, "kicked".into()));
    ana.expect_event("peer_left", "ben").await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&ben.hello.frame()).await;
    let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
    assert_eq!(error["code"], "kicked");
    assert_eq!(socket.close_frame().await.0, 4001);
    // It left once, and a new session of its own may come at any time.
    assert_eq!(ana.events().await, []);
    until("the key may come back", async || may_come(&node, &ben.hello).await).await;
    ana.expect_event("peer_joined", "ben").await;
}

/// What a hello is refused with.
async fn refusal(node: &Node, hello: &Hello) -> Value {
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&hello.frame()).await;
    let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
    assert_eq!(socket.close_frame().await, (4001, "kicked".into()));
    error
}

/// Daemons try again for ever: their key stays out, and another session of theirs may come.
async fn a_kick_outlives_the_owner(kind: Kind) {
    let (mut node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    ana.ask(json!({"type": "kick", "target": "ben"})).await;
    assert_eq!(ben.close_frame().await.0, 4001);
    for _ in 0..2 {
        node.kill();
        node.restart().await;
        let error = refusal(&node, &ben.hello).await;
        assert_eq!(error["code"], "kicked");
        let text = error["message"].as_str().unwrap();
        let until = text.split_once("until ").expect("it says until when").1;
        assert!(until.ends_with('Z') && until.starts_with("20"), "{text}");
    }
    TestPeer::session(&node, &mesh, "ben").await;
    TestPeer::member(&node, &mesh, "ben").await;
}

async fn an_unban_lifts_a_kick(kind: Kind) {
    let (mut node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = ben.hello.pubkey();
    let member = mesh.member("ben").pubkey.clone();
    for (restarts, target) in [
        (false, "ben"),
        (false, key.as_str()),
        (true, "ben"),
        (true, key.as_str()),
        (true, &member),
    ] {
        let ack = ana.ask(json!({"type": "kick", "target": key})).await;
        assert_eq!(ack["kicked"], json!(["ben"]), "{ack}");
        assert_eq!(ben.close_frame().await.0, 4001);
        if restarts {
            node.kill();
            node.restart().await;
            ana.take_over().await;
        }
        refusal(&node, &ben.hello).await;
        let error = ana.ask(json!({"type": "unban", "target": "nobody"})).await;
        assert_eq!(error["code"], "not_found");
        if target == member {
            ana.ask(json!({"type": "ban", "target": member})).await;
        }
        let ack = ana.ask(json!({"type": "unban", "target": target})).await;
        assert_eq!((&ack["type"], &ack["unbanned"]), (&json!("unban_ack"), &json!("ben")));
        let again = ana.ask(json!({"type": "unban", "target": target})).await;
        assert_eq!(again["code"], "not_found", "{again}");
        ben.reconnect().await;
    }
    let query = json!({"type": "audit_query", "eventType": "member_unbanned"});
    let told = ana.ask(query).await;
    assert_eq!(told["total"], 5);
    assert_eq!(told["entries"][1]["payload"], json!({"target": "ben"}));
    // By another node's words, or another's rows: the store knows of none that is kicked.
    assert_eq!(node.count("SELECT count(*) FROM broker.kicked").await, 0);
}

async fn a_kick_leaves_a_members_own_connection_alone(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    let key = &mesh.member("ben").pubkey;
    let ack = ana.ask(json!({"type": "kick", "target": &key[..12]})).await;
    assert_eq!((&ack["kicked"], &ack["skipped_control_plane"]), (&json!(["ben"]), &json!(["ben"])));
    assert_eq!(ben.close_frame().await.0, 4001);
    daemon.round_trip().await;
    let ack = ana.ask(json!({"type": "disconnect", "target": "ben"})).await;
    assert_eq!(ack["kicked"], json!(["ben"]));
    assert_eq!(daemon.close_frame().await, (1000, "disconnected".into()));
}

async fn a_disconnected_peer_may_come_back(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    let ack = ana.ask(json!({"type": "disconnect", "target": "ben"})).await;
    assert_eq!((&ack["type"], &ack["affected"]), (&json!("disconnect_ack"), &json!(["ben"])));
    assert_eq!(ben.close_frame().await, (1000, "disconnected".into()));
    ana.expect_event("peer_left", "ben").await;
    ben.reconnect().await;
    ana.expect_event("peer_joined", "ben").await;
}

async fn connections_are_chosen_by_target_or_silence_or_all(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[("KICK_SESSION_SECONDS", "0")]).await;
    for nothing in [json!({}), json!({"target": "nobody"}), json!({"stale": 3_600_000})] {
        let mut kick = nothing;
        kick["type"] = json!("kick");
        let ack = ana.ask(kick).await;
        assert_eq!((&ack["kicked"], &ack["affected"]), (&json!([]), &json!([])), "{ack}");
    }
    // Ben has not been heard of for a moment: the store was asked meanwhile.
    until("ben is stale", async || {
        let ack = ana.ask(json!({"type": "kick", "stale": 1})).await;
        ack["kicked"] == json!(["ben"])
    })
    .await;
    assert_eq!(ben.close_frame().await, (4001, "kicked_stale".into()));
    ben.reconnect().await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    let ack = ana.ask(json!({"type": "disconnect", "all": true})).await;
    assert_eq!(ack["kicked"].as_array().unwrap().len(), 2);
    for peer in [&mut ben, &mut eve] {
        assert_eq!(peer.close_frame().await, (1000, "disconnected".into()));
    }
    ana.round_trip().await;
}

async fn a_kick_in_the_grace_ends_it(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    ben.vanish();
    let ack = ana.ask(json!({"type": "kick", "target": "ben"})).await;
    assert_eq!(ack["kicked"], json!(["ben"]));
    ana.expect_event("peer_left", "ben").await;
    assert_eq!(ana.peers().await.len(), 1);
}

async fn a_banned_member_is_gone(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    let ack = ana.ask(json!({"type": "ban", "target": "ben"})).await;
    assert_eq!((&ack["type"], &ack["banned"]), (&json!("ban_ack"), &json!("ben")));
    for peer in [&mut ben, &mut daemon] {
        assert_eq!(peer.close_frame().await, (4002, "banned".into()));
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&peer.hello.frame()).await;
        let error = socket.take("the refusal", |frame| frame["type"] == "error").await;
        assert_eq!(error["code"], "revoked");
        assert_eq!(socket.close_frame().await, (4002, "banned".into()));
        ana.expect_event("peer_left", "ben").await;
    }
    let left = ana.events().await.into_iter().filter(|(event, _)| event == "peer_left");
    assert_eq!(left.count(), 0, "each has left once");
    let bans = ana.ask(json!({"type": "list_bans"})).await;
    assert_eq!(bans["type"], "list_bans_result");
    let ban = &bans["bans"][0];
    let key = json!(mesh.member("ben").pubkey);
    assert_eq!((&ban["name"], &ban["pubkey"]), (&json!("ben"), &key));
    assert!(ban["revokedAt"].as_str().unwrap().ends_with('Z'));
    let ack = ana.ask(json!({"type": "unban", "target": "ben"})).await;
    assert_eq!((&ack["type"], &ack["unbanned"]), (&json!("unban_ack"), &json!("ben")));
    ben.reconnect().await;
    let told = ana.ask(json!({"type": "audit_query", "limit": 20})).await;
    let of = |event: &str| {
        let entries = told["entries"].as_array().unwrap();
        entries.iter().find(|entry| entry["eventType"] == event).unwrap()["payload"].clone()
    };
    assert_eq!(of("member_banned"), json!({"target": "ben", "targetPubkey": key}));
    assert_eq!(of("member_unbanned"), json!({"target": "ben"}));
}

async fn what_waits_of_and_for_a_banned_member_is_dropped(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ben.become_one_that(Habit::Reads);
    eve.post(&json!({"type": "set_status", "status": "dnd"})).await;
    eve.round_trip().await;
    ben.send(&eve, "of ben").await.acknowledged();
    eve.send(&ben, "for ben").await.acknowledged();
    assert_eq!(ben.next().await, "for ben");
    ana.send(&eve, "of ana").await.acknowledged();
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    let dropped = "broker_messages_dropped_total{reason=\"banned\"}";
    until("both are counted", async || node.metric(dropped).await == Some(2.0)).await;
    eve.post(&json!({"type": "set_status", "status": "idle"})).await;
    assert_eq!(eve.next().await, "of ana");
    assert_eq!(eve.texts().await, [""; 0]);
    ana.ask(json!({"type": "unban", "target": "ben"})).await;
    ben.reconnect().await;
    assert_eq!(ben.texts().await, [""; 0]);
    eve.send(&ben, "for ben again").await.acknowledged();
    assert_eq!(ben.next().await, "for ben again");
}

async fn a_ban_names_whom_it_can(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let rename = format!(
        "UPDATE mesh.member SET display_name = 'ben' WHERE id = '{}'",
        mesh.member("eve").id
    );
    node.sql(&rename).await;
    let key = mesh.member("ana").pubkey.clone();
    let refusals = [
        (json!({"type": "ban"}), "invalid", "target required".to_owned()),
        (json!({"type": "unban", "target": ""}), "invalid", "target required".to_owned()),
        (json!({"type": "ban", "target": "x"}), "not_found", "peer \"x\" not found".to_owned()),
        (json!({"type": "unban", "target": "x"}), "not_found", "no banned peer \"x\"".to_owned()),
        (json!({"type": "ban", "target": key}), "invalid", "cannot ban yourself".to_owned()),
    ];
    for (request, code, message) in refusals {
        let error = ana.ask(request).await;
        assert_eq!((&error["code"], &error["message"]), (&json!(code), &json!(message)));
    }
    let error = ana.ask(json!({"type": "ban", "target": "ben"})).await;
    assert_eq!(error["code"], "ambiguous");
    // An admin does not ban the owner (defect 26).
    node.sql(&format!(
        "UPDATE mesh.member SET role = 'admin' WHERE id = '{}'",
        mesh.member("eve").id
    ))
    .await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    let error = eve.ask(json!({"type": "ban", "target": "ana"})).await;
    let refusal = (json!("forbidden"), json!("the owner cannot be banned"));
    assert_eq!((&error["code"], &error["message"]), (&refusal.0, &refusal.1));
}

/// Defect 26.
async fn a_banned_key_does_not_rejoin_by_invite(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    ana.ask(json!({"type": "ban", "target": "ben"})).await;
    let token = mesh.invite_token();
    let body = json!({
        "invite_token": token, "peer_pubkey": mesh.member("ben").pubkey.to_uppercase(),
        "display_name": "somebody else",
    });
    let answer = node.post("/join", &body.to_string()).await;
    let refusal = json!({"ok": false, "error": "member_banned"});
    assert_eq!((answer.status, answer.json()), (400, refusal));
}

/// Defect 3.
async fn kicked_peers_hold_no_place(kind: Kind) {
    let (node, mut ana, ben, mesh) =
        ana_and_ben(kind, &[("MAX_CONNECTIONS_PER_MESH", "3"), ("KICK_SESSION_SECONDS", "0")])
            .await;
    drop(ben);
    for round in 0..4 {
        let mut eve = TestPeer::session(&node, &mesh, "eve").await;
        let verb = if round % 2 == 0 { "kick" } else { "disconnect" };
        ana.ask(json!({"type": verb, "target": "eve"})).await;
        eve.close_frame().await;
    }
    TestPeer::session(&node, &mesh, "eve").await;
}

async fn may_come(node: &Node, hello: &Hello) -> bool {
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&hello.frame()).await;
    let first = |frame: &Value| frame["type"] == "hello_ack" || frame["type"] == "error";
    socket.take("an answer to the hello", first).await["type"] == "hello_ack"
}
