//! Whoever reaches Redis and does not know the secret: what he can write does nothing lasting.

use bytes::Bytes;
use router::membership::State;
use router::redis::{Credentials, Dropped, Event, Saved, nodes};

use super::server::Server;
use super::{CLUSTER, Node, credentials, key, until};

const NODES: &str = "claudemesh:{c1:nodes}";
const LEASES: &str = "claudemesh:{c1:leases:red}";
const HINTS: &str = "claudemesh:{c1:nodes}:hints";

/// Names and incarnations in the table, as a node sees them.
async fn names(node: &Node) -> Vec<String> {
    let mut names: Vec<_> =
        node.beat().await.nodes.iter().map(|seen| seen.key.to_string()).collect();
    names.sort();
    names
}

/// Runs a script on a key.
fn run(server: &Server, script: &str, key: &str) {
    let answer = server.ask(&["EVAL", script, "1", key]);
    assert!(!answer.starts_with('-'), "{answer}");
}

async fn pair(server: &Server) -> (Node, Node) {
    (Node::new(&server.url(), "a", 1).await, Node::new(&server.url(), "b", 2).await)
}

#[tokio::test]
async fn a_row_that_nobody_has_sealed_supersedes_nobody() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    a.beat().await;
    let forged = "local now = redis.call('TIME')[1] * 1000 \
        redis.call('HSET', KEYS[1], 'node a', string.format('ffffffffffffffff %.0f {}', now))";
    run(&server, forged, NODES);
    assert_eq!(names(&b).await, ["b/2"], "it is nobody's");
    let told = a.beat().await;
    assert!(!told.superseded && a.redis.refused() > 0);
    assert_eq!(names(&b).await, ["a/1", "b/2"]);
}

#[tokio::test]
async fn a_row_under_another_name_is_nobody_s() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    a.beat().await;
    let copied = "local row = redis.call('HGET', KEYS[1], 'node a') \
        redis.call('HSET', KEYS[1], 'node ghost', row) \
        redis.call('HSET', KEYS[1], 'node c', (string.gsub(row, '^%x+', '00000000000000ff')))";
    run(&server, copied, NODES);
    assert_eq!(names(&b).await, ["a/1", "b/2"]);
    assert!(b.redis.counters().dropped(Dropped::Forged) >= 2);
    assert_eq!(nodes(&server.url(), &credentials(b"secret", None)).await.unwrap().unreadable, 2);
}

/// A row of a node that has gone, with the time of now.
#[tokio::test]
async fn an_old_row_that_is_put_back_brings_nobody_back() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    a.beat().await;
    server.ask(&["COPY", NODES, "kept"]);
    a.beat().await;
    b.beat().await;
    a.redis.leave().await.unwrap();
    let replay = "local row = redis.call('HGET', 'kept', 'node a') local t = redis.call('TIME') \
        local now = string.format(' %.0f ', t[1] * 1000 + math.floor(t[2] / 1000)) \
        redis.call('HSET', KEYS[1], 'node a', (string.gsub(row, ' %d+ ', now, 1)))";
    until("it counts as silent", async || {
        run(&server, replay, NODES);
        let told = b.beat().await;
        let row = told.nodes.iter().find(|seen| seen.key == key("a", 1)).unwrap();
        row.age_ms > super::TIMING.ttl_ms
    })
    .await;
    assert!(b.redis.counters().dropped(Dropped::Replayed) > 0);
}

#[tokio::test]
async fn a_table_full_of_strangers_or_of_another_kind_is_made_anew() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    let full = "for i = 1, 5000 do redis.call('HSET', KEYS[1], 'node ' .. i, 'x') end";
    run(&server, full, NODES);
    assert_eq!(names(&a).await, ["a/1"]);
    assert_eq!(names(&b).await, ["a/1", "b/2"]);
    assert_eq!(server.ask(&["HLEN", NODES]), ":3\r\n");
    server.ask(&["SET", NODES, "x"]);
    assert_eq!(names(&a).await, ["a/1"]);
    let large =
        "redis.call('HSET', KEYS[1], 'node big', '00000000000000ff 1 ' .. string.rep('x', 99999))";
    run(&server, large, NODES);
    assert_eq!(names(&b).await, ["a/1", "b/2"]);
}

#[tokio::test]
async fn a_marker_that_nobody_has_sealed_ends_no_mesh() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    let change = |text: &'static str| vec![("ana".to_owned(), Some(Bytes::from(text)))];
    let save = async |seq, text, whole| {
        a.redis.save_leases("red", 5, seq, change(text), whole).await.unwrap()
    };
    assert_eq!(save(1, "1", true).await, Saved::Ok);
    for marker in [
        "7fffffffffffffff 0000000000000001 forged",
        "0000000000000005 ffffffffffffffff forged",
        "0000000000000006 0000000000000001",
        "f",
        "",
    ] {
        server.ask(&["HSET", LEASES, "marker", marker]);
        assert_eq!(b.redis.load_leases("red").await.unwrap(), None, "{marker}");
        assert_eq!(save(2, "2", false).await, Saved::Gone, "{marker}");
        assert_eq!(save(3, "3", true).await, Saved::Ok, "{marker}");
        let found = b.redis.load_leases("red").await.unwrap().unwrap();
        assert_eq!((found.epoch, found.seq), (5, 3));
        assert_eq!(found.entries, [("ana".to_owned(), Bytes::from("3"))]);
    }
    server.ask(&["SET", LEASES, "x"]);
    assert_eq!(b.redis.load_leases("red").await.unwrap(), None);
    assert_eq!(save(4, "4", true).await, Saved::Ok);
}

#[tokio::test]
async fn a_lease_that_was_moved_or_is_of_another_epoch_is_nobody_s() {
    let server = Server::new();
    let (a, b) = pair(&server).await;
    let ana = || vec![("ana".to_owned(), Some(Bytes::from("lease")))];
    a.redis.save_leases("red", 5, 1, ana(), true).await.unwrap();
    server.ask(&["COPY", LEASES, "kept"]);
    a.redis.save_leases("red", 6, 1, vec![], true).await.unwrap();
    let moved = "local row = redis.call('HGET', 'kept', 'presence ana') \
        redis.call('HSET', KEYS[1], 'presence ana', row, 'presence eve', row)";
    run(&server, moved, LEASES);
    let found = b.redis.load_leases("red").await.unwrap().unwrap();
    assert_eq!((found.epoch, found.entries), (6, vec![]));
    // The whole of another mesh.
    a.redis.save_leases("blue", 9, 1, ana(), true).await.unwrap();
    server.ask(&["COPY", "claudemesh:{c1:leases:blue}", LEASES, "REPLACE"]);
    assert_eq!(b.redis.load_leases("red").await.unwrap(), None);
    let many = "for i = 1, 30000 do redis.call('HSET', KEYS[1], 'presence ' .. i, 'x') end";
    run(&server, many, LEASES);
    assert_eq!(b.redis.load_leases("red").await.unwrap(), None, "more than is looked at");
}

#[tokio::test]
async fn hints_are_sealed_and_nothing_of_what_nodes_say_can_be_read() {
    let server = Server::new();
    let (a, mut b) = pair(&server).await;
    server.ask(&["PUBLISH", HINTS, "a/1"]);
    until("it is refused", async || b.redis.refused() > 0).await;
    assert!(b.inbox.events.try_recv().is_err());
    a.redis.hint().await.unwrap();
    assert_eq!(b.told().await, Event::Hinted);

    a.redis.heartbeat(State::Serving, 1, true, b"a secret of a node").await.unwrap();
    let lease = vec![("ana".to_owned(), Some(Bytes::from("a secret of ana")))];
    a.redis.save_leases("red", 5, 1, lease, true).await.unwrap();
    let there = server.ask(&["HGETALL", NODES]) + &server.ask(&["HGETALL", LEASES]);
    assert!(there.contains("node a") && there.contains("presence ana"), "{there}");
    assert!(!there.contains("secret") && !there.contains("serving"), "{there}");
}

#[tokio::test]
async fn clusters_that_share_a_redis_do_not_meet() {
    let server = Server::new();
    let ours = Node::new(&server.url(), "a", 1).await;
    let theirs = Credentials { cluster: "c2", secret: b"secret", previous: None };
    let mut theirs = Node::with(&server.url(), "a", 9, &theirs).await;
    theirs.beat().await;
    assert_eq!(names(&ours).await, ["a/1"]);
    assert_eq!(names(&theirs).await, ["a/9"]);
    theirs.redis.save_leases("red", 7, 1, vec![], true).await.unwrap();
    assert_eq!(ours.redis.load_leases("red").await.unwrap(), None);
    ours.redis.hint().await.unwrap();
    theirs.hears().await;
    assert!(theirs.inbox.events.try_recv().is_err());
}

/// Nodes with the old secret, with both, and with the new one, a step after the other.
#[tokio::test]
async fn a_secret_is_changed_while_nodes_run() {
    let (server, old, new) = (Server::new(), b"the old one".as_slice(), b"the new one".as_slice());
    let steps = [
        (credentials(old, None), credentials(old, None)),
        (credentials(old, None), credentials(new, Some(old))),
        (credentials(new, Some(old)), credentials(new, Some(old))),
        (credentials(new, Some(old)), credentials(new, None)),
        (credentials(new, None), credentials(new, None)),
    ];
    assert_eq!(steps[0].0.cluster, CLUSTER);
    for (n, (one, other)) in steps.iter().enumerate() {
        let n = 10 * n as u64;
        let mut a = Node::with(&server.url(), "a", n + 1, one).await;
        a.beat().await;
        let mut b = Node::with(&server.url(), "b", n + 2, other).await;
        b.beat().await;
        let both = [a.key().to_string(), b.key().to_string()];
        until("each sees the other", async || names(&a).await == both && names(&b).await == both)
            .await;
        a.reaches(&mut b).await;
        b.reaches(&mut a).await;
        for node in [&a, &b] {
            node.redis.leave().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_living_process_of_the_same_name_is_found_and_a_dead_one_is_not() {
    let server = Server::new();
    let first = Node::new(&server.url(), "a", 1).await;
    let second = Node::new(&server.url(), "a", 2).await;
    assert_eq!(second.redis.namesake().await.unwrap(), None);
    first.beat().await;
    first.hears().await;
    assert_eq!(second.redis.namesake().await.unwrap(), Some(key("a", 1)));
    first.stop.cancel();
    first.tasks.close();
    first.tasks.wait().await;
    until("nobody listens there", async || second.redis.namesake().await.unwrap().is_none()).await;
}

#[tokio::test]
async fn nodes_that_seal_nothing_are_seen_as_long_as_they_live() {
    let server = Server::new();
    let node = Node::new(&server.url(), "a", 1).await;
    assert_eq!(node.redis.unsealed_nodes().await.unwrap(), 0);
    let row = "local now = redis.call('TIME')[1] * 1000 + 900 \
        redis.call('HSET', KEYS[1], 'since', '1', \
        'node x', string.format('0000000000000001 serving 1 %.0f {}', now))";
    run(&server, row, "claudemesh:{nodes}");
    assert_eq!(node.redis.unsealed_nodes().await.unwrap(), 1);
    until("it is gone", async || node.redis.unsealed_nodes().await.unwrap() == 0).await;
}
