//! Starting, being used while the command line works beside, and stopping in order.

use crate::support::node::{Ground, Kind, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, envelope};
use crate::support::socket::{Habit, Socket};
use crate::support::until;

on_each_store!(
    a_stop_closes_sockets_in_order,
    a_stop_keeps_what_was_acked,
    a_stop_answers_what_was_asked,
    a_second_signal_means_now,
    a_hangup_stops_it_in_order,
    a_hangup_that_is_ignored_at_start_is_none,
    a_mesh_made_beside_is_seen_at_once,
    a_stop_without_sockets_is_quick,
);

async fn a_stop_closes_sockets_in_order(kind: Kind) {
    let mut node = Node::start(kind, &[("DRAIN_SECONDS", "2")]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::member(&node, &mesh, "ben").await;
    let mut silent = Socket::open(&node.address()).await;
    node.signal("TERM");
    for socket in [&mut *ana, &mut *ben, &mut silent] {
        assert_eq!(socket.close_frame().await, (1001, "shutting down".into()));
    }
    assert_eq!(node.ended().await, Some(0));
    node.restart().await;
    let presence = ana.presence();
    ana.reconnect().await;
    assert_eq!(ana.presence(), presence);
    assert_eq!(ana.peers().await.len(), 2);
}

async fn a_stop_keeps_what_was_acked(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    ben.become_one_that(Habit::Reads);
    for number in 0..100 {
        ana.send(&ben, &number.to_string()).await.acknowledged();
    }
    assert_eq!(node.terminate().await, Some(0));
    node.restart().await;
    ben.vanish();
    ben = TestPeer::join(&node, ben.hello).await;
    for number in 0..100 {
        assert_eq!(ben.next().await, number.to_string());
    }
}

/// Everything read before the close has its answer, or was never read.
async fn a_stop_answers_what_was_asked(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    for number in 0..500 {
        ana.post(&envelope(&ben, &number.to_string())).await;
    }
    ana.ack_of("50").await.acknowledged();
    node.signal("TERM");
    assert_eq!(ana.close_frame().await, (1001, "shutting down".into()));
    let acks = ana.take_kept(|frame| frame["type"] == "ack");
    assert_eq!(node.ended().await, Some(0));
    node.restart().await;
    ben.reconnect().await;
    for ack in acks {
        assert_eq!(ack["queued"], true, "{ack}");
    }
    for number in 0..=50 {
        assert_eq!(ben.next().await, number.to_string());
    }
}

async fn a_second_signal_means_now(kind: Kind) {
    let mut node = Node::start(kind, &[("DRAIN_SECONDS", "60")]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut peers = Vec::new();
    for _ in 0..60 {
        peers.push(Socket::open(&node.address()).await);
    }
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    ana.round_trip().await;
    node.signal("TERM");
    until("the node is stopping", async || node.log().contains("stopping")).await;
    node.signal("INT");
    // Long before `DRAIN_SECONDS` are over.
    node.ended().await;
}

/// As when the terminal closes: both the shell and the terminal say so.
async fn a_hangup_stops_it_in_order(kind: Kind) {
    let ground = Ground::new(kind).await;
    let mut node = Node::launch_by(not_ignoring_hangups(), ground, &[("DRAIN_SECONDS", "2")]);
    node.serving().await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut silent = Socket::open(&node.address()).await;
    node.signal("HUP");
    until("the node is stopping", async || node.log().contains("stopping")).await;
    node.signal("HUP");
    for socket in [&mut *ana, &mut silent] {
        assert_eq!(socket.close_frame().await, (1001, "shutting down".into()));
    }
    assert_eq!(node.ended().await, Some(0));
}

/// The tests themselves may have been started by `nohup`, and who is ignored stays so in children.
fn not_ignoring_hangups() -> &'static [&'static str] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_some_and(|mask| mask & 1 == 1) { &["env", "--default-signal=HUP"] } else { &[] }
}

/// As `nohup` starts it.
async fn a_hangup_that_is_ignored_at_start_is_none(kind: Kind) {
    let ground = Ground::new(kind).await;
    let mut node = Node::launch_by(&["nohup"], ground, &[]);
    node.serving().await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    node.signal("HUP");
    ana.round_trip().await;
    assert_eq!(node.terminate().await, Some(0));
    assert_eq!(ana.close_frame().await, (1001, "shutting down".into()));
}

async fn a_mesh_made_beside_is_seen_at_once(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let red = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &red, "ana").await;
    // Asked for before it exists, too: nothing remembers that it did not.
    let green = node.mesh("green", &["ben"]).await;
    let mut ghost = Hello::session(&green, "ben");
    ghost.mesh = "not-there".into();
    let mut socket = Socket::open(&node.address()).await;
    socket.post(&ghost.frame()).await;
    assert_eq!(socket.next_frame().await["code"], "unauthorized");
    TestPeer::session(&node, &green, "ben").await.round_trip().await;
    ana.round_trip().await;
}

async fn a_stop_without_sockets_is_quick(kind: Kind) {
    let mut node = Node::start(kind, &[("DRAIN_SECONDS", "60")]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    TestPeer::session(&node, &mesh, "ana").await.leave().await;
    // Long before `DRAIN_SECONDS` are over.
    assert_eq!(node.terminate().await, Some(0));
}

/// Readiness goes first, so that nobody new is sent here; whoever asks is told as long as sockets
/// are being closed.
#[tokio::test]
async fn a_node_that_drains_is_not_ready() {
    let node = Node::start(Kind::Sqlite, &[("DRAIN_SECONDS", "60")]).await;
    let mut sockets = Vec::new();
    for _ in 0..500 {
        sockets.push(Socket::open(&node.address()).await);
    }
    until("the node is ready", async || node.http("GET", "/health/ready").await.status == 200)
        .await;
    node.signal("TERM");
    until("the node refuses", async || node.http("GET", "/health/ready").await.status == 503).await;
}

#[tokio::test]
async fn wrong_settings_are_refused_all_at_once() {
    let ground = Ground::new(Kind::Sqlite).await;
    let wrong =
        [("BROKER_PORTT", "1"), ("LEASE_GRACE_SECONDS", "soon"), ("REDIS_URL", "redis://x")];
    let mut node = Node::launch(ground, &wrong);
    assert_eq!(node.ended().await, Some(1));
    until("everything is named", async || {
        let log = node.log();
        ["BROKER_PORTT", "LEASE_GRACE_SECONDS", "REDIS_URL"].iter().all(|name| log.contains(name))
    })
    .await;
}

/// As a container's health check asks.
#[tokio::test]
async fn health_says_whether_a_node_answers() {
    let mut node = Node::start(Kind::Sqlite, &[]).await;
    let port = node.address().rsplit(':').next().unwrap().to_owned();
    let told = node.run(&["health", "--broker-port", &port]).await;
    assert!(String::from_utf8(told).unwrap().contains("answers"));
    node.kill();
    let (code, text) = node.run_to_fail(&["health", "--broker-port", &port]).await;
    assert!(code == 1 && text.contains("no healthy broker"), "{code}: {text}");
}
