//! Parts die, freeze and come back.

use std::time::Duration;

use tokio::time::Instant;

use super::apart;
use crate::support::peer::TestPeer;
use crate::support::until;

#[tokio::test]
async fn a_killed_owner_loses_nothing_and_nobody_is_seen_leaving() {
    let (mut cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let before = ana.send(&ben, "before").await.acknowledged();
    assert_eq!(ben.next().await, "before");
    until("it is confirmed", async || ana.is_delivered(&before).await).await;
    cluster.nodes[0].kill();
    // Asked of an owner that is dead; answered by the next.
    ana.send(&ben, "after").await.acknowledged();
    assert_eq!(ben.next().await, "after");
    assert!(matches!(cluster.owner(&mesh).await, Some(1 | 2)));
    assert_eq!(ana.events().await, []);
    assert_eq!(ben.events().await, []);
}

#[tokio::test]
async fn a_killed_edge_s_session_returns_elsewhere_unseen() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    let presence = ben.presence();
    cluster.nodes[2].kill();
    ben.vanish();
    ana.send(&ben, "while away").await.acknowledged();
    ben.move_to(&cluster.nodes[0]).await;
    assert_eq!(ben.presence(), presence);
    assert_eq!(ben.next().await, "while away");
    assert_eq!(ana.events().await, []);
}

#[tokio::test]
async fn a_session_that_does_not_return_leaves_once() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[("LEASE_GRACE_SECONDS", "3")]).await;
    let killed = Instant::now();
    cluster.nodes[2].kill();
    ben.vanish();
    ana.expect_event("peer_left", "ben").await;
    // However long before that its node's last heartbeat was.
    let after = killed.elapsed();
    assert!(after >= Duration::from_secs(3), "after {after:?}");
    assert_eq!(ana.events().await, []);
    assert_eq!(ana.peers().await.len(), 1);
}

/// The next owner knows who came while a session was away, and that nobody else needs to hear of it.
#[tokio::test]
async fn the_next_owner_tells_a_returning_session_what_it_missed() {
    let (mut cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    ben.leave().await;
    let _eve = TestPeer::session(&cluster.nodes[1], &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    cluster.nodes[0].kill();
    ana.round_trip().await;
    ben.move_to(&cluster.nodes[1]).await;
    assert_eq!(ben.events().await, [("peer_joined".to_owned(), "eve".to_owned())]);
    assert_eq!(ana.events().await, []);
}

#[tokio::test]
async fn a_frozen_owner_that_wakes_speaks_for_nobody() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let mut eve = TestPeer::session(&cluster.nodes[0], &mesh, "eve").await;
    ana.expect_event("peer_joined", "eve").await;
    ben.expect_event("peer_joined", "eve").await;
    cluster.nodes[0].signal("STOP");
    ana.send(&ben, "meanwhile").await.acknowledged();
    assert_eq!(ben.next().await, "meanwhile");
    cluster.nodes[0].signal("CONT");
    // Her node finds that the mesh has moved, and her line goes on from there.
    eve.send(&ben, "from the frozen one").await.acknowledged();
    assert_eq!(ben.next().await, "from the frozen one");
    assert_eq!(ana.events().await, []);
    assert_eq!(eve.events().await, []);
    assert_eq!(eve.peers().await.len(), 3);
}

#[tokio::test]
async fn with_redis_gone_the_owner_goes_on_and_the_rest_waits() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let mut eve = TestPeer::session(&cluster.nodes[0], &mesh, "eve").await;
    let mut own = TestPeer::member(&cluster.nodes[0], &mesh, "ana").await;
    ana.expect_event("peer_joined", "eve").await;
    ben.expect_event("peer_joined", "eve").await;
    cluster.redis.kill();
    until("readiness says so", async || {
        let ready = cluster.nodes[0].http("GET", "/health/ready").await;
        ready.status == 200 && ready.json()["degraded"] == serde_json::json!(["redis"])
    })
    .await;
    own.send(&eve, "at home").await.acknowledged();
    assert_eq!(eve.next().await, "at home");
    // It waits in its edge's window.
    ana.post(&crate::support::peer::envelope(&ben, "far away")).await;
    cluster.redis.start();
    assert_eq!(ben.next().await, "far away");
    ana.ack_of("far away").await.acknowledged();
    until("readiness is back", async || {
        cluster.nodes[0].http("GET", "/health/ready").await.status == 200
    })
    .await;
    for peer in [&mut ana, &mut ben] {
        let events = peer.events().await;
        assert!(events.iter().all(|(_, name)| name == "ana"), "{events:?}");
    }
    // Nobody took the mesh from its owner meanwhile.
    cluster.all_see(3).await;
    assert_eq!(cluster.owner(&mesh).await, Some(0));
}

/// The store comes back without its last commits, as a replica would that was promoted.
#[tokio::test]
async fn presences_that_the_store_has_lost_are_found_in_redis() {
    let (mut cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let (epoch, presence) =
        (cluster.status(&["--mesh", &mesh.id]).await["epoch"].clone(), ben.presence());
    let seen = ana.send(&ben, "seen").await.acknowledged();
    assert_eq!(ben.next().await, "seen");
    until("it is confirmed", async || ana.is_delivered(&seen).await).await;
    until("Redis knows of the last", async || {
        cluster.redis.ask(&["KEYS", "*lease*"]).contains(&mesh.id)
    })
    .await;
    cluster.nodes[0].kill();
    let id = &mesh.id;
    let lost = format!(
        "DELETE FROM broker.lease WHERE mesh_id = '{id}';
         UPDATE broker.mesh_owner SET epoch = 0 WHERE mesh_id = '{id}'"
    );
    cluster.nodes[1].sql(&lost).await;
    ana.send(&ben, "after").await.acknowledged();
    assert_eq!(ben.next().await, "after");
    assert_eq!((ben.presence(), ana.events().await), (presence, vec![]));
    let after = cluster.status(&["--mesh", id]).await["epoch"].clone();
    assert!(after.as_u64() > epoch.as_u64(), "{epoch} {after}");
}
