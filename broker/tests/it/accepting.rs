//! Connections of outsiders, who need no credentials, do not stop a node.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::node::{Ground, Kind, Node};
use crate::support::peer::TestPeer;
use crate::support::raw::Raw;
use crate::support::{until, until_within};

/// Loopback addresses that others than this test's own requests come from.
const ELSEWHERE: &str = "127.0.0.2";
const FURTHER: &str = "127.0.0.3";

/// Twice the time a request has, and more than a keep-alive has.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn who_sends_no_request_is_closed() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let address = node.address();
    let body = "HTTP/1.1\r\nHost: broker\r\nContent-Length: 100\r\n\r\n{";
    let chunked = "HTTP/1.1\r\nHost: broker\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n";
    let mut silent = Vec::new();
    for text in [
        String::new(),
        "GET /health HTTP/1.1\r\nHost: bro".into(),
        format!("POST /hook/set-status {body}"),
        format!("POST /join {body}"),
        format!("POST /hook/set-status {chunked}"),
        format!("POST /join {chunked}"),
        // Bodies that nobody reads.
        format!("GET /health {body}"),
        format!("POST /nowhere {body}"),
    ] {
        let mut connection = Raw::open(ELSEWHERE, &address).await;
        connection.send(text.as_bytes()).await;
        silent.push((text, connection));
    }
    let mut kept = Raw::open(ELSEWHERE, &address).await;
    assert!(kept.get("/health").await.starts_with("HTTP/1.1 200"));
    silent.push(("a keep-alive".into(), kept));
    let waiting = silent.iter_mut().map(async |(text, connection)| {
        let rest = connection.rest(PATIENCE).await;
        assert!(rest.is_some(), "still open: {text}");
        let is_joining = text.starts_with("POST /join");
        (is_joining, rest.unwrap_or_default())
    });
    for (is_joining, rest) in join_all(waiting).await {
        let answer = String::from_utf8_lossy(&rest);
        assert!(!is_joining || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

/// A peer that never reads what it asks for is no reason to keep a connection.
#[tokio::test]
async fn who_does_not_read_the_answer_is_closed() {
    let settings = [("HALF_OPEN_PER_ADDRESS", "4")];
    let node = Node::start(Kind::Sqlite, &settings).await;
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let mut connection = Raw::open(ELSEWHERE, &node.address()).await;
        let request = "GET /metrics HTTP/1.1\r\nHost: broker\r\n\r\n".repeat(1500);
        connection.send(request.as_bytes()).await;
        deaf.push(connection);
    }
    let answers = async || {
        let mut another = Raw::open(ELSEWHERE, &node.address()).await;
        another.get("/health").await.starts_with("HTTP/1.1 200")
    };
    assert!(!answers().await, "all places of the address are taken");
    until_within(3 * PATIENCE, "they are closed", answers).await;
}

#[tokio::test]
async fn an_address_has_few_connections_without_hello() {
    let settings = [("HALF_OPEN_PER_ADDRESS", "8")];
    let node = Node::start(Kind::Sqlite, &settings).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let address = node.address();
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(Raw::open(ELSEWHERE, &address).await);
    }
    for _ in 0..20 {
        let mut surplus = Raw::open(ELSEWHERE, &address).await;
        let rest = surplus.rest(Duration::from_secs(5)).await;
        assert_eq!(rest.as_deref(), Some(&[][..]), "closed at once");
    }
    // Others are served.
    assert_eq!(node.http("GET", "/health").await.status, 200);
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let rejected = "broker_connections_rejected_total{reason=\"half_open\"}";
    assert_eq!(node.metric(rejected).await, Some(20.0));
    assert_eq!(node.log().matches("too many without a hello").count(), 1, "{}", node.log());
    // An end gives the place back.
    drop(silent);
    until("the places are free", async || {
        Raw::open(ELSEWHERE, &address).await.get("/health").await.starts_with("HTTP/1.1 200")
    })
    .await;
    ana.round_trip().await;
}

/// There every connection comes from the proxy, and the request names its client.
#[tokio::test]
async fn behind_a_proxy_its_clients_are_told_apart() {
    let settings = [("HALF_OPEN_PER_ADDRESS", "2"), ("CLIENT_ADDRESS_HEADER", "X-Real-IP")];
    let node = Node::start(Kind::Sqlite, &settings).await;
    let address = node.address();
    let mut open = Vec::new();
    for client in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.1"] {
        let mut connection = Raw::open(ELSEWHERE, &address).await;
        let head = connection.upgrade(&format!("X-Real-IP: {client}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{client}: {head}");
        open.push(connection);
    }
    let mut third = Raw::open(ELSEWHERE, &address).await;
    let head = third.upgrade("X-Real-IP: 203.0.113.1\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

/// The process may have 128 files; three of four may be connections without a hello.
#[tokio::test]
async fn silent_connections_leave_files_for_others() {
    const LIMITED: &[&str] = &["sh", "-c", "ulimit -n 128; exec \"$@\"", "sh"];
    let ground = Ground::new(Kind::Sqlite).await;
    let mut node = Node::launch_by(LIMITED, ground, &[("HALF_OPEN_PER_ADDRESS", "60")]);
    node.serving().await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::open(ELSEWHERE, &node.address()).await);
    }
    assert_eq!(node.http("GET", "/health").await.status, 200);
    for _ in 0..300 {
        silent.push(Raw::open(FURTHER, &node.address()).await);
    }
    ana.round_trip().await;
    assert!(!node.log().contains("cannot be accepted"), "{}", node.log());
    drop(silent);
    until("it accepts again", async || {
        Raw::open(FURTHER, &node.address()).await.get("/health").await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn a_node_without_file_descriptors_goes_on_when_there_are_some() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    node.allow_more_files(4);
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Raw::open(ELSEWHERE, &node.address()).await);
    }
    until("it says so", async || node.log().contains("connections cannot be accepted")).await;
    ana.round_trip().await;
    drop(silent);
    let mut late = Raw::open(FURTHER, &node.address()).await;
    assert!(late.get("/health").await.starts_with("HTTP/1.1 200"));
    assert_eq!(node.log().matches("cannot be accepted").count(), 1, "{}", node.log());
}
