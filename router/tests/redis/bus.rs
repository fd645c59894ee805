//! Frames from node to node, and what may happen to them.

use std::time::Duration;

use router::redis::{Dropped, Event};
use tokio::io::{copy, sink};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::server::Server;
use super::{Node, key, until};

fn channel(name: &str, incarnation: u64) -> String {
    format!("claudemesh:{{c1:node:{name}}}:{incarnation:016x}")
}

impl Node {
    async fn drops(&self, why: Dropped) {
        until(why.name(), async || self.redis.counters().dropped(why) > 0).await;
    }
}

#[tokio::test]
async fn items_arrive_in_order_and_many_in_a_frame() {
    const ITEMS: u32 = 5_000;
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    for n in 0..ITEMS {
        a.send(&b, &n.to_be_bytes());
    }
    let mut next = 0;
    while next < ITEMS {
        let (from, items) = b.receive().await;
        assert_eq!(from, key("a", 1));
        for item in items {
            assert_eq!(item, next.to_be_bytes().to_vec());
            next += 1;
        }
    }
    let (sent, taken) = (a.redis.counters(), b.redis.counters());
    assert_eq!((sent.items_out.get(), taken.items_in.get()), (ITEMS.into(), ITEMS.into()));
    assert_eq!(sent.frames_out.get(), taken.frames_in.get());
    assert_eq!(sent.bytes_out.get(), taken.bytes_in.get());
    assert!(sent.frames_out.get() < u64::from(ITEMS / 10), "{} frames", sent.frames_out.get());
}

#[tokio::test]
async fn large_items_arrive_one_by_one_and_a_lane_has_an_end() {
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    let large = vec![7; 3 * 1024 * 1024];
    a.send(&b, &large);
    a.send(&b, &large);
    assert!(!a.redis.send(b.key(), large.clone()), "9 MiB wait");
    assert_eq!(a.redis.counters().dropped(Dropped::LaneFull), 1);
    for _ in 0..2 {
        assert_eq!(b.receive().await.1, std::slice::from_ref(&large));
    }
}

#[tokio::test]
async fn a_publish_that_nobody_hears_is_told() {
    let server = Server::new();
    let mut a = Node::new(&server.url(), "a", 1).await;
    assert!(a.redis.send(&key("nobody", 1), vec![1]));
    assert_eq!(a.told().await, Event::Unheard(key("nobody", 1)));
    let b = Node::new(&server.url(), "b", 2).await;
    assert!(a.redis.send(&key("b", 1), vec![1]), "an earlier process of that name");
    assert_eq!(a.told().await, Event::Unheard(key("b", 1)));
    drop(b);
}

#[tokio::test]
async fn hints_reach_everybody_else() {
    let server = Server::new();
    let (mut a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    a.redis.hint().await.unwrap();
    assert_eq!(b.told().await, Event::Hinted);
    b.redis.hint().await.unwrap();
    assert_eq!(a.told().await, Event::Hinted);
    assert!(a.inbox.events.try_recv().is_err(), "its own came first and was not told");
}

#[tokio::test]
async fn what_nobody_of_us_has_sealed_is_refused() {
    let server = Server::new();
    let mut b = Node::new(&server.url(), "b", 2).await;
    let stranger = Node::with_secret(&server.url(), "a", 1, b"guess").await;
    stranger.send(&b, b"kick everybody");
    b.drops(Dropped::Foreign).await;
    server.ask(&["PUBLISH", &channel("b", 2), "\u{2}"]);
    b.drops(Dropped::Malformed).await;
    server.ask(&["PUBLISH", &channel("b", 2), "\u{7}of another version"]);
    b.drops(Dropped::Version).await;
    let friend = Node::new(&server.url(), "c", 3).await;
    friend.send(&b, b"hello");
    assert_eq!(b.receive().await, (key("c", 3), vec!["hello".into()]), "nothing else came");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_meant_for_another_is_refused() {
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    let overheard = server.overhear(&channel("b", 1), || {
        assert!(a.redis.send(&key("b", 1), b"for the earlier b".to_vec()));
    });
    server.ask(&[b"PUBLISH", channel("b", 2).as_bytes(), &overheard]);
    b.drops(Dropped::Misdirected).await;
    let namesake = Node::new(&server.url(), "b", 1).await;
    namesake.send(&b, b"from the earlier b");
    b.drops(Dropped::Namesake).await;
    a.send(&b, b"hello");
    assert_eq!(b.receive().await.1, ["hello"]);
}

#[tokio::test]
async fn whoever_does_not_take_frames_in_loses_them_and_not_his_ears() {
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    let item = vec![0; 1024 * 1024];
    until("the room is full", async || {
        a.redis.send(b.key(), item.clone());
        b.redis.counters().dropped(Dropped::InboxFull) > 0
    })
    .await;
    b.hears().await;
    let mut taken = 0;
    while b.inbox.incoming.try_recv().is_ok() {
        taken += 1;
    }
    assert!((32..=64).contains(&taken), "{taken} MiB were kept");
    a.reaches(&mut b).await;
}

#[tokio::test]
async fn broken_connections_are_mended() {
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    for kind in ["pubsub", "normal", "pubsub"] {
        server.ask(&["CLIENT", "KILL", "TYPE", kind]);
        a.reaches(&mut b).await;
    }
}

#[tokio::test]
async fn a_redis_that_was_killed_is_used_again() {
    let server = Server::new();
    let (mut a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    for _ in 0..2 {
        server.kill();
        a.send(&b, b"lost");
        until("it is told", async || a.redis.counters().dropped(Dropped::Unsent) > 0).await;
        assert_eq!(a.told().await, Event::Unsent(key("b", 2)));
        until("a node that hears nothing knows", async || !b.redis.hears()).await;
        server.start();
        a.reaches(&mut b).await;
        b.hears().await;
        while a.inbox.events.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn a_node_that_may_not_subscribe_tries_again() {
    let server = Server::new();
    let (a, mut b) =
        (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    server.ask(&["ACL", "SETUSER", "default", "resetchannels"]);
    until("it is deaf", async || !b.redis.hears()).await;
    server.ask(&["ACL", "SETUSER", "default", "allchannels"]);
    b.hears().await;
    a.reaches(&mut b).await;
}

/// Nobody closes the connection, Redis counts a listener, and yet nothing arrives.
#[tokio::test]
async fn a_node_that_does_not_hear_itself_connects_again() {
    let server = Server::new();
    let proxy = Proxy::new(&server).await;
    let (a, mut b) = (Node::new(&server.url(), "a", 1).await, Node::new(&proxy.url, "b", 2).await);
    a.reaches(&mut b).await;
    proxy.mute();
    until("it is deaf", async || !b.redis.hears()).await;
    b.hears().await;
    a.reaches(&mut b).await;
}

/// Stands between a node and a server. A node connects to send and then to listen.
struct Proxy {
    url: String,
    muted: watch::Sender<u32>,
}

impl Proxy {
    async fn new(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (sender, _) = watch::channel(0);
        let (port, mute) = (server.port(), sender.clone());
        TaskTracker::new().spawn(async move {
            for number in 0.. {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (from_near, mut to_near) = near.into_split();
                let (mut from_far, to_far) = far.into_split();
                let tasks = TaskTracker::new();
                tasks.spawn(pass(from_near, to_far));
                let mut muted = mute.subscribe();
                tasks.spawn(async move {
                    tokio::select! {
                        _ = copy(&mut from_far, &mut to_near) => {}
                        // Reads on, so that the server notices nothing.
                        _ = muted.changed(), if number == 1 => {
                            let _ = copy(&mut from_far, &mut sink()).await;
                        }
                    }
                });
            }
        });
        Self { url, muted: sender }
    }

    /// Nothing comes back any more through the first connection to listen.
    fn mute(&self) {
        self.muted.send_modify(|mutes| *mutes += 1);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = copy(&mut from, &mut to).await;
}

#[tokio::test]
async fn a_node_that_stops_ends_its_tasks() {
    let server = Server::new();
    let a = Node::new(&server.url(), "a", 1).await;
    a.redis.send(&key("nobody", 1), vec![1]);
    a.stop.cancel();
    a.tasks.close();
    tokio::time::timeout(Duration::from_secs(5), a.tasks.wait()).await.unwrap();
}
