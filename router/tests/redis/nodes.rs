//! Who is there: heartbeats and what they show.

use router::membership::{Seen, Sighting, State};
use router::redis::{Error, Redis, nodes};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::server::Server;
use super::{Node, SOON, TIMING, credentials, key, until};

fn names(sighting: &Sighting) -> Vec<String> {
    let mut names: Vec<_> = sighting.nodes.iter().map(|seen| seen.key.to_string()).collect();
    names.sort();
    names
}

fn find<'a>(sighting: &'a Sighting, name: &str) -> &'a Seen {
    sighting.nodes.iter().find(|seen| seen.key.id == name.into()).unwrap()
}

/// The most milliseconds that can have passed since, by any clock of this machine.
fn at_most(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap() + 10
}

#[tokio::test]
async fn a_heartbeat_shows_every_node_with_what_it_says_of_itself() {
    let server = Server::new();
    let began = Instant::now();
    let (a, b) = (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    let first = a.beat().await;
    assert_eq!((names(&first), first.superseded), (vec!["a/1".to_owned()], false));
    assert!(first.table_age_ms <= at_most(began), "{first:?}");
    let beat = Instant::now();
    b.redis.heartbeat(State::StoreBlind, 7, true, &[0, 255, 10]).await.unwrap();
    let second = a.beat().await;
    assert_eq!(names(&second), ["a/1", "b/2"]);
    let seen = find(&second, "b");
    assert_eq!((seen.state, seen.weight, seen.listens), (State::StoreBlind, 7, Some(true)));
    assert!(seen.age_ms <= at_most(beat) && find(&second, "a").age_ms == 0);
    until("ages grow", async || find(&a.beat().await, "b").age_ms > 50).await;
    until("the table grows old", async || a.beat().await.table_age_ms > 50).await;

    let mut looked = nodes(&server.url(), &credentials(b"secret", None)).await.unwrap().nodes;
    looked.sort_by_key(|(seen, _)| seen.key.clone());
    let infos: Vec<_> = looked.iter().map(|(seen, info)| (seen.weight, &info[..])).collect();
    assert_eq!(infos, [(1, &b"info"[..]), (7, &[0, 255, 10])]);
}

#[tokio::test]
async fn a_node_that_leaves_is_gone_at_once_and_takes_no_later_process_with_it() {
    let server = Server::new();
    let (a, b) = (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    b.beat().await;
    b.redis.leave().await.unwrap();
    assert_eq!(names(&a.beat().await), ["a/1"]);
    let next = Node::new(&server.url(), "b", 3).await;
    next.beat().await;
    b.redis.leave().await.unwrap();
    assert_eq!(names(&a.beat().await), ["a/1", "b/3"]);
}

#[tokio::test]
async fn a_later_process_supersedes_and_a_dead_one_does_not() {
    let server = Server::new();
    let old = Node::new(&server.url(), "a", 9).await;
    assert!(!old.beat().await.superseded);
    let new = Node::new(&server.url(), "a", 10).await;
    assert!(!new.beat().await.superseded);
    let told = old.beat().await;
    assert!(told.superseded);
    assert_eq!(names(&told), ["a/a"], "and its heartbeat was not taken");
    until("the later one has been silent for long", async || !old.beat().await.superseded).await;
    assert!(!new.beat().await.superseded, "the later one takes the name again");
}

#[tokio::test]
async fn a_process_that_has_gone_is_seen_to_listen_no_more() {
    let server = Server::new();
    let (a, b) = (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    b.beat().await;
    b.stop.cancel();
    b.tasks.close();
    b.tasks.wait().await;
    until("nobody listens", async || find(&a.beat().await, "b").listens == Some(false)).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_says_that_its_table_is_young() {
    let server = Server::new();
    let (a, b) = (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    b.beat().await;
    until("the table grows old", async || a.beat().await.table_age_ms > 500).await;
    server.kill();
    assert!(matches!(
        a.redis.heartbeat(State::Serving, 1, true, b"").await,
        Err(Error::Failed("take a heartbeat", _))
    ));
    let began = Instant::now();
    server.start();
    until("Redis answers", async || {
        let Ok(sighting) = a.redis.heartbeat(State::Serving, 1, true, b"").await else {
            return false;
        };
        assert!(sighting.table_age_ms <= at_most(began), "{sighting:?}");
        assert_eq!(names(&sighting), ["a/1"]);
        true
    })
    .await;
    b.beat().await;
    assert_eq!(names(&a.beat().await), ["a/1", "b/2"]);
}

/// As when Redis restarts from its last snapshot: the table is old, and so are all heartbeats in it.
#[tokio::test]
async fn a_table_that_is_not_as_it_was_left_counts_as_young() {
    let server = Server::new();
    let (a, b) = (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await);
    b.beat().await;
    a.beat().await;
    server.ask(&["COPY", "claudemesh:{c1:nodes}", "claudemesh:{c1:nodes}:snapshot"]);
    until("the table grows old", async || a.beat().await.table_age_ms > 500).await;
    let changed = Instant::now();
    server.ask(&["COPY", "claudemesh:{c1:nodes}:snapshot", "claudemesh:{c1:nodes}", "REPLACE"]);
    let young = a.beat().await;
    assert!(young.table_age_ms <= at_most(changed), "{young:?}");
    assert!(find(&young, "b").age_ms > 500, "{young:?}");
    until("it grows old again", async || a.beat().await.table_age_ms > 200).await;
}

#[tokio::test]
async fn a_redis_that_freezes_fails_commands_in_time_and_remembers() {
    let server = Server::new();
    let a = Node::new(&server.url(), "a", 1).await;
    a.beat().await;
    server.pause();
    let asked = timeout(SOON, a.redis.heartbeat(State::Serving, 1, true, b"")).await;
    assert!(asked.expect("it fails, frozen as Redis is").is_err());
    server.resume();
    until("Redis answers", async || {
        let sighting = a.redis.heartbeat(State::Serving, 1, true, b"").await;
        sighting.is_ok_and(|sighting| sighting.table_age_ms > 1_500)
    })
    .await;
    a.hears().await;
}

/// Such as while its password is being changed.
#[tokio::test]
async fn a_node_that_is_refused_comes_back_when_it_is_not() {
    let server = Server::new();
    server.ask(&["CONFIG", "SET", "requirepass", "old"]);
    let a = Node::new(&server.url().replace("redis://", "redis://:old@"), "a", 1).await;
    a.hears().await;
    server.ask_with("old", &["CONFIG", "SET", "requirepass", "new"]);
    for kind in ["normal", "pubsub"] {
        server.ask_with("new", &["CLIENT", "KILL", "TYPE", kind]);
    }
    until("the node is refused", async || !a.redis.hears()).await;
    assert!(a.redis.heartbeat(State::Serving, 1, true, b"").await.is_err());
    server.ask_with("new", &["CONFIG", "SET", "requirepass", "old"]);
    until("Redis answers", async || a.redis.heartbeat(State::Serving, 1, true, b"").await.is_ok())
        .await;
    a.hears().await;
}

#[tokio::test]
async fn a_url_that_is_none_and_a_redis_that_is_not_there_are_told() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let connect = async |url| {
        let ours = credentials(b"secret", None);
        Redis::connect(url, key("a", 1), &ours, TIMING, &tasks, &stop).await.map(|_| ())
    };
    assert!(matches!(connect("not a url").await, Err(Error::Url(_))));
    let server = Server::new();
    let (plain, sealed) = (server.url(), server.url().replace("redis:", "rediss:"));
    server.kill();
    assert!(matches!(connect(&plain).await, Err(Error::Failed("be connected to", _))));
    server.start();
    let refused = connect(&sealed).await;
    assert!(matches!(refused, Err(Error::Failed("be connected to", _))), "it speaks no TLS");
    assert!(nodes(&plain, &credentials(b"secret", None)).await.unwrap().nodes.is_empty());
}
