//! Clients are written in JavaScript: what `JSON.stringify` makes of their values is understood, and
//! what they correlate by comes back as they wrote it.

use serde_json::{Value, json};

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben, envelope, timestamp};
use crate::support::socket::Socket;

on_each_store!(
    a_hello_as_javascript_writes_it_is_accepted,
    what_is_null_or_whole_or_half_is_understood,
    every_answer_echoes_ids_of_any_kind,
    a_multicasts_ack_says_how_many_it_waits_for,
    a_clock_that_is_off_is_told_the_time,
    a_field_that_comes_twice_and_a_deep_one_are_understood,
);

async fn a_hello_as_javascript_writes_it_is_accepted(kind: Kind) {
    let (node, mut ana, _ben, mesh) = ana_and_ben(kind, &[]).await;
    let at = timestamp();
    for (number, hello) in
        [Hello::member(&mesh, "eve"), Hello::session(&mesh, "eve")].iter().enumerate()
    {
        let at = at + i64::try_from(number).unwrap();
        let mut frame = hello.frame_at(at);
        frame["displayName"] = json!("eve@here@");
        for absent in ["model", "groups", "capabilities", "role", "resumeToken"] {
            frame[absent] = Value::Null;
        }
        let text = frame.to_string();
        let text = text.replace(&format!("\"timestamp\":{at}"), &format!("\"timestamp\":{at}.0"));
        let text = text.replace("\"pid\":", "\"pid\":1e2,\"was\":").replace("@here@", r"\ud83e");
        let mut socket = Socket::open(&node.address()).await;
        socket.post_text(&format!("\u{feff}{text}")).await;
        let ack = socket.next_frame().await;
        assert_eq!(
            (&ack["type"], &ack["memberDisplayName"]),
            (&json!("hello_ack"), &json!("eve\u{fffd}")),
            "{ack}"
        );
        ana.expect_event("peer_joined", "eve\u{fffd}").await;
        socket.close().await;
    }
}

async fn what_is_null_or_whole_or_half_is_understood(kind: Kind) {
    let (_node, mut ana, mut ben, _) = ana_and_ben(kind, &[]).await;
    let key = ben.hello.pubkey();
    let text = format!(
        r#"{{"type":"send","id":1.0,"targetSpec":"{key}","priority":null,"nonce":"n\ud800","ciphertext":"c\udc00",
        "client_message_id":null,"request_fingerprint":null,"replyToId":null,"mentions":null,"bodyVersion":1.0}}"#
    );
    ana.post_text(&text).await;
    let ack = ana.take("the ack", |frame| frame["type"] == "ack").await;
    assert_eq!((ack["id"].as_f64(), &ack["queued"]), (Some(1.0), &json!(true)), "{ack}");
    let push = ben.next_push().await;
    assert_eq!((&push["nonce"], &push["ciphertext"]), (&json!("n\u{fffd}"), &json!("c\u{fffd}")));
    ben.post_text(r#"{"type":"set_summary","summary":null}"#).await;
    ben.post_text(
        r#"{"type":"set_stats","stats":{"messagesIn":3.0,"toolCalls":null,"uptime":1.5}}"#,
    )
    .await;
    ben.post_text("\u{feff}{\"type\":\"join_group\",\"name\":\"g\\ud800\",\"role\":null}").await;
    ben.round_trip().await;
    let rows = ana.peers().await;
    let row = rows.iter().find(|row| row["displayName"] == "ben").unwrap();
    assert_eq!(row["groups"], json!([{"name": "g\u{fffd}"}]), "{row}");
    assert_eq!(row["stats"], json!({"messagesIn": 3, "uptime": 1.5}), "{row}");
    let audit = r#"{"type":"audit_query","limit":1.0,"offset":0.0,"eventType":null,"_reqId":"q"}"#;
    ana.post_text(audit).await;
    let result = ana.take("the entries", |frame| frame["_reqId"] == "q").await;
    assert_eq!(result["entries"].as_array().map(Vec::len), Some(1), "{result}");
}

async fn every_answer_echoes_ids_of_any_kind(kind: Kind) {
    let (_node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    let long = "x".repeat(200);
    for id in [json!(7), json!(1.5), json!(0), json!(true), json!(false), json!("7")] {
        let mut sends = [
            envelope(&ben, &format!("fine {id}")),
            envelope("nobody", "x"),
            envelope("#none", "x"),
        ];
        sends[0].as_object_mut().unwrap().remove("client_message_id");
        let mut bad = envelope("*", "x");
        bad["client_message_id"] = json!(long);
        let [fine, nobody, none] = &mut sends;
        for send in [fine, nobody, none, &mut bad] {
            send["id"] = id.clone();
            ana.post(send).await;
            let ack = ana.take("the ack", |frame| frame["type"] == "ack").await;
            assert_eq!(ack["id"], id, "{send} got {ack}");
        }
        for request in [
            json!({"type": "list_peers"}),
            json!({"type": "list_bans"}),
            json!({"type": "audit_query"}),
            json!({"type": "set_visible", "visible": true}),
            json!({"type": "set_profile", "title": "t"}),
            json!({"type": "message_status", "messageId": "12345678"}),
            json!({"type": "message_status", "messageId": "no"}),
            json!({"type": "message_status", "messageId": []}),
            json!({"type": "no_such_verb"}),
            json!({"type": "kick", "target": "nobody"}),
            json!({"type": "ban", "target": "nobody"}),
            json!({"type": "unban"}),
        ] {
            let mut request = request;
            request["_reqId"] = id.clone();
            ana.post(&request).await;
            let answer = ana.take(&request.to_string(), |frame| frame["type"] != "push").await;
            assert_eq!(answer["_reqId"], id, "{request} got {answer}");
            if answer["type"] == "error" || answer["type"] == "ack" {
                assert_eq!(answer["id"], id, "{request} got {answer}");
            }
        }
    }
    // `null` is no id: a request without one is not answered where it is refused.
    ana.post(&json!({"type": "no_such_verb", "_reqId": null})).await;
    ana.post(&json!({"type": "message_status", "messageId": [], "_reqId": null})).await;
    ana.round_trip().await;
    let heard = ana.take_kept(|frame| frame["type"] != "push");
    assert_eq!(heard, Vec::<Value>::new());
}

async fn a_multicasts_ack_says_how_many_it_waits_for(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(kind, &[]).await;
    ben.post(&json!({"type": "join_group", "name": "team"})).await;
    ben.round_trip().await;
    let _eve = TestPeer::session(&node, &mesh, "eve").await;
    for (target, count) in [("*", 2), ("@all", 2), ("@team", 1), ("@nobody", 0)] {
        let ack = ana.send(target, &format!("to {target}")).await;
        ack.acknowledged();
        assert_eq!(ack.0["recipients"], count, "{target}: {ack:?}");
    }
    let ack = ana.send(&ben, "to one").await;
    ack.acknowledged();
    assert_eq!(ack.0.get("recipients"), None, "{ack:?}");
    assert_eq!(ana.send("nobody", "to none").await.0.get("recipients"), None);
}

async fn a_clock_that_is_off_is_told_the_time(kind: Kind) {
    let (node, mesh) = scene(kind).await;
    for (hello, verb) in
        [(Hello::member(&mesh, "ana"), "hello"), (Hello::session(&mesh, "ana"), "session_hello")]
    {
        let mut socket = Socket::open(&node.address()).await;
        let before = timestamp();
        socket.post(&hello.frame_at(before - 1_800_000)).await;
        let error = socket.next_frame().await;
        assert_eq!(error["code"], "timestamp_skew", "{error}");
        let told = error["brokerTime"].as_i64().unwrap();
        assert!(told >= before - 1_000 && told <= timestamp() + 1_000, "{error}");
        let text = error["message"].as_str().unwrap();
        let iso = protocol::time::iso(told);
        assert_eq!(text, format!("{verb} rejected: timestamp_skew (broker time {iso}, {told} ms)"));
        assert_eq!(socket.close_frame().await, (1008, "timestamp_skew".into()));
    }
}

/// As `JSON.parse` does: the last of two counts, and what nobody reads may be as deep as it likes.
async fn a_field_that_comes_twice_and_a_deep_one_are_understood(kind: Kind) {
    let (_node, mut ana, ben, _) = ana_and_ben(kind, &[]).await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for text in [
        r#"{"type":"list_peers","_reqId":1,"_reqId":"q"}"#.to_owned(),
        r#"{"type":"list_bans","type":"list_peers","_reqId":"q"}"#.to_owned(),
        r#"{"type":"send","targetSpec":"*","nonce":"n","ciphertext":"c","_reqId":"q","type":"list_peers"}"#
            .to_owned(),
        format!(r#"{{"type":"list_peers","x":{deep},"_reqId":"q"}}"#),
    ] {
        ana.post_text(&text).await;
        let list = ana.take(&text, |frame| frame["_reqId"] == "q").await;
        assert_eq!(list["type"], "peers_list", "{text} got {list}");
    }
    let key = ben.hello.pubkey();
    let text = format!(
        r#"{{"type":"send","id":"a","id":"b","targetSpec":"nobody","nonce":"n","ciphertext":"c","x":{deep},
        "targetSpec":"{key}"}}"#
    );
    ana.post_text(&text).await;
    let ack = ana.take("the ack", |frame| frame["type"] == "ack").await;
    assert_eq!((&ack["id"], &ack["queued"]), (&json!("b"), &json!(true)), "{ack}");
}

async fn scene(kind: Kind) -> (Node, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    (node, mesh)
}
