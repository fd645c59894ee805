//! A machine is paused, or a process is stopped, and goes on: what others did not do meanwhile is not
//! held against them. And who is really gone is missed in time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::support::node::{Kind, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, ana_and_ben};
use crate::support::socket::{Habit, Socket};
use crate::support::until_within;

on_each_store!(
    a_session_in_grace_survives_a_pause_longer_than_the_grace,
    a_grace_that_was_nearly_over_waits_for_who_is_coming_back,
    a_hello_is_not_late_for_the_brokers_own_pause,
);

/// How soon a machine that goes on must have noticed what is due.
const MOMENT: Duration = Duration::from_millis(500);

async fn a_session_in_grace_survives_a_pause_longer_than_the_grace(kind: Kind) {
    let (node, mut ana, mut ben, _) = ana_and_ben(kind, &[("LEASE_GRACE_SECONDS", "5")]).await;
    let presence = ben.presence();
    ben.leave().await;
    ana.round_trip().await;
    node.signal("STOP");
    sleep(Duration::from_secs(8)).await;
    node.signal("CONT");
    sleep(MOMENT).await;
    ben.come_back().await;
    assert_eq!(ben.presence(), presence);
    assert_eq!(ana.events().await, []);
    assert_eq!(ana.peers().await.len(), 2);
}

/// It tries to connect while the broker stands still, in vain until that goes on.
async fn a_grace_that_was_nearly_over_waits_for_who_is_coming_back(kind: Kind) {
    let (node, mut ana, mut ben, _) = ana_and_ben(kind, &[("LEASE_GRACE_SECONDS", "3")]).await;
    let presence = ben.presence();
    ben.leave().await;
    ana.round_trip().await;
    sleep(Duration::from_millis(1_500)).await;
    node.signal("STOP");
    let goes_on = async {
        sleep(Duration::from_secs(5)).await;
        node.signal("CONT");
    };
    tokio::join!(ben.come_back(), goes_on);
    assert_eq!(ben.presence(), presence);
    assert_eq!(ana.events().await, []);
}

async fn a_hello_is_not_late_for_the_brokers_own_pause(kind: Kind) {
    let node = Node::start(kind, &[("HELLO_TIMEOUT_SECONDS", "3")]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut socket = Socket::open(&node.address()).await;
    node.signal("STOP");
    sleep(Duration::from_secs(6)).await;
    node.signal("CONT");
    sleep(MOMENT).await;
    socket.post(&Hello::session(&mesh, "ana").frame()).await;
    assert_eq!(socket.next_frame().await["type"], "hello_ack");
}

/// Takes 80 s: `cargo test --test it -- --ignored pauses`.
#[tokio::test]
#[ignore = "takes 80 s"]
async fn a_broker_that_was_paused_for_80_seconds_keeps_its_peers() {
    let (node, mut ana, mut ben, mesh) = ana_and_ben(Kind::Sqlite, &[]).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    ben.expect_event("peer_joined", "eve").await;
    let presence = eve.presence();
    eve.leave().await;
    // The last pings before the pause are answered.
    sleep(Duration::from_secs(5)).await;
    node.signal("STOP");
    sleep(Duration::from_secs(85)).await;
    node.signal("CONT");
    sleep(MOMENT).await;
    eve.reconnect().await;
    assert_eq!(eve.presence(), presence);
    ana.send(&ben, "still here").await.acknowledged();
    assert_eq!(ben.next().await, "still here");
    assert_eq!((ana.events().await, ben.events().await), (vec![], vec![]));
    assert_eq!(ana.peers().await.len(), 3);
}

/// Takes 75 s: `cargo test --test it -- --ignored pauses`.
#[tokio::test]
#[ignore = "takes 75 s"]
async fn a_half_open_peer_is_dropped_after_75_seconds() {
    let grace = [("LEASE_GRACE_SECONDS", "1")];
    let (_node, mut ana, ben, _) = ana_and_ben(Kind::Sqlite, &grace).await;
    ben.set_habit(Habit::Stalls);
    let attached = Instant::now();
    let left = timeout(Duration::from_secs(85), async {
        until_within(Duration::from_secs(84), "ben is missed", async || {
            !ana.take_kept(|frame| frame["event"] == "peer_left").is_empty()
        })
        .await;
        attached.elapsed()
    });
    let left = left.await.unwrap();
    assert!(left >= Duration::from_secs(75), "after {left:?}");
}
