//! Joining and leaving in order: meshes move, nobody notices.

use super::apart;
use crate::support::cluster::{Cluster, SECRET};
use crate::support::peer::TestPeer;
use crate::support::until;

/// What somebody saw leaving or joining.
async fn comings(peer: &mut TestPeer) -> Vec<(String, String)> {
    peer.events().await
}

#[tokio::test]
async fn a_drained_owner_hands_over_and_exits() {
    let (mut cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let before = (ana.presence(), ben.presence());
    cluster.nodes[0].signal("TERM");
    for text in ["one", "two", "three"] {
        ana.send(&ben, text).await.acknowledged();
        assert_eq!(ben.next().await, text);
    }
    assert_eq!(cluster.nodes[0].ended().await, Some(0));
    cluster.nodes.remove(0);
    cluster.all_see(2).await;
    assert!(matches!(cluster.owner(&mesh).await, Some(1 | 2)));
    assert_eq!(comings(&mut ana).await, []);
    assert_eq!((ana.presence(), ben.presence()), before);
}

#[tokio::test]
async fn sockets_of_a_drained_node_go_on_elsewhere_unseen() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    cluster.nodes[2].signal("TERM");
    assert_eq!(ben.close_frame().await, (1001, "shutting down".to_owned()));
    ana.send(&ben, "while away").await.acknowledged();
    let presence = ben.presence();
    ben.move_to(&cluster.nodes[1]).await;
    assert_eq!(ben.presence(), presence);
    assert_eq!(ben.next().await, "while away");
    assert_eq!(cluster.nodes[2].ended().await, Some(0));
    assert_eq!(comings(&mut ana).await, []);
}

#[tokio::test]
async fn meshes_move_to_a_node_that_joins_and_nothing_is_lost() {
    let mut cluster = Cluster::of(1, &[]).await;
    let mut meshes = Vec::new();
    for number in 0..8 {
        let mesh = cluster.nodes[0].mesh(&format!("m{number}"), &["ana", "ben"]).await;
        let ana = TestPeer::session(&cluster.nodes[0], &mesh, "ana").await;
        let ben = TestPeer::session(&cluster.nodes[0], &mesh, "ben").await;
        meshes.push((mesh, ana, ben));
    }
    cluster.join("n1").await;
    until("some have moved", async || {
        let mut moved = 0;
        for (mesh, _, _) in &meshes {
            moved += usize::from(cluster.owner(mesh).await == Some(1));
        }
        moved > 0
    })
    .await;
    for (_, ana, ben) in &mut meshes {
        ana.send(ben, "after").await.acknowledged();
        assert_eq!(ben.next().await, "after");
        assert!(ana.events().await.iter().all(|(event, _)| event == "peer_joined"));
    }
}

/// It waits for the other to stop, and then refuses in words.
#[tokio::test]
async fn a_process_does_not_start_under_a_living_name() {
    let (cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    let mut second = cluster.launch("n2", &[("LEASE_GRACE_SECONDS", "1")]);
    assert_eq!(second.ended().await, Some(1));
    assert!(
        second.log().contains("another process has this node's NODE_ID, n2"),
        "{}",
        second.log()
    );
    ana.send(&ben, "undisturbed").await.acknowledged();
    assert_eq!(ben.next().await, "undisturbed");
    assert_eq!(comings(&mut ana).await, []);
}

/// As a machine does that was paused, and given up and replaced meanwhile.
#[tokio::test]
async fn a_process_that_was_replaced_while_it_stood_still_ends() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    cluster.nodes[2].signal("STOP");
    let mut newer = cluster.launch("n2", &[]);
    newer.serving().await;
    cluster.nodes[2].signal("CONT");
    assert_eq!(cluster.nodes[2].ended().await, Some(1));
    ben.move_to(&newer).await;
    ana.send(&ben, "hello again").await.acknowledged();
    assert_eq!(ben.next().await, "hello again");
    assert_eq!(comings(&mut ana).await, []);
}

/// Whoever can write to Redis cannot do with one command what takes a node or a mesh down.
#[tokio::test]
async fn what_is_forged_in_redis_hurts_nobody() {
    let (cluster, mesh, mut ana, mut ben) = apart(&[]).await;
    let keys = cluster.redis.ask(&["KEYS", "claudemesh:*"]);
    let key = |part: &str| {
        let found = keys.lines().find(|line| line.contains(part) && !line.contains("hints"));
        found.unwrap_or_else(|| panic!("no key {part}: {keys}")).trim().to_owned()
    };
    let forged = "local now = redis.call('TIME')[1] * 1000 for i = 0, 2 do \
        redis.call('HSET', KEYS[1], 'node n' .. i, string.format('7fffffffffffffff %.0f x', now)) end";
    cluster.redis.ask(&["EVAL", forged, "1", &key(":nodes}")]);
    let leases = key(&format!(":leases:{}", mesh.id));
    cluster.redis.ask(&["HSET", &leases, "marker", "7ffffffffffffff0 0000000000000001 forged"]);
    for text in ["one", "two", "three"] {
        ana.send(&ben, text).await.acknowledged();
        assert_eq!(ben.next().await, text);
    }
    ben.ask(serde_json::json!({"type": "set_visible", "visible": true})).await;
    until("what was forged has been replaced", async || {
        !cluster.redis.ask(&["HGET", &leases, "marker"]).contains("forged")
    })
    .await;
    cluster.all_see(3).await;
    assert!(cluster.status(&["--mesh", &mesh.id]).await["epoch"].as_u64().unwrap() < 100);
    assert!(comings(&mut ana).await.iter().all(|(event, _)| event == "peer_visible"));
}

/// Old, both, new: nodes are replaced one after the other, twice, and the mesh goes on.
#[tokio::test]
async fn a_secret_is_changed_node_by_node() {
    const NEW: &str = "another secret of the tests, long enough as well";
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    let [new, previous] = [("CLUSTER_SECRET", NEW), ("CLUSTER_SECRET_PREVIOUS", SECRET)];
    for (round, settings) in [vec![new, previous], vec![new]].into_iter().enumerate() {
        for index in 0..3 {
            let name = format!("n{index}");
            cluster.nodes[index].signal("TERM");
            cluster.nodes[index].ended().await;
            cluster.nodes[index] = cluster.launch(&name, &settings);
            cluster.nodes[index].serving().await;
            cluster.all_see(3).await;
            for peer in [&mut ana, &mut ben] {
                peer.come_back_to(&cluster.nodes[(index + 1) % 3]).await;
            }
            let text = format!("round {round}, {name}");
            ana.send(&ben, &text).await.acknowledged();
            assert_eq!(ben.next().await, text);
        }
    }
    assert_eq!(comings(&mut ana).await, []);
}

/// A process that has the store to itself does not share it with a cluster.
#[tokio::test]
async fn a_lone_process_stays_away_from_a_cluster_s_store() {
    let cluster = Cluster::of(1, &[]).await;
    let mut lone = cluster.launch("lone", &[("REDIS_URL", ""), ("LEASE_GRACE_SECONDS", "1")]);
    assert_eq!(lone.ended().await, Some(1));
    assert!(lone.log().contains("another broker is running on this store"), "{}", lone.log());
}
