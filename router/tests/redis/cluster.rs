//! The same over a Redis Cluster, of one server.

use router::redis::{Event, Saved, nodes};

use super::server::Server;
use super::{Node, credentials, key, until};

fn cluster() -> (Server, String) {
    let settings = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
    let server = Server::with(&settings);
    assert_eq!(server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK\r\n");
    let url = server.url().replace("redis:", "redis-cluster:");
    (server, url)
}

#[tokio::test]
async fn everything_works_over_a_cluster() {
    let (server, url) = cluster();
    until("the cluster is up", async || {
        server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
    })
    .await;
    let (mut a, mut b) = (Node::new(&url, "a", 1).await, Node::new(&url, "b", 2).await);
    b.beat().await;
    let sighting = a.beat().await;
    assert_eq!(sighting.nodes.len(), 2);
    assert!(sighting.nodes.iter().all(|seen| seen.listens.is_none()));
    let table = nodes(&url, &credentials(b"secret", None)).await.unwrap();
    assert_eq!((table.nodes.len(), table.unreadable), (2, 0));

    a.send(&b, b"hello");
    assert_eq!(b.receive().await, (key("a", 1), vec!["hello".into()]));
    assert!(a.redis.send(&key("nobody", 1), vec![1]));
    assert_eq!(a.told().await, Event::Unheard(key("nobody", 1)));
    b.redis.hint().await.unwrap();
    assert_eq!(a.told().await, Event::Hinted);
    b.hears().await;

    let saved = a.redis.save_leases("red", 1, 1, vec![("ana".to_owned(), None)], true).await;
    assert_eq!(saved.unwrap(), Saved::Ok);
    assert_eq!(b.redis.load_leases("red").await.unwrap().unwrap().epoch, 1);

    server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    a.reaches(&mut b).await;
    a.redis.leave().await.unwrap();
    assert_eq!(b.beat().await.nodes.len(), 1);
}
