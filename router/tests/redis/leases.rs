//! Leases are kept for the next owner, and only by the present one.

use bytes::Bytes;
use router::redis::{Leases, Saved};

use super::server::Server;
use super::{Node, until};

fn changes(changes: &[(&str, Option<&'static str>)]) -> Vec<(String, Option<Bytes>)> {
    let change = |(name, bytes): &(&str, Option<_>)| (name.to_string(), bytes.map(Bytes::from));
    changes.iter().map(change).collect()
}

impl Node {
    async fn save(&self, epoch: u64, seq: u64, of: &[(&str, Option<&'static str>)]) -> Saved {
        self.redis.save_leases("red", epoch, seq, changes(of), false).await.unwrap()
    }

    async fn save_whole(&self, epoch: u64, seq: u64, of: &[(&str, Option<&'static str>)]) -> Saved {
        self.redis.save_leases("red", epoch, seq, changes(of), true).await.unwrap()
    }

    async fn load(&self) -> Option<Leases> {
        let mut leases = self.redis.load_leases("red").await.unwrap()?;
        leases.entries.sort();
        Some(leases)
    }
}

fn leases(epoch: u64, seq: u64, entries: &[(&str, &'static str)]) -> Leases {
    let entries = entries.iter().map(|(name, bytes)| (name.to_string(), Bytes::from(*bytes)));
    Leases { epoch, seq, entries: entries.collect() }
}

#[tokio::test]
async fn changes_add_up_and_the_whole_replaces_them() {
    let server = Server::new();
    let node = Node::new(&server.url(), "a", 1).await;
    assert_eq!(node.load().await, None);
    assert_eq!(node.save_whole(5, 1, &[("ana", Some("1")), ("ben", Some("\0"))]).await, Saved::Ok);
    assert_eq!(node.save(5, 2, &[("ana", None), ("marker", Some("2"))]).await, Saved::Ok);
    assert_eq!(node.load().await.unwrap(), leases(5, 2, &[("ben", "\0"), ("marker", "2")]));
    assert_eq!(node.save_whole(5, 9, &[("eva", Some("3"))]).await, Saved::Ok);
    assert_eq!(node.load().await.unwrap(), leases(5, 9, &[("eva", "3")]));
    let keys = server.ask(&["PTTL", "claudemesh:{c1:leases:red}"]);
    assert!(keys.starts_with(":86"), "about a day in ms: {keys}");
    assert_eq!(node.redis.load_leases("blue").await.unwrap(), None);
}

#[tokio::test]
async fn a_lower_epoch_is_refused_and_a_higher_one_begins_with_the_whole() {
    let server = Server::new();
    let node = Node::new(&server.url(), "a", 1).await;
    node.save_whole(0x10, 1, &[("ana", Some("1"))]).await;
    assert_eq!(node.save(0x11, 2, &[]).await, Saved::Gone);
    assert_eq!(node.save_whole(0x11, 1, &[("ana", Some("2"))]).await, Saved::Ok);
    assert_eq!(node.save(0x10, 2, &[("ana", Some("3"))]).await, Saved::Stale(0x11));
    assert_eq!(node.save_whole(0x9, 3, &[]).await, Saved::Stale(0x11));
    assert_eq!(node.load().await.unwrap(), leases(0x11, 1, &[("ana", "2")]));
}

#[tokio::test]
async fn a_save_that_was_lost_or_is_late_is_found_out() {
    let server = Server::new();
    let node = Node::new(&server.url(), "a", 1).await;
    assert_eq!(node.save(5, 1, &[("ana", Some("1"))]).await, Saved::Gone, "nothing is there");
    node.save_whole(5, 1, &[("ana", Some("1"))]).await;
    assert_eq!(node.save(5, 3, &[("ben", Some("3"))]).await, Saved::Gone, "the second was lost");
    assert_eq!(node.save_whole(5, 4, &[("ana", Some("4"))]).await, Saved::Ok);
    assert_eq!(node.save(5, 2, &[("ana", Some("2"))]).await, Saved::Gone, "late");
    assert_eq!(node.save_whole(5, 3, &[]).await, Saved::Gone, "late");
    assert_eq!(node.load().await.unwrap(), leases(5, 4, &[("ana", "4")]));
}

#[tokio::test]
async fn a_redis_that_has_forgotten_asks_for_the_whole() {
    let server = Server::new();
    let node = Node::new(&server.url(), "a", 1).await;
    node.save_whole(5, 1, &[("ana", Some("1"))]).await;
    server.kill();
    server.start();
    until("Redis answers", async || {
        let saved = node.redis.save_leases("red", 5, 2, vec![], false).await;
        saved.is_ok_and(|saved| saved == Saved::Gone)
    })
    .await;
    assert_eq!(node.save_whole(5, 3, &[("ana", Some("1"))]).await, Saved::Ok);
    assert_eq!(node.save(5, 4, &[("ana", None)]).await, Saved::Ok);
    assert_eq!(node.load().await.unwrap(), leases(5, 4, &[]));
}
