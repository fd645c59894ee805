//! P9: bad input gets a clear answer: never a panic, a silence or a hurt neighbour.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, attestation, envelope, fresh_key, timestamp};
use crate::support::socket::{Habit, Socket, is_envelope};

on_each_store!(
    each_malformed_frame_is_answered,
    each_wrong_hello_is_refused,
    each_wrong_session_hello_is_refused,
    a_removed_member_is_told_so,
    frames_before_hello_are_refused_and_forgiven,
    what_is_no_frame_before_hello_ends_the_socket,
    frames_behind_hello_are_handled_in_order,
    frames_before_a_close_are_executed,
    a_second_hello_replaces_the_first,
    binary_frames_are_text,
    no_bytes_hurt_the_neighbours,
);

async fn each_malformed_frame_is_answered(kind: Kind) {
    let (_node, mut ana, _ben, _) = two_peers(kind).await;
    let send = |fields: Value| {
        let mut frame = envelope("*", "i");
        for (name, value) in fields.as_object().unwrap() {
            frame[name] = value.clone();
        }
        frame
    };
    let mut no_target = envelope("*", "i");
    no_target.as_object_mut().unwrap().remove("targetSpec");
    let long = "x".repeat(129);
    // What is sent, and the beginning of the refusal.
    let sends = [
        (no_target, "invalid: missing field `targetSpec`"),
        (send(json!({"priority": "soon"})), "invalid: unknown variant `soon`"),
        (send(json!({"nonce": 7})), "invalid: invalid type"),
        (send(json!({"ciphertext": null})), "invalid: missing field `ciphertext`"),
        (send(json!({"ciphertext": "a\0b"})), "invalid: ciphertext: U+0000 is not allowed"),
        (send(json!({"client_message_id": long})), "invalid: client_message_id: 129 bytes"),
        (send(json!({"targetSpec": "#nowhere"})), "not_found: no such topic"),
        (send(json!({"targetSpec": "ana"})), "no connected peer for target"),
        (send(json!({"targetSpec": ""})), "no connected peer for target"),
    ];
    for (frame, refusal) in sends {
        let ack = ana.send_frame(&frame).await;
        assert!(ack.refused().starts_with(refusal), "{frame} got {ack:?}");
    }
    let asked = [
        (json!({"type": "message_status"}), "malformed"),
        (json!({"type": "message_status", "messageId": 7}), "malformed"),
        (json!({"type": "message_status", "messageId": "short"}), "invalid_argument"),
        (json!({"type": "message_status", "messageId": "12345678"}), "not_found"),
        (json!({"type": ["list_peers"]}), "malformed"),
        (json!({"type": "no_such_verb"}), "not_implemented"),
        (json!({"id": "no type"}), "malformed"),
    ];
    for (frame, code) in asked {
        let answer = ana.ask(frame.clone()).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{frame}");
    }
    // Without an id there is nobody to answer: the socket stays, and stays usable.
    for text in ["", "{", "[]", "7", "null", "\"hello\"", "{\"type\":7}", "[\"send\",{}]", "{}{}"] {
        ana.post_text(text).await;
    }
    ana.round_trip().await;
    assert_eq!(ana.take_kept(|_| true), Vec::<Value>::new());
}

struct Refusal {
    what: &'static str,
    frame: Value,
    code: &'static str,
    message: &'static str,
}

#[expect(clippy::too_many_lines, reason = "a table reads best whole")]
async fn each_wrong_hello_is_refused(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let good = || Hello::member(&mesh, "ana");
    let with = |fields: Value| good().with(&fields).frame();
    let mut stranger = good();
    stranger.member.key = fresh_key();
    stranger.member.pubkey = stranger.member.key.public_hex();
    let mut nowhere = good();
    nowhere.mesh = "nowhere".into();
    let mut other = good();
    other.member.id = "somebody".into();
    let now = timestamp();
    let refuse = |what, frame, code, message| Refusal { what, frame, code, message };
    let malformed = |what, frame| refuse(what, frame, "malformed", "hello rejected: ");
    let bad_key = "sessionPubkey must be 64 lowercase hex chars";
    let skew = "hello rejected: timestamp_skew";
    for refusal in [
        refuse(
            "a short session key",
            with(json!({"sessionPubkey": "ab"})),
            "bad_session_pubkey",
            bad_key,
        ),
        refuse(
            "an upper-case session key",
            with(json!({"sessionPubkey": "AB".repeat(32)})),
            "bad_session_pubkey",
            bad_key,
        ),
        refuse("an old timestamp", good().frame_at(now - 61_000), "timestamp_skew", skew),
        refuse("a timestamp to come", good().frame_at(now + 65_000), "timestamp_skew", skew),
        refuse(
            "a short signature",
            with(json!({"signature": "ab"})),
            "malformed",
            "hello rejected: malformed",
        ),
        refuse(
            "a short key",
            with(json!({"pubkey": "ab"})),
            "malformed",
            "hello rejected: malformed",
        ),
        refuse(
            "another's signature",
            with(json!({"signature": "0a".repeat(64)})),
            "bad_signature",
            "hello rejected: bad_signature",
        ),
        refuse("a stranger", stranger.frame(), "unauthorized", "pubkey not found in mesh"),
        refuse("an unknown mesh", nowhere.frame(), "unauthorized", "pubkey not found in mesh"),
        refuse(
            "another member's id",
            other.frame(),
            "member_id_mismatch",
            "memberId does not match pubkey",
        ),
        malformed("no mesh", with(json!({"meshId": null}))),
        malformed("a number for a mesh", with(json!({"meshId": 7}))),
        malformed("no session id", with(json!({"sessionId": null}))),
        malformed("no pid", with(json!({"pid": null}))),
        malformed("a text for a pid", with(json!({"pid": "7"}))),
        malformed("no working directory", with(json!({"cwd": null}))),
        malformed("a text for a time", with(json!({"timestamp": "now"}))),
        malformed("a name too long", with(json!({"displayName": "x".repeat(257)}))),
        malformed("U+0000", with(json!({"displayName": "a\0b"}))),
        malformed("groups that are none", with(json!({"groups": ["a"]}))),
    ] {
        is_refused(&node, refusal, 1008).await;
    }
    let mut fine = TestPeer::join(&node, good()).await;
    fine.round_trip().await;
    let replay = fine.hello.frame();
    let mut first = Socket::open(&node.address()).await;
    first.post(&replay).await;
    assert_eq!(first.next_frame().await["type"], "hello_ack");
    is_refused(&node, refuse("a replay", replay, "replayed", "hello rejected: replayed"), 1008)
        .await;
}

#[expect(clippy::too_many_lines, reason = "a table reads best whole")]
async fn each_wrong_session_hello_is_refused(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let good = || Hello::session(&mesh, "ana");
    let with = |fields: Value| good().with(&fields).frame();
    let ana = mesh.member("ana");
    let now = timestamp();
    // A session's own frame whose attestation is made by `attest`.
    let attested = |attest: &dyn Fn(&str) -> Value| {
        let hello = good();
        let attestation = attest(&hello.pubkey());
        hello.with(&json!({"parentAttestation": attestation})).frame()
    };
    let spoiled = |field: &str, value: Value| {
        attested(&|key| {
            let mut attestation = attestation(ana, key, timestamp() + 1_000_000);
            attestation[field] = value.clone();
            attestation
        })
    };
    let mut stranger = good();
    stranger.member.key = fresh_key();
    stranger.member.pubkey = stranger.member.key.public_hex();
    let mut other = good();
    other.member.id = "somebody".into();
    let taken = good();
    let _taken = TestPeer::join(&node, taken.clone()).await;
    let mut thief = Hello::session(&mesh, "ben");
    thief.session = taken.session;
    let refuse = |what, frame, code, message| Refusal { what, frame, code, message };
    let mismatch = "parentAttestation does not bind the claimed session+parent pubkeys";
    let skew = "session_hello rejected: timestamp_skew";
    for refusal in [
        refuse(
            "an upper-case session key",
            with(json!({"sessionPubkey": "AB".repeat(32)})),
            "bad_session_pubkey",
            "sessionPubkey must be 64 lowercase hex chars",
        ),
        refuse(
            "an upper-case parent",
            with(json!({"parentMemberPubkey": "AB".repeat(32)})),
            "bad_parent_pubkey",
            "parentMemberPubkey must be 64 lowercase hex chars",
        ),
        refuse(
            "no attestation",
            with(json!({"parentAttestation": null})),
            "attestation_mismatch",
            mismatch,
        ),
        refuse(
            "another key attested",
            spoiled("sessionPubkey", json!("ab".repeat(32))),
            "attestation_mismatch",
            mismatch,
        ),
        refuse(
            "another parent attested",
            spoiled("parentMemberPubkey", json!("ab".repeat(32))),
            "attestation_mismatch",
            mismatch,
        ),
        refuse(
            "an attestation run out",
            attested(&|key| attestation(ana, key, now - 1)),
            "expired",
            "attestation rejected: expired",
        ),
        refuse(
            "an attestation for years",
            attested(&|key| attestation(ana, key, now + 87_000_000)),
            "ttl_too_long",
            "attestation rejected: ttl_too_long",
        ),
        refuse(
            "a short attestation",
            spoiled("signature", json!("ab")),
            "malformed",
            "attestation rejected: malformed",
        ),
        refuse(
            "another's attestation",
            attested(&|key| {
                let mut forged = ana.clone();
                forged.key = fresh_key();
                attestation(&forged, key, timestamp() + 1_000_000)
            }),
            "bad_signature",
            "attestation rejected: bad_signature",
        ),
        refuse("an old timestamp", good().frame_at(now - 61_000), "timestamp_skew", skew),
        refuse(
            "a short signature",
            with(json!({"signature": "ab"})),
            "malformed",
            "session_hello rejected: malformed",
        ),
        refuse(
            "another's signature",
            with(json!({"signature": "0a".repeat(64)})),
            "bad_signature",
            "session_hello rejected: bad_signature",
        ),
        refuse("a stranger", stranger.frame(), "unauthorized", "parent pubkey not found in mesh"),
        refuse(
            "another member's id",
            other.frame(),
            "parent_member_id_mismatch",
            "parentMemberId does not match parentMemberPubkey",
        ),
        refuse(
            "another member's session",
            thief.frame(),
            "unauthorized",
            "the session key belongs to another member",
        ),
        refuse("no session id", with(json!({"sessionId": null})), "malformed", "hello rejected: "),
        refuse(
            "a text for an attestation",
            with(json!({"parentAttestation": "yes"})),
            "malformed",
            "hello rejected: ",
        ),
    ] {
        is_refused(&node, refusal, 1008).await;
    }
    TestPeer::join(&node, good().with(&json!({"parentMemberId": null}))).await.round_trip().await;
}

async fn a_removed_member_is_told_so(kind: Kind) {
    let (node, mut ana, ben, mesh) = two_peers(kind).await;
    node.revoke(&mesh, "ben").await;
    let message = "You've been removed from \"red\". Contact the mesh owner to rejoin.";
    for frame in [Hello::member(&mesh, "ben").frame(), ben.hello.frame()] {
        let refusal = Refusal { what: "a removed member", frame, code: "revoked", message };
        let mut socket = Socket::open(&node.address()).await;
        socket.post(&refusal.frame).await;
        let error = socket.next_frame().await;
        assert_eq!((&error["code"], &error["message"]), (&json!("revoked"), &json!(message)));
        assert_eq!(socket.close_frame().await, (4002, "banned".into()));
    }
    ana.round_trip().await;
}

async fn is_refused(node: &Node, refusal: Refusal, close: u16) {
    let Refusal { what, frame, code, message } = refusal;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&frame).await;
    let error = socket.next_frame().await;
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!(code)),
        "{what}: {error}"
    );
    let text = error["message"].as_str().unwrap();
    assert!(text.starts_with(message), "{what}: {text}");
    assert_eq!(socket.close_frame().await, (close, code.to_owned()), "{what}");
}

async fn frames_before_hello_are_refused_and_forgiven(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&json!({"type": "list_peers", "_reqId": "r1"})).await;
    socket.post(&envelope("*", "too early")).await;
    socket.post(&json!({"type": "set_summary", "summary": "s"})).await;
    socket.post(&Hello::session(&mesh, "eve").frame()).await;
    for ids in
        [(json!("r1"), json!("r1")), (json!("too early"), Value::Null), (Value::Null, Value::Null)]
    {
        let error = socket.next_frame().await;
        assert_eq!(error["code"], "no_hello", "{error}");
        assert_eq!(error["message"], "must send hello first");
        assert_eq!((error["id"].clone(), error["_reqId"].clone()), ids);
    }
    assert_eq!(socket.next_frame().await["type"], "hello_ack");
    ana.expect_event("peer_joined", "eve").await;
    assert_eq!(ana.texts().await, [""; 0]);
}

async fn what_is_no_frame_before_hello_ends_the_socket(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let hello = Hello::session(&mesh, "eve").frame().to_string();
    for (text, id) in [
        ("GET / HTTP/1.1", Value::Null),
        ("{}", Value::Null),
        (r#"{"type":"list_peers","_reqId":7,"#, Value::Null),
        (r#"{"type":"message_status","messageId":[],"_reqId":7}"#, json!(7)),
        (r#"{"type":"send","id":"1"}"#, json!("1")),
        (&hello[..hello.len() - 1], Value::Null),
    ] {
        let mut socket = Socket::open(&node.address()).await;
        socket.post_text(text).await;
        let error = socket.next_frame().await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("malformed")),
            "{text}"
        );
        assert_eq!(error["id"], id, "{text}");
        assert_eq!(socket.close_frame().await, (1008, "malformed".into()), "{text}");
    }
    assert_eq!(ana.events().await, []);
}

async fn frames_behind_hello_are_handled_in_order(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&Hello::session(&mesh, "eve").frame()).await;
    for number in 0..100 {
        socket.post(&envelope(&ana, &number.to_string())).await;
    }
    assert_eq!(socket.next_frame().await["type"], "hello_ack");
    for number in 0..100 {
        let ack = socket.take("an ack", |frame| frame["type"] == "ack").await;
        assert_eq!((&ack["id"], &ack["queued"]), (&json!(number.to_string()), &json!(true)));
        assert_eq!(ana.next().await, number.to_string());
    }
}

/// A command connects, acts and is gone without waiting.
async fn frames_before_a_close_are_executed(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind).await;
    for round in 0..10 {
        let socket = Socket::open(&node.address()).await;
        socket.post(&Hello::member(&mesh, "eve").frame()).await;
        for number in 0..20 {
            socket.post(&envelope(&ana, &format!("{round}-{number}"))).await;
        }
        socket.post_message(Message::Close(None)).await;
        for number in 0..20 {
            assert_eq!(ana.next().await, format!("{round}-{number}"));
        }
    }
}

async fn a_second_hello_replaces_the_first(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let green = node.mesh("green", &["ben"]).await;
    ben.post(&Hello::session(&green, "ben").frame()).await;
    ben.take("hello_ack", |frame| frame["type"] == "hello_ack").await;
    assert_eq!(ben.peers().await.len(), 1);
    // And back, to the presence that was left.
    ben.post(&ben.hello.frame()).await;
    let ack = ben.take("hello_ack", |frame| frame["type"] == "hello_ack").await;
    assert_eq!(ack["presenceId"], ben.presence());
    assert_eq!(ben.peers().await.len(), 2);
    // The same hello once more, signed anew.
    ben.post(&ben.hello.frame()).await;
    let ack = ben.take("hello_ack", |frame| frame["type"] == "hello_ack").await;
    assert_eq!(ack["presenceId"], ben.presence());
    ana.send(&ben, "hello").await.acknowledged();
    assert_eq!(ben.next().await, "hello");
    assert_eq!(ana.events().await, []);
    drop(mesh);
}

async fn binary_frames_are_text(kind: Kind) {
    let (node, mut ana, ben, mesh) = two_peers(kind).await;
    let mut socket = Socket::open(&node.address()).await;
    let binary = |frame: Value| Message::binary(frame.to_string().into_bytes());
    socket.post_message(binary(Hello::session(&mesh, "eve").frame())).await;
    assert_eq!(socket.next_frame().await["type"], "hello_ack");
    socket.post_message(binary(envelope(&ana, "hello"))).await;
    assert_eq!(ana.next().await, "hello");
    socket.post_message(Message::binary(vec![0xff, 0xfe, 0])).await;
    socket.post_message(binary(envelope(&ana, "again"))).await;
    assert_eq!(ana.next().await, "again");
    drop(ben);
}

/// Frames of any kind, from before a hello and after, beside a pair that talks.
async fn no_bytes_hurt_the_neighbours(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for round in 0..60 {
        let frames = some_frames().new_tree(&mut runner).unwrap().current();
        let socket = Socket::open(&node.address()).await;
        if round % 2 == 0 {
            socket.set_habit(Habit::Reads);
            socket.post(&Hello::member(&mesh, "eve").frame()).await;
        }
        for frame in frames {
            socket.post_message(frame).await;
        }
        socket.post_message(Message::Close(None)).await;
        let text = format!("round {round}");
        ana.send(&ben, &text).await.acknowledged();
        let mine = |frame: &Value| is_envelope(frame) && frame["ciphertext"] == text.as_str();
        ben.take("the neighbour's message", mine).await;
    }
    for _ in 0..20 {
        raw_bytes(&node, &mut runner).await;
    }
    ana.send(&ben, "end").await.acknowledged();
    ben.take("the last message", |frame| frame["ciphertext"] == "end").await;
}

use proptest::strategy::ValueTree;

fn some_frames() -> impl Strategy<Value = Vec<Message>> {
    let verb = prop_oneof![
        Just("hello"),
        Just("session_hello"),
        Just("send"),
        Just("client_ack"),
        Just("list_peers"),
        Just("message_status"),
        Just("set_profile"),
        Just(""),
    ];
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[@#*a-f0-9/]{0,70}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({"a": [1]})),
    ];
    let name = prop_oneof![
        Just("id"),
        Just("_reqId"),
        Just("targetSpec"),
        Just("priority"),
        Just("nonce"),
        Just("ciphertext"),
        Just("client_message_id"),
        Just("request_fingerprint"),
        Just("messageId"),
        Just("brokerMessageId"),
        Just("clientMessageId"),
        Just("meshId"),
        Just("pubkey"),
        Just("timestamp"),
        Just("signature"),
        Just("sessionPubkey"),
        Just("groups"),
    ];
    let fields = proptest::collection::vec((name, value), 0..8);
    let object = (verb, fields).prop_map(|(verb, fields)| {
        let mut frame = json!({"type": verb});
        for (name, value) in fields {
            frame[name] = value;
        }
        Message::text(frame.to_string())
    });
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let frame = prop_oneof![
        4 => object,
        1 => any::<String>().prop_map(Message::text),
        1 => bytes.clone().prop_map(Message::binary),
        1 => proptest::collection::vec(any::<u8>(), 0..125).prop_map(|b| Message::Pong(b.into())),
        1 => proptest::collection::vec(any::<u8>(), 0..125).prop_map(|b| Message::Ping(b.into())),
    ];
    proptest::collection::vec(frame, 0..25)
}

/// Bytes that are no WebSocket frames, right behind an upgrade.
async fn raw_bytes(node: &Node, runner: &mut TestRunner) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bytes = proptest::collection::vec(any::<u8>(), 1..600);
    let bytes = bytes.new_tree(runner).unwrap().current();
    let mut stream = tokio::net::TcpStream::connect(node.address()).await.unwrap();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

async fn two_peers(kind: Kind) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    ana.expect_event("peer_joined", "ben").await;
    (node, ana, ben, mesh)
}
