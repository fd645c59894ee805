//! Joining and leaving in order: meshes move, nobody notices.

use super::apart;
use crate::support::cluster::Cluster;
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

#[tokio::test]
async fn of_two_processes_with_one_name_the_newer_goes_on() {
    let (mut cluster, _mesh, mut ana, mut ben) = apart(&[]).await;
    let mut newer = cluster.launch("n2", &[]);
    newer.serving().await;
    assert_eq!(ben.close_frame().await, (1001, "node_superseded".to_owned()));
    assert_eq!(cluster.nodes[2].ended().await, Some(1));
    ben.move_to(&newer).await;
    ana.send(&ben, "hello again").await.acknowledged();
    assert_eq!(ben.next().await, "hello again");
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
