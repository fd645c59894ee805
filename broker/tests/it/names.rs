//! Names reach terminals, logs and pages: what commands, forges or hides is replaced on the way in,
//! wherever a name comes from, and what is matched with it is changed likewise.

use serde_json::{Value, json};

use crate::support::node::{Kind, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope, fresh_key};

on_each_store!(
    what_a_peer_tells_of_itself_is_safe_to_show,
    two_ways_to_write_a_group_are_one,
    a_peer_is_kicked_by_the_name_it_gave,
    what_others_wrote_into_the_store_is_safe_to_show,
    who_joins_or_is_made_has_a_safe_name,
    a_hook_finds_a_directory_however_it_is_called,
);

/// A name that would turn a terminal red, hide itself, and begin a line of its own.
const BAD: &str = "a\u{1b}[31m\u{202e}\u{3164}\n";
/// The same as it is shown.
const SHOWN: &str = "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}";

async fn what_a_peer_tells_of_itself_is_safe_to_show(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let told = json!({"displayName": BAD, "sessionId": BAD, "cwd": BAD, "hostname": BAD, "channel": BAD,
        "model": BAD, "peerType": BAD, "groups": [{"name": BAD, "role": BAD}]});
    let mut eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&told)).await;
    assert_eq!(eve.hello_ack["memberDisplayName"], SHOWN);
    ana.expect_event("peer_joined", SHOWN).await;
    eve.post(&json!({"type": "set_summary", "summary": BAD})).await;
    eve.ask(json!({"type": "set_profile", "title": BAD, "bio": BAD, "avatar": BAD, "capabilities": [BAD]}))
        .await;
    let rows = ana.peers().await;
    let row = rows.iter().find(|row| row["displayName"] == SHOWN).unwrap();
    assert_unharmful(row);
    let expected = json!({"title": SHOWN, "bio": SHOWN, "avatar": SHOWN, "capabilities": [SHOWN]});
    assert_eq!((&row["summary"], &row["profile"]), (&json!(SHOWN), &expected));
    // A body is nobody's name.
    let mut send = envelope(&ana, "one");
    send["ciphertext"] = json!(BAD);
    eve.send_frame(&send).await.acknowledged();
    let push = ana.next_push().await;
    assert_eq!((&push["senderName"], &push["ciphertext"]), (&json!(SHOWN), &json!(BAD)));
    let audit = ana.ask(json!({"type": "audit_query"})).await;
    assert_unharmful(&audit);
    let member = TestPeer::member(&node, &mesh, "eve").await;
    assert_unharmful(&member.hello_ack);
}

async fn two_ways_to_write_a_group_are_one(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    let (composed, apart) = ("Zürich", "Zu\u{308}rich");
    let groups = json!({"groups": [{"name": apart}]});
    let mut eve = TestPeer::join(&node, Hello::member(&mesh, "eve").with(&groups)).await;
    ben.post(&json!({"type": "join_group", "name": composed})).await;
    ben.post(&json!({"type": "join_group", "name": apart, "role": "lead"})).await;
    ben.round_trip().await;
    let rows = ana.peers().await;
    let row = rows.iter().find(|row| row["displayName"] == "ben").unwrap();
    assert_eq!(row["groups"], json!([{"name": composed, "role": "lead"}]));
    for (name, text) in [(composed, "one"), (apart, "two")] {
        let ack = ana.send(&format!("@{name}"), text).await;
        assert_eq!(ack.0["recipients"], 2, "{ack:?}");
        assert_eq!((ben.next().await, eve.next().await), (text.to_owned(), text.to_owned()));
    }
    ben.post(&json!({"type": "leave_group", "name": apart})).await;
    ben.round_trip().await;
    assert_eq!(ana.send(&format!("@{composed}"), "three").await.0["recipients"], 1);
    assert_eq!(eve.next().await, "three");
}

async fn a_peer_is_kicked_by_the_name_it_gave(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    for target in [BAD, SHOWN] {
        let hello = Hello::session(&mesh, "eve").with(&json!({"displayName": BAD}));
        let mut eve = TestPeer::join(&node, hello).await;
        let kicked = ana.ask(json!({"type": "kick", "target": target})).await;
        assert_eq!(kicked["kicked"], json!([SHOWN]), "{kicked}");
        assert_eq!(eve.close_frame().await.0, 4001);
    }
}

async fn what_others_wrote_into_the_store_is_safe_to_show(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let id = &mesh.member("eve").id;
    let write = format!(
        "UPDATE mesh.member SET display_name = '{BAD}', role_tag = '{BAD}' WHERE id = '{id}'"
    );
    assert_eq!(node.sql(&write).await, 1);
    let groups = json!([{"name": "Zu\u{308}rich\u{7}"}]).to_string();
    let write = format!("UPDATE mesh.member SET default_groups = '{groups}' WHERE id = '{id}'");
    assert_eq!(node.sql(&write).await, 1);
    let eve = TestPeer::member(&node, &mesh, "eve").await;
    let profile =
        json!({"roleTag": SHOWN, "groups": [{"name": "Zürich\u{fffd}"}], "messageMode": "push"});
    assert_eq!(
        (&eve.hello_ack["memberDisplayName"], &eve.hello_ack["memberProfile"]),
        (&json!(SHOWN), &profile)
    );
    ana.expect_event("peer_joined", SHOWN).await;
    // By the name that is shown, since nobody can type the other.
    let banned = ana.ask(json!({"type": "ban", "target": SHOWN})).await;
    assert_eq!(banned["banned"], SHOWN, "{banned}");
    assert_unharmful(&ana.ask(json!({"type": "list_bans"})).await);
    assert_unharmful(&ana.ask(json!({"type": "audit_query"})).await);
}

async fn who_joins_or_is_made_has_a_safe_name(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let key = fresh_key();
    let token = mesh.invite_token();
    let body = json!({"invite_token": token, "peer_pubkey": key.public_hex(), "display_name": BAD});
    assert_eq!(node.post("/join", &body.to_string()).await.status, 200);
    let named = format!("SELECT count(*) FROM mesh.member WHERE display_name = '{SHOWN}'");
    assert_eq!(node.count(&named).await, 0, "blanks at the end are no part of a name");
    let trimmed = SHOWN.strip_suffix('\u{fffd}').unwrap();
    let named = format!("SELECT count(*) FROM mesh.member WHERE display_name = '{trimmed}'");
    assert_eq!(node.count(&named).await, 1);
    // The command line refuses control characters; what it lets in is made safe as well.
    let made = node.mesh("blue", &["b\u{202e}e\u{2028}n"]).await;
    assert_eq!(made.members[0].name, "b\u{fffd}e\u{fffd}n");
    ana.round_trip().await;
}

async fn a_hook_finds_a_directory_however_it_is_called(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let place = json!({"displayName": "eve", "cwd": BAD, "pid": 4});
    let eve = TestPeer::join(&node, Hello::session(&mesh, "eve").with(&place)).await;
    let told = json!({"cwd": BAD, "pid": 4, "status": "working"}).to_string();
    let answer = node.post("/hook/set-status", &told).await.json();
    assert_eq!(answer["presence_id"], eve.presence(), "{answer}");
    let rows = ana.peers().await;
    assert!(rows.iter().any(|row| row["displayName"] == "eve" && row["status"] == "working"));
}

fn assert_unharmful(shown: &Value) {
    match shown {
        Value::String(text) => assert!(!text.contains(protocol::names::is_unsafe), "{text:?}"),
        Value::Array(items) => items.iter().for_each(assert_unharmful),
        Value::Object(fields) => fields.values().for_each(assert_unharmful),
        _ => {}
    }
}
