//! P5: presence is continuous. Who returns within the grace is not seen leaving, whatever died; a
//! real departure gives exactly one `peer_left`, at most the grace and five seconds after it.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer};
use crate::support::socket::{Habit, is_event};

on_each_store!(
    a_return_within_the_grace_is_silent,
    a_takeover_closes_the_old_socket_and_is_silent,
    a_return_after_a_restart_is_silent,
    a_restart_longer_than_the_grace_is_silent,
    a_restart_does_not_begin_the_grace_anew,
    a_departure_is_told_once,
    a_departure_while_the_broker_is_dead_is_told,
    siblings_hear_of_sessions_and_not_of_daemons,
    a_daemon_keeps_its_presence,
    sessions_that_look_alike_do_not_fight,
    many_quick_returns_are_silent,
    a_returning_peer_is_told_what_it_missed,
    a_half_open_peer_is_told_what_it_missed,
    nothing_is_told_again_to_who_was_there,
);

/// What comes on top of the grace.
const LATENESS: Duration = Duration::from_secs(5);

async fn a_return_within_the_grace_is_silent(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, "30").await;
    let presence = ben.presence();
    ben.leave().await;
    ben.reconnect().await;
    assert_eq!(ben.presence(), presence);
    ben.vanish();
    ben.reconnect().await;
    assert_eq!(ben.presence(), presence);
    assert_eq!(ana.events().await, []);
    assert_eq!(names(&mut ana).await, ["ana", "ben"]);
}

async fn a_takeover_closes_the_old_socket_and_is_silent(kind: Kind) {
    let (node, mut ana, mut ben, _) = two_peers(kind, "30").await;
    let second = TestPeer::join(&node, ben.hello.clone()).await;
    assert_eq!(second.presence(), ben.presence());
    assert_eq!(ben.close_frame().await, (1000, "session_replaced".into()));
    assert_eq!(ana.events().await, []);
    assert_eq!(names(&mut ana).await, ["ana", "ben"]);
}

async fn a_return_after_a_restart_is_silent(kind: Kind) {
    let (mut node, mut ana, mut ben, mesh) = two_peers(kind, "30").await;
    let mut away = TestPeer::session(&node, &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    let presences = [ana.presence(), ben.presence(), away.presence()];
    away.leave().await;
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    away.reconnect().await;
    assert_eq!([ana.presence(), ben.presence(), away.presence()], presences);
    assert_eq!(ana.events().await, []);
    assert_eq!(names(&mut ana).await, ["ana", "ben", "eve"]);
}

/// Time without an owner does not count.
async fn a_restart_longer_than_the_grace_is_silent(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind, "8").await;
    let presences = [ana.presence(), ben.presence()];
    node.kill();
    sleep(Duration::from_secs(9)).await;
    node.restart().await;
    ana.reconnect().await;
    ben.reconnect().await;
    assert_eq!([ana.presence(), ben.presence()], presences);
    assert_eq!(ana.events().await, []);
}

async fn a_restart_does_not_begin_the_grace_anew(kind: Kind) {
    let grace = Duration::from_secs(9);
    let (mut node, mut ana, mut ben, _) = two_peers(kind, "9").await;
    ben.leave().await;
    let gone = Instant::now();
    sleep(Duration::from_secs(7)).await;
    let killed = Instant::now();
    node.kill();
    node.restart().await;
    let dead = killed.elapsed();
    ana.reconnect().await;
    timeout(grace + LATENESS, ana.expect_event("peer_left", "ben")).await.unwrap();
    let after = gone.elapsed();
    assert!(after <= grace + LATENESS + dead, "left after {after:?}");
}

async fn a_departure_is_told_once(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, "2").await;
    let mut eve = TestPeer::member(&node, &mesh, "eve").await;
    let before = Instant::now();
    ben.leave().await;
    let gone = Instant::now();
    let data = ana.expect_event("peer_left", "ben").await;
    let after = gone.elapsed();
    assert!(before.elapsed() >= Duration::from_secs(2), "left after {:?}", before.elapsed());
    assert_eq!(data["pubkey"], ben.hello.pubkey());
    assert_eq!(data["displayName"], "ben");
    assert!(after <= Duration::from_secs(2) + LATENESS, "left after {after:?}");
    eve.expect_event("peer_left", "ben").await;
    assert_eq!(names(&mut ana).await, ["ana", "eve"]);
    ana.take_kept(is_event);
    let presence = ben.presence();
    ben.reconnect().await;
    assert_ne!(ben.presence(), presence);
    assert_eq!(ana.events().await, [("peer_joined".into(), "ben".into())]);
}

async fn a_departure_while_the_broker_is_dead_is_told(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind, "4").await;
    node.kill();
    ben.vanish();
    node.restart().await;
    ana.reconnect().await;
    ana.expect_event("peer_left", "ben").await;
    assert_eq!(names(&mut ana).await, ["ana"]);
    assert_eq!(ana.events().await, []);
}

/// A session concerns everybody; a member's own connection is no news to its siblings.
async fn siblings_hear_of_sessions_and_not_of_daemons(kind: Kind) {
    let (node, mut ana, _ben, mesh) = two_peers(kind, "1").await;
    let mut sister = TestPeer::session(&node, &mesh, "ana").await;
    ana.expect_event("peer_joined", "ana").await;
    let mut session =
        TestPeer::join(&node, Hello::session(&mesh, "ana").with(&named("session"))).await;
    let mut daemon =
        TestPeer::join(&node, Hello::member(&mesh, "ana").with(&named("daemon"))).await;
    let mut eve = TestPeer::session(&node, &mesh, "eve").await;
    daemon.leave().await;
    eve.expect_event("peer_left", "daemon").await;
    session.leave().await;
    eve.expect_event("peer_left", "session").await;
    sister.expect_event("peer_left", "session").await;
    let said = |event: &str, name: &str| (event.to_owned(), name.to_owned());
    let heard = [said("peer_joined", "session"), said("peer_joined", "eve")];
    assert_eq!(sister.events().await, heard);
    let last = said("peer_left", "session");
    assert_eq!(ana.events().await, [heard[0].clone(), heard[1].clone(), last]);
}

async fn a_daemon_keeps_its_presence(kind: Kind) {
    let (mut node, mut ana, _ben, mesh) = two_peers(kind, "30").await;
    let mut daemon = TestPeer::member(&node, &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    let presence = daemon.presence();
    daemon.leave().await;
    daemon.reconnect().await;
    assert_eq!(daemon.presence(), presence);
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    daemon.reconnect().await;
    assert_eq!(daemon.presence(), presence);
    assert_eq!(ana.events().await, []);
}

/// The same session id from two machines, and a command run inside a session.
async fn sessions_that_look_alike_do_not_fight(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, "30").await;
    let same = json!({"sessionId": ben.hello.fields["sessionId"]});
    let hello = Hello::member(&mesh, "ben").with(&same);
    let mut here = TestPeer::join(&node, hello.clone()).await;
    let there = hello.with(&json!({"hostname": "another"}));
    let mut there = TestPeer::join(&node, there).await;
    let mut stranger = TestPeer::join(&node, Hello::member(&mesh, "eve").with(&same)).await;
    for peer in [&mut ana, &mut ben, &mut here, &mut there, &mut stranger] {
        assert_eq!(peer.peers().await.len(), 5);
    }
}

async fn many_quick_returns_are_silent(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind, "30").await;
    let presence = ben.presence();
    for _ in 0..30 {
        ben.reconnect().await;
        assert_eq!(ben.presence(), presence);
    }
    assert_eq!(ana.events().await, []);
}

/// Who came since, and who has gone that it knew of; nothing of whoever came and went meanwhile.
async fn a_returning_peer_is_told_what_it_missed(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, "30").await;
    let eve = TestPeer::session(&node, &mesh, "eve").await;
    ben.expect_event("peer_joined", "eve").await;
    ben.leave().await;
    kick(&mut ana, &eve).await;
    let session = |name| Hello::session(&mesh, "eve").with(&named(name));
    let passing = TestPeer::join(&node, session("passing")).await;
    ana.expect_event("peer_joined", "passing").await;
    let mut stays = TestPeer::join(&node, session("stays")).await;
    ana.expect_event("peer_joined", "stays").await;
    stays.ask(json!({"type": "set_visible", "visible": false})).await;
    ana.expect_event("peer_hidden", "stays").await;
    kick(&mut ana, &passing).await;
    ben.reconnect().await;
    let missed = [("peer_left", "eve"), ("peer_joined", "stays"), ("peer_hidden", "stays")];
    let missed = missed.map(|(event, name)| (event.to_owned(), name.to_owned()));
    assert_eq!(ben.events().await, missed);
    ben.reconnect().await;
    assert_eq!(ben.events().await, []);
}

/// What was written to a connection that nobody reads any more.
async fn a_half_open_peer_is_told_what_it_missed(kind: Kind) {
    let (node, mut ana, ben, mesh) = two_peers(kind, "30").await;
    ben.set_habit(Habit::Stalls);
    let _eve = TestPeer::session(&node, &mesh, "eve").await;
    let told = ana.take("the event", is_event).await;
    let mut second = TestPeer::join(&node, ben.hello.clone()).await;
    let again = second.take("the event", is_event).await;
    assert_eq!(again["messageId"], told["messageId"]);
    assert_eq!(second.events().await, []);
}

async fn nothing_is_told_again_to_who_was_there(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind, "30").await;
    let _eve = TestPeer::session(&node, &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    ben.expect_event("peer_joined", "eve").await;
    ben.round_trip().await;
    ben.reconnect().await;
    assert_eq!(ben.events().await, []);
    ben.vanish();
    ben.reconnect().await;
    assert_eq!(ben.events().await, []);
    ben.take_over().await;
    assert_eq!(ben.events().await, []);
}

async fn kick(ana: &mut TestPeer, peer: &TestPeer) {
    let name = peer.hello.fields["displayName"].as_str().unwrap();
    let kicked = ana.ask(json!({"type": "kick", "target": name})).await;
    assert_eq!(kicked["kicked"].as_array().map(Vec::len), Some(1), "{kicked}");
    ana.expect_event("peer_left", name).await;
}

fn named(name: &str) -> serde_json::Value {
    json!({"displayName": name})
}

async fn names(peer: &mut TestPeer) -> Vec<String> {
    let peers = peer.peers().await;
    peers.iter().map(|peer| peer["displayName"].as_str().unwrap().to_owned()).collect()
}

async fn two_peers(kind: Kind, grace: &str) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[("LEASE_GRACE_SECONDS", grace)]).await;
    let mesh = node.mesh("red", &["ana", "ben", "eve"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    ana.expect_event("peer_joined", "ben").await;
    (node, ana, ben, mesh)
}
