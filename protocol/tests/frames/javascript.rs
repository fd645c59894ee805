//! JSON as JavaScript writes it, in every field of every frame.

use protocol::EchoId;
use protocol::client::{
    self, ClientAck, Frame, Group, Hello, PeerProfile, Profile, Request, Selection, Send,
    SessionHello, Stats, Verb,
};
use serde_json::{Value, json};

use super::incoming::{parse, samples};

/// Every place in a value, as JSON pointers, and whether it is a field (or else an item of a list).
fn places(value: &Value, at: &str, found: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.push((format!("{at}/{name}"), true));
                places(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                found.push((format!("{at}/{index}"), false));
                places(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Every sample with every place in it and what stands there.
fn table() -> Vec<(Value, String, bool, Value)> {
    let mut table = Vec::new();
    for frame in samples() {
        let mut found = Vec::new();
        places(&frame, "", &mut found);
        for (pointer, field) in found {
            let value = frame.pointer(&pointer).unwrap().clone();
            table.push((frame.clone(), pointer, field, value));
        }
    }
    table
}

/// The text of a frame with `literal` in one place.
fn text_with(frame: &Value, pointer: &str, literal: &str) -> String {
    let mut frame = frame.clone();
    *frame.pointer_mut(pointer).unwrap() = json!("@here@");
    frame.to_string().replace("\"@here@\"", literal)
}

fn without(frame: &Value, pointer: &str) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let mut frame = frame.clone();
    frame.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
    frame
}

/// Patterns name every field, so that a new one is missed here before it is forgotten in a sample.
#[test]
fn samples_hold_every_field() {
    for frame in samples() {
        let complete = match parse(&frame).unwrap() {
            Frame::Hello(hello) => {
                let Hello { session_pubkey, profile, .. } = hello;
                session_pubkey.is_some() && is_full(&profile)
            }
            Frame::SessionHello(hello) => {
                let SessionHello { parent_member_id, parent_attestation, profile, .. } = hello;
                parent_member_id.is_some() && parent_attestation.is_some() && is_full(&profile)
            }
            Frame::Send(Send {
                id,
                target_spec: _,
                priority: _,
                nonce: _,
                ciphertext: _,
                client_message_id,
                request_fingerprint,
                reply_to_id,
                offline,
                mentions,
                body_version,
            }) => {
                let texts = [client_message_id, request_fingerprint, reply_to_id, offline];
                let texts = texts.iter().all(Option::is_some);
                texts && id.is_some() && mentions.is_some() && body_version.is_some()
            }
            Frame::ClientAck(ClientAck { client_message_id, broker_message_id }) => {
                client_message_id.is_some() && broker_message_id.is_some()
            }
            Frame::Request(Request { verb, req_id }) => req_id.is_some() && is_whole(&verb),
            Frame::Other { verb: _, req_id } => req_id.is_some(),
        };
        assert!(complete, "{frame}");
    }
}

fn is_full(profile: &Profile) -> bool {
    let Profile {
        display_name,
        session_id: _,
        pid: _,
        cwd: _,
        hostname,
        channel,
        model,
        peer_type,
        groups,
    } = profile;
    let texts = [display_name, hostname, channel, model, peer_type].into_iter();
    let in_group =
        |groups: &Vec<Group>| groups.iter().all(|Group { name: _, role }| role.is_some());
    texts.into_iter().all(Option::is_some) && groups.as_ref().is_some_and(in_group)
}

fn is_whole(verb: &Verb) -> bool {
    match verb {
        Verb::SetProfile(PeerProfile { avatar, title, bio, capabilities }) => {
            [avatar, title, bio].into_iter().all(Option::is_some) && capabilities.is_some()
        }
        Verb::SetStats { stats } => {
            let Stats { messages_in, messages_out, tool_calls, uptime, errors } = stats;
            let counts = [messages_in, messages_out, tool_calls, uptime, errors];
            counts.into_iter().all(Option::is_some)
        }
        Verb::Disconnect(Selection { all, stale, target })
        | Verb::Kick(Selection { all, stale, target }) => {
            all.is_some() && stale.is_some() && target.is_some()
        }
        Verb::Ban { target } | Verb::Unban { target } => target.is_some(),
        Verb::AuditQuery { limit, offset, event_type } => {
            limit.is_some() && offset.is_some() && event_type.is_some()
        }
        Verb::JoinGroup(Group { name: _, role }) => role.is_some(),
        Verb::SetStatus { status: _ }
        | Verb::SetSummary { summary: _ }
        | Verb::SetVisible { visible: _ }
        | Verb::MessageStatus { message_id: _ }
        | Verb::LeaveGroup { name: _ }
        | Verb::ListPeers
        | Verb::ListBans
        | Verb::AuditVerify => true,
    }
}

#[test]
fn a_whole_float_is_an_integer() {
    let mut tried = 0;
    for (frame, pointer, _, value) in table() {
        let Some(number) = value.as_i64() else { continue };
        let plain = parse(&frame).unwrap();
        for literal in [
            format!("{number}.0"),
            format!("{number}e0"),
            format!("{number}0E-1"),
            format!("{number}.000e+0"),
        ] {
            let text = text_with(&frame, &pointer, &literal);
            assert_eq!(client::parse(&text), Ok(plain.clone()), "{text}");
            tried += 1;
        }
    }
    assert!(tried >= 4 * 14, "{tried}");
    // What is no integer stays none.
    let hello = samples().remove(0);
    for literal in ["1.5", "1e300", "\"1\"", "true"] {
        assert!(client::parse(&text_with(&hello, "/pid", literal)).is_err(), "{literal}");
    }
    let moment = text_with(&hello, "/timestamp", "1.79e12");
    assert!(
        matches!(client::parse(&moment), Ok(Frame::Hello(h)) if h.timestamp == 1_790_000_000_000)
    );
}

#[test]
fn a_field_that_is_null_is_not_there() {
    for (frame, pointer, field, _) in table() {
        if !field {
            continue;
        }
        let null = client::parse(&text_with(&frame, &pointer, "null"));
        match parse(&without(&frame, &pointer)) {
            Ok(absent) => assert_eq!(null, Ok(absent), "{pointer} of {frame}"),
            Err(_) => assert!(null.is_err(), "{pointer} of {frame}"),
        }
    }
    // All at once, where all may be missing.
    let text = r#"{"type":"send","id":null,"targetSpec":"*","priority":null,"nonce":"n","ciphertext":"c",
        "mentions":null,"bodyVersion":null,"offline":null,"unheardOf":null}"#;
    let bare = r#"{"type":"send","targetSpec":"*","nonce":"n","ciphertext":"c"}"#;
    assert_eq!(client::parse(text), client::parse(bare));
}

#[test]
fn half_of_a_surrogate_pair_is_a_replacement_character() {
    for half in [r"\ud800", r"\uDFFF", r"\udc00\uD800", r"\uD83E\ud83e"] {
        let replaced = "\u{fffd}".repeat(half.len() / 6);
        for (frame, pointer, _, value) in table() {
            if !value.is_string() {
                continue;
            }
            let read = client::parse(&text_with(&frame, &pointer, &format!("\"a{half}b\"")));
            let same = client::parse(&text_with(&frame, &pointer, &format!("\"a{replaced}b\"")));
            match same {
                Ok(same) => assert_eq!(read, Ok(same), "{pointer} of {frame}"),
                Err(same) => {
                    let read = read.unwrap_err();
                    assert_eq!((read.id, read.req_id), (same.id, same.req_id), "{pointer}");
                }
            }
        }
        for frame in samples() {
            let text = frame.to_string().replacen('{', &format!("{{\"{half}\":[\"{half}\"],"), 1);
            assert_eq!(client::parse(&text), parse(&frame), "{text}");
        }
    }
    // A pair is a pair, and a backslash may be escaped.
    let text =
        r#"{"type":"send","targetSpec":"*","nonce":"\\ud800","ciphertext":"\ud83e\udd80\ud83e"}"#;
    let Ok(Frame::Send(send)) = client::parse(text) else { panic!("a send") };
    assert_eq!((&*send.nonce, &*send.ciphertext), (r"\ud800", "🦀\u{fffd}"));
}

#[test]
fn ids_of_any_scalar_kind_are_echoed() {
    let ids =
        [json!(7), json!(-3), json!(1.5), json!(u64::MAX), json!(true), json!(false), json!("")];
    for (frame, pointer, _, _) in table() {
        if pointer != "/id" && pointer != "/_reqId" {
            continue;
        }
        for id in &ids {
            let text = text_with(&frame, &pointer, &id.to_string());
            let echoed = match client::parse(&text).unwrap() {
                Frame::Send(send) => send.id,
                Frame::Request(Request { req_id, .. }) | Frame::Other { req_id, .. } => req_id,
                other => panic!("{other:?}"),
            };
            assert_eq!(*id, echoed.unwrap(), "{text}");
            // And where the rest of the frame is nonsense.
            let broken = text.replacen('{', "{\"priority\":[],\"status\":[],\"summary\":[],", 1);
            if let Err(refused) = client::parse(&broken) {
                let echoed = [refused.id, refused.req_id].into_iter().flatten();
                assert!(echoed.into_iter().any(|echoed| *id == echoed), "{broken}");
            }
        }
        let null = client::parse(&text_with(&frame, &pointer, "null"));
        assert_eq!(null, parse(&without(&frame, &pointer)));
    }
    let id: EchoId = serde_json::from_str("7").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "7");
}

/// The text of a frame in which the field at this place comes twice, the second time with another
/// way to write its name.
fn text_with_both(frame: &Value, pointer: &str, first: &str, second: &str) -> String {
    let (_, name) = pointer.rsplit_once('/').unwrap();
    let text = text_with(frame, pointer, "\u{1}");
    let initial = u32::from(name.chars().next().unwrap());
    let again = format!("\"\\u{initial:04x}{}\":{second}", &name[1..]);
    let once = format!("\"{name}\":\u{1}");
    assert!(text.contains(&once), "{text}");
    text.replace(&once, &format!("\"{name}\":{first},\"other\":0,{again}"))
}

#[test]
fn the_last_of_a_field_that_comes_twice_counts() {
    let mut tried = 0;
    for (frame, pointer, field, value) in table() {
        if !field {
            continue;
        }
        let plain = parse(&frame).unwrap();
        let literal = value.to_string();
        for other in ["7", "\"other\"", "null", "[]", "{\"a\":[1],\"a\":2}", &literal] {
            let text = text_with_both(&frame, &pointer, other, &literal);
            assert_eq!(client::parse(&text), Ok(plain.clone()), "{text}");
            tried += 1;
        }
        // A null that comes last takes the field away.
        let text = text_with_both(&frame, &pointer, &literal, "null");
        match parse(&without(&frame, &pointer)) {
            Ok(absent) => assert_eq!(client::parse(&text), Ok(absent), "{text}"),
            Err(_) => assert!(client::parse(&text).is_err(), "{text}"),
        }
    }
    assert!(tried > 500, "{tried}");
    // However the hottest verb begins.
    for again in ["type", "\\u0074ype"] {
        let text = format!(
            r#"{{"type":"send","targetSpec":"*","nonce":"n","ciphertext":"c","{again}":"list_peers"}}"#
        );
        let asked = Frame::Request(Request { verb: Verb::ListPeers, req_id: None });
        assert_eq!(client::parse(&text), Ok(asked), "{text}");
    }
}

/// What is refused is answered, whatever comes twice.
#[test]
fn a_refusal_names_the_last_of_an_id_that_comes_twice() {
    let long = "x".repeat(5_000);
    for text in [
        r#"{"type":"x","type":"send","id":1,"id":2,"_reqId":3,"_reqId":4,"nonce":[]}"#.to_owned(),
        r#"{"type":"set_status","type":"send","id":2,"_reqId":[],"_reqId":4}"#.to_owned(),
        format!(r#"{{"type":"set_summary","id":1,"id":2,"_reqId":4,"summary":"{long}"}}"#),
    ] {
        let refused = client::parse(&text).unwrap_err();
        let ids = [refused.id, refused.req_id].map(Option::unwrap);
        assert_eq!([json!(2), json!(4)], ids, "{text}");
    }
}

/// A field that nobody reads may be nested however deep, in every frame.
#[test]
fn what_is_not_read_may_be_deep() {
    for depth in [100, 200, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for frame in samples() {
                let text = frame.to_string().replacen('{', &format!("{{\"unheardOf\":{deep},"), 1);
                assert_eq!(client::parse(&text), parse(&frame), "{depth} deep in {frame}");
            }
        }
    }
    let deep = format!(
        r#"{{"type":"set_summary","_reqId":3,"summary":{}1{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    assert_eq!(json!(3), client::parse(&deep).unwrap_err().req_id.unwrap());
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    for frame in samples() {
        assert_eq!(client::parse(&format!("\u{feff}{frame}")), parse(&frame));
    }
    assert!(client::parse("\u{feff}").is_err());
    assert!(client::parse("\u{feff}\u{feff}{\"type\":\"list_peers\"}").is_err());
}

/// However a frame cannot be read, reading it again costs what its text costs.
#[test]
fn a_frame_that_is_read_again_may_be_large() {
    let body = "[0,null,1.0,{\"a\":null}],".repeat(80_000);
    let text = format!(
        r#"{{"type":"send","targetSpec":"*","nonce":null,"x":[{body}0],"nonce":"n","ciphertext":"c"}}"#
    );
    assert!(matches!(client::parse(&text), Ok(Frame::Send(_))));
    let deep = format!(r#"{{"type":"send","id":3,"x":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(client::parse(&deep).unwrap_err().id, serde_json::from_str("3").unwrap());
}
