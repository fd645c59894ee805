//! Frames of the broker: the exact JSON, field by field, with and without what is optional.

use protocol::client::{Group, PeerProfile, Priority, Stats, Status};
use protocol::server::{
    Ack, AuditEntry, Ban, Ended, Error, Event, Frame, HelloAck, MemberProfile, MeshPolicy,
    MessageStatusResult, Peer, Push, Recipient, Restored, Row,
};
use serde_json::{Value, json};

fn json_of(frame: &Frame) -> Value {
    serde_json::from_str(&frame.to_json()).unwrap()
}

#[test]
fn hello_ack_2_4() {
    let mut ack = HelloAck {
        presence_id: "p".into(),
        member_display_name: "Ana".into(),
        member_profile: Some(MemberProfile {
            role_tag: None,
            groups: vec![
                Group { name: "a/b".into(), role: None },
                Group { name: "c".into(), role: Some("lead".into()) },
            ],
            message_mode: "push".into(),
        }),
        mesh_policy: None,
        restored: None,
        services: vec![],
    };
    let profile = json!({"roleTag": null, "groups": [{"name": "a/b"}, {"name": "c", "role": "lead"}],
        "messageMode": "push"});
    let mut expected = json!({"type": "hello_ack", "presenceId": "p", "memberDisplayName": "Ana",
        "memberProfile": profile, "services": []});
    assert_eq!(json_of(&Frame::HelloAck(Box::new(ack.clone()))), expected);

    let editable =
        json!({"displayName": true, "roleTag": false, "groups": true, "messageMode": true});
    ack.mesh_policy = Some(MeshPolicy { self_editable: editable.clone() });
    expected["meshPolicy"] = json!({"selfEditable": editable});
    assert_eq!(json_of(&Frame::HelloAck(Box::new(ack.clone()))), expected);

    ack.restored = Some(Restored {
        restored: true,
        last_summary: Some("reading".into()),
        last_seen_at: None,
        restored_groups: None,
        restored_stats: json!({"messagesIn": 1}),
    });
    expected["restored"] = json!(true);
    expected["lastSummary"] = json!("reading");
    expected["restoredStats"] = json!({"messagesIn": 1});
    assert_eq!(json_of(&Frame::HelloAck(Box::new(ack))), expected);
}

#[test]
fn error_1_2() {
    let error = Error {
        code: "no_hello".into(),
        message: "m".into(),
        id: None,
        req_id: None,
        broker_time: None,
    };
    assert_eq!(
        json_of(&Frame::Error(error.clone())),
        json!({"type": "error", "code": "no_hello", "message": "m"})
    );
    let skewed = Error { broker_time: Some(7), ..error.clone() };
    assert_eq!(
        json_of(&Frame::Error(skewed)),
        json!({"type": "error", "code": "no_hello", "message": "m", "brokerTime": 7})
    );
    let both = Error { id: Some("i".into()), req_id: Some("q".into()), ..error };
    assert_eq!(
        json_of(&Frame::Error(both)),
        json!({"type": "error", "code": "no_hello", "message": "m", "id": "i", "_reqId": "q"})
    );
}

#[test]
fn ack_4_3() {
    let accepted = Ack {
        id: "1".into(),
        message_id: "m".into(),
        queued: true,
        error: None,
        held: false,
        skipped: 0,
        recipients: None,
        req_id: None,
    };
    let expected = json!({"type": "ack", "id": "1", "messageId": "m", "queued": true});
    assert_eq!(json_of(&Frame::Ack(accepted.clone())), expected);

    let many = Ack { recipients: Some(0), ..accepted.clone() };
    let expected =
        json!({"type": "ack", "id": "1", "messageId": "m", "queued": true, "recipients": 0});
    assert_eq!(json_of(&Frame::Ack(many)), expected);

    let partly = Ack { held: true, skipped: 2, ..accepted };
    let expected = json!({"type": "ack", "id": "1", "messageId": "m", "queued": true, "held": true,
        "skipped": 2});
    assert_eq!(json_of(&Frame::Ack(partly)), expected);

    let expected = json!({"type": "ack", "id": "", "messageId": "", "queued": false, "error": "e"});
    assert_eq!(json_of(&Frame::Ack(Ack::refused(None, "e"))), expected);
    let expected =
        json!({"type": "ack", "id": "1", "messageId": "", "queued": false, "error": "e"});
    assert_eq!(json_of(&Frame::Ack(Ack::refused(Some("1".into()), "e"))), expected);
    let expected =
        json!({"type": "ack", "id": "q", "messageId": "", "queued": false, "_reqId": "q"});
    assert_eq!(json_of(&Frame::Ack(Ack::done(Some("q".into())))), expected);
}

#[test]
fn moderation_6() {
    let ended = |skipped: &[&str]| Ended {
        kicked: vec!["Ana".into()],
        affected: vec!["Ana".into()],
        skipped_control_plane: skipped.iter().map(|name| (*name).to_owned()).collect(),
        req_id: Some("q".into()),
    };
    let mut expected = json!({"type": "kick_ack", "kicked": ["Ana"], "affected": ["Ana"],
        "skipped_control_plane": ["Ben"], "_reqId": "q"});
    assert_eq!(json_of(&Frame::KickAck(ended(&["Ben"]))), expected);
    expected.as_object_mut().unwrap().remove("skipped_control_plane");
    expected["type"] = json!("disconnect_ack");
    assert_eq!(json_of(&Frame::DisconnectAck(ended(&[]))), expected);
    let ban = Frame::BanAck { banned: "Ana".into(), req_id: None };
    assert_eq!(json_of(&ban), json!({"type": "ban_ack", "banned": "Ana"}));
    let unban = Frame::UnbanAck { unbanned: "Ana".into(), req_id: None };
    assert_eq!(json_of(&unban), json!({"type": "unban_ack", "unbanned": "Ana"}));
    let bans = vec![Ban { name: "Ana".into(), pubkey: "k".into(), revoked_at: "t".into() }];
    assert_eq!(
        json_of(&Frame::ListBansResult { bans, req_id: None }),
        json!({"type": "list_bans_result",
            "bans": [{"name": "Ana", "pubkey": "k", "revokedAt": "t"}]})
    );
}

#[test]
fn audit_7() {
    let entry = AuditEntry {
        id: 7,
        event_type: "peer_left".into(),
        actor: "Ana".into(),
        payload: json!({}),
        hash: "h".into(),
        created_at: "t".into(),
    };
    assert_eq!(
        json_of(&Frame::AuditResult { entries: vec![entry], total: 9, req_id: Some("q".into()) }),
        json!({"type": "audit_result", "entries": [{"id": 7, "eventType": "peer_left",
            "actor": "Ana", "payload": {}, "hash": "h", "createdAt": "t"}], "total": 9,
            "_reqId": "q"})
    );
    let broken =
        Frame::AuditVerifyResult { valid: false, entries: 3, broken_at: Some(4), req_id: None };
    assert_eq!(
        json_of(&broken),
        json!({"type": "audit_verify_result", "valid": false, "entries": 3, "brokenAt": 4})
    );
}

#[test]
fn system_event_2_6() {
    let event = Event {
        subtype: "system",
        event: "peer_left",
        event_data: json!({"name": "Ana", "pubkey": "k"}),
        message_id: "u".into(),
        mesh_id: "m".into(),
        sender_pubkey: "system",
        priority: Priority::Low,
        nonce: "",
        ciphertext: "",
        created_at: "2026-01-31T08:15:00.000Z".into(),
    };
    let expected = json!({"type": "push", "subtype": "system", "event": "peer_left",
        "eventData": {"name": "Ana", "pubkey": "k"}, "messageId": "u", "meshId": "m",
        "senderPubkey": "system", "priority": "low", "nonce": "", "ciphertext": "",
        "createdAt": "2026-01-31T08:15:00.000Z"});
    assert_eq!(json_of(&Frame::Event(Box::new(event))), expected);
}

#[test]
fn push_4_4() {
    let bare = Push {
        message_id: "i",
        mesh_id: "m",
        sender_pubkey: "k",
        priority: Priority::Next,
        nonce: "n",
        ciphertext: "c\"\n\u{1F980}",
        created_at: "t",
        sender_member_pubkey: None,
        sender_member_id: "s",
        sender_name: "Ana",
        reply_to_id: None,
        subtype: None,
        topic: None,
        client_message_id: None,
        request_fingerprint: None,
    };
    let mut expected = json!({"type": "push", "messageId": "i", "meshId": "m", "senderPubkey": "k",
        "priority": "next", "nonce": "n", "ciphertext": "c\"\n\u{1F980}", "createdAt": "t",
        "senderMemberId": "s", "senderName": "Ana"});
    assert_eq!(serde_json::from_str::<Value>(&bare.to_json()).unwrap(), expected);
    assert!(bare.to_json().starts_with(r#"{"type":"push","#), "clients may look at the front");

    let full = Push {
        priority: Priority::Now,
        sender_member_pubkey: Some("K"),
        reply_to_id: Some("r"),
        subtype: Some("reminder"),
        client_message_id: Some("1"),
        request_fingerprint: Some("f"),
        ..bare
    };
    for (field, value) in [
        ("priority", "now"),
        ("senderMemberPubkey", "K"),
        ("replyToId", "r"),
        ("subtype", "reminder"),
        ("client_message_id", "1"),
        ("request_fingerprint", "f"),
    ] {
        expected[field] = value.into();
    }
    assert_eq!(serde_json::from_str::<Value>(&full.to_json()).unwrap(), expected);
}

#[test]
fn peers_list_5_1() {
    let bare = Peer {
        pubkey: "s".into(),
        member_pubkey: "k".into(),
        display_name: "Ana".into(),
        status: Status::Idle,
        summary: None,
        groups: vec![],
        session_id: "i".into(),
        connected_at: "t".into(),
        cwd: "/".into(),
        peer_role: "control-plane",
        hostname: None,
        peer_type: None,
        channel: None,
        model: None,
        stats: None,
        visible: true,
        profile: None,
    };
    let full = Peer {
        stats: Some(Stats { messages_in: Some(3.into()), ..Stats::default() }),
        profile: Some(PeerProfile { title: Some("t".into()), ..PeerProfile::default() }),
        summary: Some("reads".into()),
        hostname: Some("h".into()),
        peer_type: Some("ai".into()),
        channel: Some("c".into()),
        model: Some("o".into()),
        visible: false,
        ..bare.clone()
    };
    let first = json!({"pubkey": "s", "memberPubkey": "k", "displayName": "Ana", "status": "idle",
        "summary": null, "groups": [], "sessionId": "i", "connectedAt": "t", "cwd": "/",
        "peerRole": "control-plane", "visible": true});
    let mut second = first.clone();
    for (field, value) in [
        ("summary", json!("reads")),
        ("hostname", json!("h")),
        ("peerType", json!("ai")),
        ("channel", json!("c")),
        ("model", json!("o")),
        ("visible", json!(false)),
        ("stats", json!({"messagesIn": 3})),
        ("profile", json!({"title": "t"})),
    ] {
        second[field] = value;
    }
    assert_eq!(
        json_of(&Frame::PeersList {
            peers: vec![Row::of(&bare), Row::of(&full)],
            req_id: Some("q".into())
        }),
        json!({"type": "peers_list", "peers": [first, second], "_reqId": "q"})
    );
    assert_eq!(
        json_of(&Frame::PeersList { peers: vec![], req_id: None }),
        json!({"type": "peers_list", "peers": []})
    );
}

/// Whoever writes a frame in pieces writes what serde would, and counts it right.
#[test]
fn a_list_in_pieces_is_the_list() {
    for count in [0, 1, 3] {
        for req_id in [None, Some("a\"b".into())] {
            let peers = (0..count).map(|n| Row::of(&json!({"pubkey": n}))).collect();
            let list = Frame::PeersList { peers, req_id };
            let text = serde_json::to_string(&list).unwrap();
            assert_eq!(list.text().pieces().collect::<String>(), text);
            assert_eq!((list.to_json(), list.json_bytes()), (text.clone(), text.len()));
        }
    }
    let error = Frame::Error(Error {
        code: "c".into(),
        message: "ä\n".into(),
        id: None,
        req_id: Some("q".into()),
        broker_time: None,
    });
    assert_eq!(error.json_bytes(), error.to_json().len());
}

#[test]
fn message_status_4_8() {
    let recipient = Recipient { name: "Ben".into(), pubkey: "k".into(), status: "held" };
    let held = MessageStatusResult {
        message_id: "12345678".into(),
        target_spec: "k".into(),
        delivered: false,
        delivered_at: None,
        recipients: vec![recipient],
        req_id: None,
    };
    let recipients = json!([{"name": "Ben", "pubkey": "k", "status": "held"}]);
    let mut expected = json!({"type": "message_status_result", "messageId": "12345678",
        "targetSpec": "k", "delivered": false, "deliveredAt": null, "recipients": recipients});
    assert_eq!(json_of(&Frame::MessageStatusResult(held.clone())), expected);

    let delivered = MessageStatusResult {
        delivered: true,
        delivered_at: Some("t".into()),
        req_id: Some("q".into()),
        ..held
    };
    expected["delivered"] = true.into();
    expected["deliveredAt"] = "t".into();
    expected["_reqId"] = "q".into();
    assert_eq!(json_of(&Frame::MessageStatusResult(delivered)), expected);
}
