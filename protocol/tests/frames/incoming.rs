//! Frames of peers: nothing panics, every bound holds, and a refusal names what it refuses.

use proptest::prelude::*;
use protocol::client::{self, Frame, Malformed, Priority, Request, VERBS, Verb};
use protocol::limits::{
    ECHO_BYTES, GROUPS, ID_BYTES, NAME_BYTES, PATH_BYTES, TARGET_BYTES, TEXT_BYTES,
};
use protocol::{EchoId, names};
use serde_json::{Value, json};

pub(crate) fn parse(frame: &Value) -> Result<Frame, Malformed> {
    client::parse(&frame.to_string())
}

/// One good frame of each verb, with every bounded text field in it.
pub(crate) fn samples() -> Vec<Value> {
    vec![
        json!({"type": "hello", "meshId": "m", "memberId": "n", "pubkey": "k", "sessionPubkey": "s",
            "displayName": "Ana", "sessionId": "i", "pid": 1, "cwd": "/", "hostname": "h",
            "channel": "c", "model": "o", "peerType": "ai", "groups": [{"name": "g", "role": "r"}],
            "timestamp": 1, "signature": "x"}),
        json!({"type": "session_hello", "meshId": "m", "parentMemberId": "n",
            "parentMemberPubkey": "k", "sessionPubkey": "s", "displayName": "Ana",
            "sessionId": "i", "pid": 1, "cwd": "/", "hostname": "h", "channel": "c", "model": "o",
            "peerType": "ai", "groups": [{"name": "g", "role": "r"}], "timestamp": 1,
            "signature": "x", "parentAttestation": {"sessionPubkey": "s",
            "parentMemberPubkey": "k", "expiresAt": 2, "signature": "y"}}),
        json!({"type": "send", "id": "1", "targetSpec": "*", "priority": "now", "nonce": "n",
            "ciphertext": "c", "client_message_id": "1", "request_fingerprint": "f",
            "replyToId": "r", "offline": "queue", "mentions": ["m"], "bodyVersion": 2}),
        json!({"type": "client_ack", "clientMessageId": "1", "brokerMessageId": "2"}),
        json!({"type": "message_status", "messageId": "12345678", "_reqId": "q"}),
        json!({"type": "list_peers", "_reqId": "q"}),
        json!({"type": "remember", "_reqId": "q"}),
        json!({"type": "set_status", "status": "dnd", "_reqId": "q"}),
        json!({"type": "set_summary", "summary": "s", "_reqId": "q"}),
        json!({"type": "set_visible", "visible": false, "_reqId": "q"}),
        json!({"type": "set_profile", "avatar": "a", "title": "t", "bio": "b",
            "capabilities": ["c"], "_reqId": "q"}),
        json!({"type": "set_stats", "stats": {"messagesIn": 1, "messagesOut": 2, "toolCalls": 3,
            "uptime": 0.5, "errors": 4}, "_reqId": "q"}),
        json!({"type": "join_group", "name": "g", "role": "r", "_reqId": "q"}),
        json!({"type": "leave_group", "name": "g", "_reqId": "q"}),
        json!({"type": "disconnect", "all": true, "target": "t", "stale": 1000, "_reqId": "q"}),
        json!({"type": "kick", "all": true, "target": "t", "stale": 1000, "_reqId": "q"}),
        json!({"type": "ban", "target": "t", "_reqId": "q"}),
        json!({"type": "unban", "target": "t", "_reqId": "q"}),
        json!({"type": "list_bans", "_reqId": "q"}),
        json!({"type": "audit_query", "limit": 1, "offset": 2, "eventType": "e", "_reqId": "q"}),
        json!({"type": "audit_verify", "_reqId": "q"}),
    ]
}

/// Where the bounded texts are, as JSON pointers, and how many bytes each may have. The ciphertext
/// and the nonce are bounded by the size of a message, the signatures by what verifies.
const BOUNDS: [(&str, usize); 37] = [
    ("/meshId", ID_BYTES),
    ("/memberId", ID_BYTES),
    ("/parentMemberId", ID_BYTES),
    ("/pubkey", ID_BYTES),
    ("/sessionPubkey", ID_BYTES),
    ("/parentMemberPubkey", ID_BYTES),
    ("/id", ID_BYTES),
    ("/client_message_id", ID_BYTES),
    ("/request_fingerprint", ID_BYTES),
    ("/replyToId", ID_BYTES),
    ("/offline", ID_BYTES),
    ("/clientMessageId", ID_BYTES),
    ("/brokerMessageId", ID_BYTES),
    ("/messageId", ID_BYTES),
    ("/_reqId", ID_BYTES),
    ("/displayName", NAME_BYTES),
    ("/sessionId", NAME_BYTES),
    ("/hostname", NAME_BYTES),
    ("/channel", NAME_BYTES),
    ("/model", NAME_BYTES),
    ("/peerType", NAME_BYTES),
    ("/groups/0/name", NAME_BYTES),
    ("/groups/0/role", NAME_BYTES),
    ("/name", NAME_BYTES),
    ("/role", NAME_BYTES),
    ("/title", NAME_BYTES),
    ("/capabilities/0", NAME_BYTES),
    ("/mentions/0", NAME_BYTES),
    ("/target", NAME_BYTES),
    ("/eventType", NAME_BYTES),
    ("/summary", TEXT_BYTES),
    ("/avatar", TEXT_BYTES),
    ("/bio", TEXT_BYTES),
    ("/cwd", PATH_BYTES),
    ("/targetSpec", TARGET_BYTES),
    ("/nonce", usize::MAX),
    ("/ciphertext", usize::MAX),
];

/// Every sample with every bounded field it has.
fn bounded_fields() -> impl Iterator<Item = (Value, &'static str, usize)> {
    samples().into_iter().flat_map(|frame| {
        BOUNDS
            .into_iter()
            .filter(|(pointer, _)| frame.pointer(pointer).is_some())
            .map(|(pointer, max)| (frame.clone(), pointer, max))
            .collect::<Vec<_>>()
    })
}

fn with(mut frame: Value, pointer: &str, value: impl Into<Value>) -> Value {
    *frame.pointer_mut(pointer).unwrap() = value.into();
    frame
}

#[test]
fn samples_are_accepted_as_their_verbs() {
    for frame in samples() {
        let parsed = parse(&frame).unwrap();
        let verb = match &parsed {
            Frame::Hello(_) => "hello",
            Frame::SessionHello(_) => "session_hello",
            Frame::Send(_) => "send",
            Frame::ClientAck(_) => "client_ack",
            Frame::Request(request) => name_of(request),
            Frame::Other { verb, .. } => verb,
        };
        assert_eq!(frame["type"], verb);
    }
    let named = |verb: &str| samples().iter().any(|frame| frame["type"] == verb);
    assert!(VERBS.iter().all(|verb| named(verb)), "a sample of each verb");
}

fn name_of(request: &Request) -> &'static str {
    match request.verb {
        Verb::ListPeers => "list_peers",
        Verb::MessageStatus { .. } => "message_status",
        Verb::SetStatus { .. } => "set_status",
        Verb::SetSummary { .. } => "set_summary",
        Verb::SetVisible { .. } => "set_visible",
        Verb::SetProfile(_) => "set_profile",
        Verb::SetStats { .. } => "set_stats",
        Verb::JoinGroup(_) => "join_group",
        Verb::LeaveGroup { .. } => "leave_group",
        Verb::Disconnect(_) => "disconnect",
        Verb::Kick(_) => "kick",
        Verb::Ban { .. } => "ban",
        Verb::Unban { .. } => "unban",
        Verb::ListBans => "list_bans",
        Verb::AuditQuery { .. } => "audit_query",
        Verb::AuditVerify => "audit_verify",
    }
}

#[test]
fn a_text_at_its_bound_passes_and_one_byte_more_does_not() {
    for (frame, pointer, max) in bounded_fields().filter(|(_, _, max)| *max < usize::MAX) {
        // Two bytes a letter, so that a bound counted in characters would show.
        let full = "é".repeat(max / 2) + &"e".repeat(max % 2);
        let over = format!("{full}e");
        assert!(parse(&with(frame.clone(), pointer, full)).is_ok(), "{pointer}");
        let refused = parse(&with(frame, pointer, over)).unwrap_err();
        assert!(refused.reason.contains("at most"), "{pointer}: {refused}");
    }
    let long = with(samples().remove(6), "/type", "v".repeat(NAME_BYTES + 1));
    assert!(parse(&long).is_err());
}

#[test]
fn the_null_character_is_refused_everywhere() {
    for (frame, pointer, _) in bounded_fields() {
        let refused = parse(&with(frame, pointer, "a\0b")).unwrap_err();
        assert!(refused.reason.contains("U+0000"), "{pointer}: {refused}");
    }
    assert!(parse(&json!({"type": "a\0b", "_reqId": "q"})).is_err());
}

#[test]
fn groups_are_counted() {
    let groups = |count| vec![json!({"name": "g"}); count];
    let hello = samples().remove(0);
    assert!(parse(&with(hello.clone(), "/groups", groups(GROUPS))).is_ok());
    assert!(parse(&with(hello, "/groups", groups(GROUPS + 1))).is_err());
}

#[test]
fn absent_and_null_are_the_same() {
    let short = json!({"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": ""});
    let null = json!({"type": "send", "targetSpec": "*", "nonce": "", "ciphertext": "", "id": null,
        "client_message_id": null, "request_fingerprint": null, "replyToId": null});
    let parsed = parse(&short).unwrap();
    assert_eq!(parse(&null), Ok(parsed.clone()));
    let Frame::Send(send) = parsed else { panic!("a send") };
    assert_eq!((send.id, send.priority), (None, Priority::Next));
}

#[test]
fn the_order_of_keys_and_blanks_do_not_matter() {
    let compact = r#"{"type":"send","id":"1","targetSpec":"*","nonce":"n","ciphertext":"c"}"#;
    let turned =
        r#" { "ciphertext":"c", "nonce":"n", "targetSpec":"*", "id":"1", "type" : "send" } "#;
    let escaped =
        r#"{"\u0074ype":"s\u0065nd","id":"\u0031","targetSpec":"*","nonce":"n","ciphertext":"c"}"#;
    assert_eq!(client::parse(turned), client::parse(compact));
    assert_eq!(client::parse(escaped), client::parse(compact));
}

#[test]
fn unknown_fields_are_passed_over() {
    for mut frame in samples() {
        let plain = parse(&frame);
        frame["unheardOf"] = json!(["ana", {"deep": [[[null]]]}]);
        frame["seq"] = json!(2);
        assert_eq!(parse(&frame), plain);
    }
}

#[test]
fn what_is_no_object_is_no_frame() {
    for text in [
        "",
        " ",
        "null",
        "1",
        "\"send\"",
        "[]",
        "{}",
        "[\"list_peers\"]",
        "[\"client_ack\",\"x\"]",
        " [\"list_peers\"]",
        "[{\"type\":\"list_peers\"}]",
        "{\"type\":null}",
        "{\"type\":1}",
        "{\"type\":\"list_peers\"",
        "{\"type\":\"list_peers\"}}",
        "{\"type\":\"list_peers\"}\0",
    ] {
        assert!(client::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_malformed_send_is_refused_by_its_ids() {
    let good = json!({"type": "send", "id": "17", "_reqId": "q", "targetSpec": "*", "nonce": "n",
        "ciphertext": "c"});
    for (pointer, bad) in [
        ("/targetSpec", json!(null)),
        ("/targetSpec", json!("t".repeat(TARGET_BYTES + 1))),
        ("/nonce", json!(7)),
        ("/ciphertext", json!("a\0b")),
        ("/ciphertext", json!({"a": [1]})),
    ] {
        let refused = parse(&with(good.clone(), pointer, bad)).unwrap_err();
        assert_eq!(refused.verb.as_deref(), Some("send"), "{pointer}");
        assert_eq!(refused.id, Some("17".into()), "{pointer}");
        assert_eq!(refused.req_id, Some("q".into()), "{pointer}");
    }
    for missing in ["targetSpec", "nonce", "ciphertext"] {
        let mut frame = good.clone();
        frame.as_object_mut().unwrap().remove(missing);
        let refused = parse(&frame).unwrap_err();
        assert_eq!(refused.id, Some("17".into()));
        assert!(refused.reason.contains(missing), "{refused}");
    }
}

#[test]
fn an_id_survives_faults_elsewhere_in_the_text() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for fault in [
        r#""nonce":"n","nonce":7,"ciphertext":"c""#.to_owned(),
        r#""nonce":"\ud800","ciphertext":7"#.to_owned(),
        format!(r#""nonce":"n","ciphertext":{deep}"#),
    ] {
        let text = format!(r#"{{"type":"send","id":"17","targetSpec":"*",{fault}}}"#);
        let refused = client::parse(&text).unwrap_err();
        assert_eq!(refused.id, Some("17".into()), "{text}");
    }
}

#[test]
fn an_id_that_is_no_bounded_scalar_is_not_echoed() {
    for id in [json!(["17"]), json!({"a": 1}), json!("a\0b"), json!("i".repeat(ECHO_BYTES + 1))] {
        let refused = parse(&json!({"type": "send", "id": id, "_reqId": "q"})).unwrap_err();
        assert_eq!((refused.id, refused.req_id), (None, Some("q".into())), "{id}");
    }
}

/// Whether an id is echoed as it came, but for halves of pairs.
fn same(sent: &Value, echoed: &EchoId) -> bool {
    sent == echoed || sent.as_f64().is_some_and(|n| json!(echoed).as_f64() == Some(n))
}

/// JSON of any shape.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = client::parse(&text);
    }

    #[test]
    fn no_damage_to_a_good_frame_makes_it_panic(
        which in 0..samples().len(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = samples()[which].to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = client::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_value_in_any_field_is_taken_within_bounds_or_refused(
        which in 0..samples().len(), field in any::<prop::sample::Index>(), value in any_json(),
    ) {
        let frame = samples().swap_remove(which);
        let fields = frame.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let frame = with(frame, &format!("/{}", field.get(&fields)), value);
        if let Err(refused) = parse(&frame) {
            prop_assert!(!refused.reason.is_empty());
            prop_assert!(refused.id.is_none_or(|id| same(&frame["id"], &id)));
            prop_assert!(refused.req_id.is_none_or(|id| same(&frame["_reqId"], &id)));
        }
    }

    #[test]
    fn a_send_keeps_every_letter(target in "[^\0]{0,60}", nonce in "[^\0]*", ciphertext in "[^\0]*", id in "[^\0]{0,30}") {
        let frame = json!({"type": "send", "id": id, "targetSpec": target, "nonce": nonce, "ciphertext": ciphertext});
        let Frame::Send(send) = parse(&frame).unwrap() else { panic!("a send") };
        prop_assert_eq!(send.id, Some(id.into()));
        let mut shown = target;
        names::tidy_target(&mut shown);
        prop_assert_eq!(send.target_spec, shown);
        prop_assert_eq!((send.nonce, send.ciphertext), (nonce, ciphertext));
    }
}
