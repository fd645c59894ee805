//! §1.1, §1.2: how frames are told apart, refused and ordered.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, same, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§1.1", a_frame_before_a_hello_gets_no_hello_and_the_socket_stays),
        check!("§1.1", broken_json_is_met_with_silence),
        check!("§1.1", an_unknown_verb_without_an_id_is_met_with_silence),
        check!(
            "§1.1",
            an_unknown_verb_with_a_req_id_gets_not_implemented,
            [15],
            "the reference is silent"
        ),
        check!(
            "§1.1",
            a_malformed_send_gets_an_ack_that_says_invalid,
            [15],
            "the reference is silent"
        ),
        check!("§1.1", a_malformed_request_gets_malformed, [15], "the reference is silent"),
        check!("§1.2", an_error_carries_the_request_in_id_and_in_req_id),
        check!("§1.1", an_id_of_any_kind_is_echoed),
        check!("§1.1", a_frame_is_read_as_javascript_writes_it),
        check!("§1.1", frames_behind_a_hello_wait_for_it, [8], "frames are handled in order"),
        check!(
            "§1.1",
            pipelined_sends_are_acked_and_delivered_in_order,
            [8],
            "frames are handled in order"
        ),
        check!("§11.2", frames_before_a_close_are_executed),
        check!("§1.1", a_second_hello_replaces_the_first, [19], "the reference closes"),
    ]
}

async fn a_frame_before_a_hello_gets_no_hello_and_the_socket_stays(bench: &Bench) -> Verdict {
    let mut peer = Peer::unknown(bench, bench.anyone()).await?;
    let error = peer.ask(json!({ "type": "list_peers" })).await?;
    let want = json!({ "type": "error", "code": "no_hello", "message": "must send hello first" });
    has(&error, &want)?;
    let hello = peer.who.session_hello(bench.stamp());
    peer.say(hello).await?;
    peer.greet().await
}

async fn broken_json_is_met_with_silence(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    for broken in ["{", "", "null", "[]", "7", r#"{"type":7}"#, "{}"] {
        peer.write(Message::text(broken)).await?;
    }
    peer.is_served().await?;
    peer.has_not("answered", |frame| frame["type"] != "push")
}

async fn an_unknown_verb_without_an_id_is_met_with_silence(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    peer.say(json!({ "type": "no_such_verb" })).await?;
    peer.is_served().await?;
    peer.has_not("answered", |frame| frame["type"] != "push")
}

async fn an_unknown_verb_with_a_req_id_gets_not_implemented(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let error = peer.ask(json!({ "type": "no_such_verb" })).await?;
    has(&error, &json!({ "type": "error", "code": "not_implemented" }))
}

async fn a_malformed_send_gets_an_ack_that_says_invalid(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let whole = json!({
        "type": "send", "targetSpec": "*", "nonce": "n", "ciphertext": "c", "priority": "soon",
    });
    let mut spoilt = vec![whole.clone()];
    for missing in ["targetSpec", "nonce", "ciphertext"] {
        let mut frame = whole.clone();
        frame["priority"] = json!("low");
        frame[missing] = json!(null);
        spoilt.push(frame);
    }
    for mut frame in spoilt {
        let id = bench.word("malformed");
        frame["id"] = json!(id);
        peer.say(frame).await?;
        let ack = peer.until("an ack", |frame| frame["id"] == *id).await?;
        has(&ack, &json!({ "type": "ack", "messageId": "", "queued": false }))?;
        let error = text(&ack, "error");
        ensure(error.starts_with("invalid"), || format!("the error is {error:?}"))?;
    }
    Ok(())
}

async fn a_malformed_request_gets_malformed(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let error = peer.ask(json!({ "type": "message_status", "messageId": 7 })).await?;
    has(&error, &json!({ "type": "error", "code": "malformed" }))
}

async fn an_error_carries_the_request_in_id_and_in_req_id(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let error = peer.ask(json!({ "type": "message_status", "messageId": "short" })).await?;
    has(&error, &json!({ "type": "error", "id": error["_reqId"] }))?;
    ensure(error["message"].is_string(), || "no message".to_owned())
}

async fn an_id_of_any_kind_is_echoed(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    for id in [json!(7), json!(1.5), json!(true)] {
        ana.say(json!({ "type": "list_peers", "_reqId": id })).await?;
        let reply = ana.until("a reply", |frame| frame["_reqId"] == id).await?;
        has(&reply, &json!({ "type": "peers_list" }))?;
        bench.afford(&ana.who).await;
        let send = json!({
            "type": "send", "id": id, "targetSpec": ben.key(), "nonce": "n", "ciphertext": "c",
        });
        ana.say(send).await?;
        let ack = ana.until("an ack", |frame| frame["type"] == "ack").await?;
        has(&ack, &json!({ "id": id, "queued": true }))?;
    }
    Ok(())
}

async fn a_frame_is_read_as_javascript_writes_it(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    bench.afford(&ana.who).await;
    let (key, body) = (ben.key(), bench.word("half"));
    let text = format!(
        r#"{{"type":"send","id":"1","targetSpec":"{key}","priority":null,"nonce":"n","ciphertext":"{body}\ud800",
        "replyToId":null,"bodyVersion":1.0}}"#
    );
    ana.write(Message::text(text)).await?;
    let ack = ana.until("an ack", |frame| frame["type"] == "ack").await?;
    has(&ack, &json!({ "id": "1", "queued": true }))?;
    let mut ben = ben;
    ben.message(&format!("{body}\u{fffd}")).await?;
    Ok(())
}

async fn frames_behind_a_hello_wait_for_it(bench: &Bench) -> Verdict {
    let mut peer = Peer::unknown(bench, bench.anyone()).await?;
    let hello = peer.who.session_hello(bench.stamp());
    peer.say(hello).await?;
    peer.say(json!({ "type": "list_peers", "_reqId": "behind" })).await?;
    peer.greet().await?;
    let reply = peer.until("a reply", |frame| frame["_reqId"] == "behind").await?;
    has(&reply, &json!({ "type": "peers_list" }))
}

async fn pipelined_sends_are_acked_and_delivered_in_order(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let bodies: Vec<_> = (0..6).map(|_| bench.word("ordered")).collect();
    let mut ids = Vec::new();
    for body in &bodies {
        ids.push(ana.launch(&ben.key(), body, json!({})).await?);
    }
    let (mut acked, mut came) = (Vec::new(), Vec::new());
    for _ in &bodies {
        let ack = ana.until("an ack", |frame| frame["type"] == "ack").await?;
        acked.push(text(&ack, "id").to_owned());
        let ours = |text: &str| bodies.iter().any(|body| body == text);
        let push = ben.until("a push", |frame| ours(text(frame, "ciphertext"))).await?;
        came.push(text(&push, "ciphertext").to_owned());
    }
    same("order of acks", acked, ids)?;
    same("order of pushes", came, bodies)
}

async fn frames_before_a_close_are_executed(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let body = bench.word("last words");
    ana.launch(&ben.key(), &body, json!({})).await?;
    ana.leave().await;
    ben.message(&body).await?;
    Ok(())
}

async fn a_second_hello_replaces_the_first(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let first = peer.greeting["presenceId"].clone();
    peer.who = bench.anyone();
    let hello = peer.who.session_hello(bench.stamp());
    peer.say(hello).await?;
    let second = peer.until("a hello_ack", |frame| frame["type"] == "hello_ack").await?;
    ensure(second["presenceId"] != first, || "the presence stayed the same".to_owned())?;
    let mut other = Peer::session(bench, bench.anyone()).await?;
    let body = bench.word("second");
    other.send(&peer.key(), &body).await?;
    peer.message(&body).await?;
    Ok(())
}
