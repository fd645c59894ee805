//! P8: every queue and buffer is bounded, and who reaches a bound is told in a named way.

use std::time::Duration;

use protocol::client::{PeerProfile, Profile, Stats};
use protocol::limits::TEXT_BYTES;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::fattest::fattest;
use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{Hello, TestPeer, envelope, number};
use crate::support::raw::Raw;
use crate::support::socket::{Habit, Socket, client_ack, is_envelope};
use crate::support::{SOON, until, until_within};

on_each_store!(a_stalled_reader_costs_little_and_catches_up,);

/// How long the reader stalls. Below the 75 s after which a silent peer is given up.
const STALL: Duration = Duration::from_secs(62);
/// Twice the outbox, the mesh's cache and what a debug build keeps beside, in KiB.
const GROWTH_KB: u64 = 64 * 1024;

async fn a_stalled_reader_costs_little_and_catches_up(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben", "carl", "dora"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let carl = TestPeer::session(&node, &mesh, "carl").await;
    let mut dora = TestPeer::session(&node, &mesh, "dora").await;
    ben.become_one_that(Habit::Stalls);
    let before = node.rss_kb();
    let (mut most, mut count, mut latencies) = (before, 0, Vec::new());
    let body = "x".repeat(8 * 1024);
    let mut tick = interval(Duration::from_millis(20));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + STALL;
    while Instant::now() < end {
        tick.tick().await;
        let mut send = envelope(&ben, &count.to_string());
        send["ciphertext"] = json!(body);
        ana.send_frame(&send).await.acknowledged();
        count += 1;
        let start = Instant::now();
        carl.post(&envelope(&dora, &format!("c{count}"))).await;
        assert_eq!(dora.next().await, format!("c{count}"));
        latencies.push(start.elapsed());
        if count % 100 == 0 {
            most = most.max(node.rss_kb());
        }
    }
    latencies.sort();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!(
        "{kind:?}: {count} messages of 8 KiB for a reader stalled {STALL:?}: RSS {before} KiB, at \
         most {most} KiB; the other pair's p99 {p99:?}"
    );
    assert!(most < before + GROWTH_KB, "RSS grew from {before} to {most} KiB");
    ben.become_one_that(Habit::Acks);
    let mut next = 0;
    while next < count {
        let push = match ben.take_or_end("a push", is_envelope).await {
            Ok(push) => push,
            Err(ended) => {
                assert_eq!(ended, Some((1013, "slow_consumer".into())));
                ben.reconnect().await;
                continue;
            }
        };
        let number: usize = push["client_message_id"].as_str().unwrap().parse().unwrap();
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
}

/// Requests keep coming from a peer that reads none of the answers.
#[tokio::test]
async fn who_takes_nothing_for_half_a_minute_is_a_slow_consumer() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    // Each row is as long as names may be: 64 groups of 256 bytes.
    let groups: Vec<Value> = (0..64).map(|n| json!({"name": format!("{n:0>256}")})).collect();
    let mut others = Vec::new();
    for _ in 0..60 {
        let hello = Hello::session(&mesh, "ana").with(&json!({"groups": groups}));
        others.push(TestPeer::join_as(&node, hello, Habit::Reads).await);
    }
    ben.become_one_that(Habit::Stalls);
    let before = node.rss_kb();
    for _ in 0..64 {
        ben.post(&json!({"type": "list_peers", "_reqId": "r"})).await;
    }
    let closed = "broker_sockets_closed_total{reason=\"slow_consumer\"}";
    let mut most = before;
    until_within(2 * SOON, "the reader is given up", async || {
        most = most.max(node.rss_kb());
        ana.round_trip().await;
        node.metric(closed).await == Some(1.0)
    })
    .await;
    println!("replies that nobody reads: RSS {before} KiB, at most {most} KiB");
    assert!(most < before + GROWTH_KB, "RSS grew from {before} to {most} KiB");
    ben.vanish();
    ben.become_one_that(Habit::Acks);
    ben.reconnect().await;
    ana.send(&ben, "hello").await.acknowledged();
    assert_eq!(ben.next().await, "hello");
}

/// Every peer tells as much of itself as it may.
async fn fatten(peer: &mut TestPeer) {
    let mut profile = serde_json::to_value(fattest::<PeerProfile>()).unwrap();
    profile["type"] = json!("set_profile");
    let told = peer.ask(profile).await;
    assert_eq!(told["type"], "ack", "{told}");
    let stats = serde_json::to_value(fattest::<Stats>()).unwrap();
    peer.post(&json!({"type": "set_stats", "stats": stats})).await;
    let summary = "\"".repeat(TEXT_BYTES);
    peer.post(&json!({"type": "set_summary", "summary": summary})).await;
}

/// As the member `name`, with the fattest hello.
fn fat_hello(mesh: &Mesh, name: &str) -> Hello {
    let mut profile = serde_json::to_value(fattest::<Profile>()).unwrap();
    // Each is a session of its own.
    profile["sessionId"] = json!(format!("{:\"<256}", number()));
    Hello::session(mesh, name).with(&profile)
}

/// A list of the fattest peers, wanted by many who do not read it.
#[tokio::test]
async fn who_asks_and_does_not_read_costs_little() {
    ask_without_reading(20, fat_hello).await;
}

/// The same where each row is long by what was told after the hello.
#[tokio::test]
async fn who_asks_for_what_was_told_later_and_does_not_read_costs_little() {
    ask_without_reading(44, Hello::session).await;
}

async fn ask_without_reading(count: usize, hello: fn(&Mesh, &str) -> Hello) {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut others = Vec::new();
    for _ in 0..count {
        let mut peer = TestPeer::join_as(&node, hello(&mesh, "ana"), Habit::Reads).await;
        fatten(&mut peer).await;
        others.push(peer);
    }
    let mut askers = Vec::new();
    for _ in 0..10 {
        askers.push(TestPeer::session(&node, &mesh, "ben").await);
    }
    let whole = ana.ask(json!({"type": "list_peers"})).await.to_string().len();
    let before = node.rss_kb();
    for asker in &mut askers {
        asker.become_one_that(Habit::Stalls);
        for _ in 0..64 {
            asker.post(&json!({"type": "list_peers", "_reqId": "r"})).await;
        }
    }
    let closed = "broker_sockets_closed_total{reason=\"slow_consumer\"}";
    let mut most = before;
    until_within(3 * SOON, "they are given up", async || {
        most = most.max(node.rss_kb());
        ana.send(&mesh.member("ana").pubkey, "x").await;
        node.metric(closed).await == Some(10.0)
    })
    .await;
    println!("640 lists of {whole} bytes: RSS {before} KiB, at most {most} KiB");
    assert!(whole > 2_500_000, "{whole}");
    assert!(most < before + before / 2, "RSS grew from {before} to {most} KiB");
}

/// Whoever has told too much is shown shortly, the others whole.
#[tokio::test]
async fn a_list_is_bounded() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    ana.post(&json!({"type": "set_summary", "summary": "short"})).await;
    let mut others = Vec::new();
    for count in 1..=60 {
        let mut peer = TestPeer::join_as(&node, fat_hello(&mesh, "ben"), Habit::Reads).await;
        fatten(&mut peer).await;
        others.push(peer);
        if count % 20 != 0 {
            continue;
        }
        let peers = ana.peers().await;
        let bytes: usize = peers.iter().map(|peer| peer.to_string().len() + 1).sum();
        assert!(bytes <= broker::mesh::LIST_BYTES, "{count}: {bytes}");
        assert_eq!((peers.len(), &peers[0]["summary"]), (count + 1, &json!("short")));
        assert_eq!(peers[1]["profile"].is_null(), count > 20, "{count}");
        let missing: Vec<_> =
            peers[1].as_object().unwrap().values().filter(|v| v.is_null()).collect();
        assert!(count > 20 || missing.is_empty(), "nothing is forgotten");
    }
}

#[tokio::test]
async fn a_frame_too_large_ends_the_socket() {
    let settings = [("MAX_FRAME_BYTES", "4096"), ("MAX_MESSAGE_BYTES", "2048")];
    let (node, mut ana, mut ben) = two_peers(&settings).await;
    let fits = "x".repeat(2048 - 64 - 8);
    let mut send = envelope(&ben, "fits");
    send["ciphertext"] = json!(fits);
    ana.send_frame(&send).await.acknowledged();
    send["ciphertext"] = json!(format!("{fits}x"));
    send["id"] = json!("big");
    send["client_message_id"] = json!("big");
    let text = "payload too large: 2049 bytes > MAX_MESSAGE_BYTES=2048";
    assert_eq!(ana.send_frame(&send).await.refused(), text);
    send["ciphertext"] = json!("x".repeat(4096));
    ana.post(&send).await;
    assert_eq!(ana.close_frame().await, (1009, "frame_too_large".into()));
    assert_eq!(ben.next().await, fits);
    let mut stranger = Socket::open(&node.address()).await;
    stranger.post_text(&"x".repeat(100_000)).await;
    assert_eq!(stranger.close_frame().await, (1009, "frame_too_large".into()));
}

#[tokio::test]
async fn a_socket_without_hello_is_closed() {
    let node = Node::start(Kind::Sqlite, &[("HELLO_TIMEOUT_SECONDS", "1")]).await;
    let mut silent = Socket::open(&node.address()).await;
    let mut chatty = Socket::open(&node.address()).await;
    chatty.post(&json!({"type": "list_peers", "_reqId": "r"})).await;
    assert_eq!(chatty.next_frame().await["code"], "no_hello");
    assert_eq!(silent.close_frame().await, (1008, "hello_timeout".into()));
    assert_eq!(chatty.close_frame().await, (1008, "hello_timeout".into()));
}

#[tokio::test]
async fn an_address_has_few_sockets_without_hello() {
    let node = Node::start(Kind::Sqlite, &[("HALF_OPEN_PER_ADDRESS", "3")]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut greeted = TestPeer::session(&node, &mesh, "ana").await;
    let address = node.address();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(Socket::open(&address).await);
    }
    assert_eq!(Socket::try_open(&address).await.err(), Some(None));
    // A hello gives its place to the next, and so does an end.
    silent[0].post(&Hello::session(&mesh, "ana").frame()).await;
    assert_eq!(silent[0].next_frame().await["type"], "hello_ack");
    silent[1].close().await;
    silent.push(Socket::open(&address).await);
    until("the closed socket's place is free", async || Socket::try_open(&address).await.is_ok())
        .await;
    greeted.round_trip().await;
}

#[tokio::test]
async fn a_flood_of_verbs_ends_the_socket() {
    for frame in [
        json!({"type": "list_peers", "_reqId": "r"}),
        json!({"type": "set_summary", "summary": "s"}),
        json!({"type": "message_status", "messageId": "12345678", "_reqId": "r"}),
        json!({"no": "type"}),
    ] {
        let (_node, mut ana, mut ben) = two_peers(&[]).await;
        for _ in 0..1000 {
            ben.post(&frame).await;
        }
        assert_eq!(ben.close_frame().await, (1008, "flood".into()), "{frame}");
        ana.round_trip().await;
        ben.reconnect().await;
        ben.round_trip().await;
    }
}

#[tokio::test]
async fn a_flood_before_hello_ends_the_socket() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    for frame in [envelope("*", "x"), json!({"type": "client_ack", "brokerMessageId": "x"})] {
        let mut socket = Socket::open(&node.address()).await;
        for _ in 0..1000 {
            socket.post(&frame).await;
        }
        assert_eq!(socket.close_frame().await, (1008, "flood".into()), "{frame}");
    }
}

/// Control frames, and pieces of messages that carry nothing, cost the node its time as verbs do.
#[tokio::test]
async fn a_flood_of_control_frames_ends_the_socket() {
    let piece = |first: bool, body: &'static str| {
        let kind = Data::Text;
        let kind = OpCode::Data(if first { kind } else { Data::Continue });
        Message::Frame(Frame::message(body, kind, false))
    };
    let floods: [&dyn Fn(usize) -> Message; 4] = [
        &|_| Message::Ping(vec![7; 8].into()),
        &|_| Message::Pong(vec![0; 8].into()),
        &|number| piece(number == 0, ""),
        &|number| piece(number == 0, " "),
    ];
    let (node, mut ana, mut ben) = two_peers(&[]).await;
    for (kind, flood) in floods.iter().enumerate() {
        for number in 0..1000 {
            ben.post_message(flood(number)).await;
        }
        assert_eq!(ben.close_frame().await, (1008, "flood".into()), "{kind}");
        ana.round_trip().await;
        ben.take_over().await;
        ben.round_trip().await;
        let mut silent = Socket::open(&node.address()).await;
        for number in 0..1000 {
            silent.post_message(flood(number)).await;
        }
        assert_eq!(silent.close_frame().await, (1008, "flood".into()), "{kind} before hello");
    }
}

/// A closed socket is read for a while, so that the close arrives; not for whatever its peer sends on.
#[tokio::test]
async fn who_sends_on_after_the_close_is_let_go() {
    /// What is read, and what the two ends of a connection keep.
    const TAKEN: usize = 24 * 1024 * 1024;
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mut flood = Raw::open("127.0.0.1", &node.address()).await;
    flood.upgrade("").await;
    let mut ping = vec![0x89, 0x80 | 0x7d, 0, 0, 0, 0];
    ping.resize(6 + 125, b'x');
    let (pings, mut taken) = (ping.repeat(500), 0);
    let sending = async {
        while flood.takes(&pings).await {
            taken += pings.len();
        }
    };
    timeout(SOON, sending).await.expect("an end");
    println!("{taken} bytes of pings were taken");
    assert!(taken < TAKEN, "{taken} bytes were taken");
}

/// Keep-alives, answers to the broker's pings, and messages in pieces of some size are no flood.
#[tokio::test]
async fn what_clients_do_is_no_flood() {
    let (_node, mut ana, mut ben) = two_peers(&[]).await;
    for _ in 0..30 {
        ben.post_message(Message::Ping(Vec::new().into())).await;
        ben.post_message(Message::Pong(Vec::new().into())).await;
    }
    let mut send = envelope(&ana, "in pieces");
    send["ciphertext"] = json!("x".repeat(60_000));
    let text = send.to_string();
    for round in 0..20 {
        let text = text.replace("in pieces", &format!("in pieces {round}"));
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(1_000).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let kind = if index == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), false);
            ben.post_message(Message::Frame(frame)).await;
        }
        let end = Frame::message("", OpCode::Data(Data::Continue), true);
        ben.post_message(Message::Frame(end)).await;
        let id = format!("in pieces {round}");
        ben.ack_of(&id).await.acknowledged();
        assert_eq!(ana.next_push().await["client_message_id"], id.as_str());
    }
    ben.round_trip().await;
}

#[tokio::test]
async fn sends_and_acks_are_no_flood() {
    let (_node, mut ana, mut ben) = two_peers(&[]).await;
    ben.become_one_that(Habit::Reads);
    for number in 0..1000 {
        ana.post(&envelope(&ben, &number.to_string())).await;
        let push = ben.next_push().await;
        ben.post(&client_ack(&push)).await;
        ben.post(&client_ack(&push)).await;
    }
    ben.round_trip().await;
    ana.round_trip().await;
}

async fn two_peers(settings: &[(&str, &str)]) -> (Node, TestPeer, TestPeer) {
    let node = Node::start(Kind::Sqlite, settings).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    (node, ana, ben)
}
