//! Frames of the broker: the exact JSON, field by field, with and without what is optional.

use protocol::client::{Group, Priority};
use protocol::server::{
    Ack, Error, Event, Frame, HelloAck, MemberProfile, MeshPolicy, MessageStatusResult, Peer, Push,
    Recipient,
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
    assert_eq!(json_of(&Frame::HelloAck(Box::new(ack))), expected);
}

#[test]
fn error_1_2() {
    let error = Error { code: "no_hello".into(), message: "m".into(), id: None, req_id: None };
    assert_eq!(
        json_of(&Frame::Error(error.clone())),
        json!({"type": "error", "code": "no_hello", "message": "m"})
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
    };
    let expected = json!({"type": "ack", "id": "1", "messageId": "m", "queued": true});
    assert_eq!(json_of(&Frame::Ack(accepted.clone())), expected);

    let partly = Ack { held: true, skipped: 2, ..accepted };
    let expected = json!({"type": "ack", "id": "1", "messageId": "m", "queued": true, "held": true,
        "skipped": 2});
    assert_eq!(json_of(&Frame::Ack(partly)), expected);

    let expected = json!({"type": "ack", "id": "", "messageId": "", "queued": false, "error": "e"});
    assert_eq!(json_of(&Frame::Ack(Ack::refused(None, "e"))), expected);
    let expected =
        json!({"type": "ack", "id": "1", "messageId": "", "queued": false, "error": "e"});
    assert_eq!(json_of(&Frame::Ack(Ack::refused(Some("1".into()), "e"))), expected);
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
        status: "idle",
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
        visible: true,
    };
    let full = Peer {
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
    ] {
        second[field] = value;
    }
    assert_eq!(
        json_of(&Frame::PeersList { peers: vec![bare, full], req_id: Some("q".into()) }),
        json!({"type": "peers_list", "peers": [first, second], "_reqId": "q"})
    );
    assert_eq!(
        json_of(&Frame::PeersList { peers: vec![], req_id: None }),
        json!({"type": "peers_list", "peers": []})
    );
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
