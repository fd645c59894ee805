//! §1: the upgrade, frames of every kind and size, and sockets that say nothing.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, same};
use super::peer::Peer;
use super::web::{Request, Response};
use super::{Check, check};

/// What clients send in one frame: a file of 1 MiB in base64.
const LARGE_FRAME: usize = 1_400_000;
/// More than the cap's default of 2 MiB.
const TOO_LARGE_FRAME: usize = 3 << 20;
/// More verbs than any client says at once.
const FLOOD: usize = 600;
/// The hello timeout's default, and some patience.
const SILENCE: Duration = Duration::from_secs(16);

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§1", a_websocket_opens_at_ws_from_any_origin),
        check!("§1", no_compression_and_no_subprotocol_is_negotiated),
        check!("§1", a_query_behind_ws_is_accepted, [], "query strings are allowed"),
        check!("§1", a_path_below_ws_is_not_upgraded),
        check!("§1", a_plain_get_of_ws_is_404),
        check!("§1", a_binary_frame_is_read_as_text),
        check!("§1", a_frame_of_1400000_bytes_is_read),
        check!("§1", a_frame_above_the_cap_closes_1009, [28], "frames have a cap"),
        check!("§1", a_clients_ping_is_answered),
        check!("§1", too_many_verbs_at_once_are_a_flood, [28], "the reference limits sends only"),
    ]
}

pub(super) fn late_checks() -> Vec<Check> {
    vec![check!(
        "§1.3",
        a_socket_without_hello_is_closed_in_time,
        [28],
        "hello_timeout; the reference waits for ever"
    )]
}

async fn upgrade(bench: &Bench, path: &str, more: &[(&str, &str)]) -> Verdict<Response> {
    let mut headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    headers.extend(more);
    bench.http(Request { method: "GET", path, headers: &headers, body: "" }).await
}

async fn a_websocket_opens_at_ws_from_any_origin(bench: &Bench) -> Verdict {
    let response = upgrade(bench, "/ws", &[("Origin", "https://elsewhere.example")]).await?;
    same("status", response.status, 101)?;
    same("accept", response.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
}

async fn no_compression_and_no_subprotocol_is_negotiated(bench: &Bench) -> Verdict {
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    let response = upgrade(bench, "/ws", &offer).await?;
    same("status", response.status, 101)?;
    same("extensions", response.header("sec-websocket-extensions"), "")?;
    same("protocol", response.header("sec-websocket-protocol"), "")
}

async fn a_query_behind_ws_is_accepted(bench: &Bench) -> Verdict {
    same("status", upgrade(bench, "/ws?x=1", &[]).await?.status, 101)
}

async fn a_path_below_ws_is_not_upgraded(bench: &Bench) -> Verdict {
    // The reference drops the connection without a response: both are a refusal.
    for path in ["/ws/", "/wsx", "/"] {
        if let Ok(response) = upgrade(bench, path, &[]).await {
            ensure(response.status >= 400, || format!("{path}: status {}", response.status))?;
        }
    }
    Ok(())
}

async fn a_plain_get_of_ws_is_404(bench: &Bench) -> Verdict {
    let request = Request { method: "GET", path: "/ws", ..Request::default() };
    let response = bench.http(request).await?;
    same("status", response.status, 404)?;
    same("body", response.body.as_str(), "not found")
}

async fn a_binary_frame_is_read_as_text(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let ask = json!({ "type": "list_peers", "_reqId": "binary" }).to_string();
    peer.write(Message::binary(ask.into_bytes())).await?;
    let reply = peer.until("a reply", |frame| frame["_reqId"] == "binary").await?;
    has(&reply, &json!({ "type": "peers_list" }))
}

async fn a_frame_of_1400000_bytes_is_read(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let filler = "x".repeat(LARGE_FRAME);
    let reply = peer.ask(json!({ "type": "list_peers", "filler": filler })).await?;
    has(&reply, &json!({ "type": "peers_list" }))
}

async fn a_frame_above_the_cap_closes_1009(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    let filler = "x".repeat(TOO_LARGE_FRAME);
    let frame = json!({ "type": "list_peers", "filler": filler });
    // The broker may hang up while this is written; how it did is read below.
    let _ = peer.say(frame).await;
    same("close code", peer.ending().await?.code, 1009)
}

async fn a_clients_ping_is_answered(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    peer.write(Message::Ping("marco".into())).await?;
    peer.pong().await
}

async fn too_many_verbs_at_once_are_a_flood(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.anyone()).await?;
    for _ in 0..FLOOD {
        // The socket may be closed before all is written; how is read below.
        if peer.say(json!({ "type": "no_such_verb" })).await.is_err() {
            break;
        }
    }
    peer.closed(1008, "flood").await
}

async fn a_socket_without_hello_is_closed_in_time(bench: &Bench) -> Verdict {
    let (socket, since) = bench.silent()?;
    let mut peer = Peer::on(bench, bench.anyone(), socket);
    let patience = (since + SILENCE).max(Instant::now() + Duration::from_secs(2));
    let ending = peer.ending_by(patience).await?;
    same("close code", ending.code, 1008)?;
    same("close reason", ending.reason.as_str(), "hello_timeout")?;
    same("frames before", &peer.inbox, &Vec::<Value>::new())
}
