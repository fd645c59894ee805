//! Readiness routes: a node that alone is cut off goes out of a balancer, an outage of all takes
//! nobody out, and a node that stops is still there for whom the balancer sends until it has noticed.

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::node::Node;
use crate::support::peer::TestPeer;
use crate::support::proxy::ChaosProxy;
use crate::support::{until, until_within};

/// Status, `degraded` and `reason` of `/health/ready`, and the status of `/health/full`.
async fn health(node: &Node) -> (u16, String, u16) {
    let ready = node.http("GET", "/health/ready").await;
    let body = ready.json();
    let text = if ready.status == 200 { &body["degraded"] } else { &body["reason"] };
    (ready.status, text.to_string(), node.http("GET", "/health/full").await.status)
}

#[tokio::test]
async fn a_node_that_alone_misses_redis_is_not_ready() {
    let mut cluster = Cluster::of(2, &[]).await;
    let proxy = ChaosProxy::start(cluster.redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let mut apart = cluster.launch("apart", &[("REDIS_URL", &url)]);
    apart.serving().await;
    cluster.all_see(3).await;
    until("all is well", async || health(&apart).await == (200, "[]".to_owned(), 200)).await;
    proxy.pause();
    until("it is degraded", async || health(&apart).await == (200, r#"["redis"]"#.to_owned(), 503))
        .await;
    until("it is cut off", async || {
        health(&apart).await == (503, json!("redis_down").to_string(), 503)
    })
    .await;
    for node in &cluster.nodes {
        assert_eq!(health(node).await, (200, "[]".to_owned(), 200));
    }
    proxy.resume();
    until("all is well again", async || health(&apart).await == (200, "[]".to_owned(), 200)).await;
    cluster.nodes.push(apart);
}

#[tokio::test]
async fn without_a_store_all_nodes_are_ready_and_degraded() {
    let server = crate::support::postgres::Server::shared();
    let proxy = ChaosProxy::start(server.port()).await;
    let cluster = Cluster::through(2, &proxy, &[]).await;
    proxy.pause();
    for node in &cluster.nodes {
        until("it is degraded", async || {
            health(node).await == (200, r#"["store"]"#.to_owned(), 503)
        })
        .await;
    }
    // As long as it takes a node that is alone with that to be unready.
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    until_within(std::time::Duration::from_secs(30), "that time is over", async || {
        for node in &cluster.nodes {
            assert_eq!(health(node).await.0, 200);
        }
        tokio::time::Instant::now() >= end
    })
    .await;
    proxy.resume();
    for node in &cluster.nodes {
        until("all is well", async || health(node).await == (200, "[]".to_owned(), 200)).await;
    }
}

/// Balancers send new sockets until their checks have failed.
#[tokio::test]
async fn a_stopping_node_accepts_sockets_for_a_while() {
    let mut cluster = Cluster::of(2, &[("DRAIN_ACCEPT_SECONDS", "5")]).await;
    let mesh = cluster.nodes[0].mesh("red", &["ana", "ben"]).await;
    cluster.nodes[0].signal("TERM");
    until("it is not ready", async || health(&cluster.nodes[0]).await.0 == 503).await;
    let mut ana = TestPeer::session(&cluster.nodes[0], &mesh, "ana").await;
    let mut ben = TestPeer::session(&cluster.nodes[1], &mesh, "ben").await;
    ana.send(&ben, "in time").await.acknowledged();
    assert_eq!(ben.next().await, "in time");
    assert_eq!(ana.close_frame().await, (1001, "shutting down".to_owned()));
    let presence = ana.presence();
    ana.move_to(&cluster.nodes[1]).await;
    assert_eq!(ana.presence(), presence);
    assert_eq!(cluster.nodes[0].ended().await, Some(0));
}
