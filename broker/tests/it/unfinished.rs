//! Messages that are begun and not finished cost little, and not for long.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::limits::HELLO_BYTES;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::node::{Kind, Node};
use crate::support::peer::{Hello, TestPeer, envelope};
use crate::support::raw::{Raw, closed_with, frame_head};
use crate::support::socket::{Habit, Socket};
use crate::support::until;

const ELSEWHERE: &str = "127.0.0.2";
/// A broker's closing takes 2 s, in which it reads what still comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The default of `MAX_FRAME_BYTES`.
const LARGEST: usize = 2 * 1024 * 1024;
/// What a debug build takes beside, in KiB.
const BESIDE_KB: u64 = 32 * 1024;

/// A fragment that others must follow.
fn fragment(bytes: usize) -> Message {
    Message::Frame(Frame::message("x".repeat(bytes), OpCode::Data(Data::Text), false))
}

#[tokio::test]
async fn before_a_hello_messages_are_short() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let too_large = (1009, "frame_too_large".to_owned());
    // Whole, announced, and in fragments.
    let mut whole = Socket::open(&node.address()).await;
    whole.post_text(&"x".repeat(HELLO_BYTES + 1)).await;
    assert_eq!(whole.close_frame().await, too_large);
    let mut announced = Raw::open(ELSEWHERE, &node.address()).await;
    announced.upgrade("").await;
    announced.send(&frame_head(0x81, HELLO_BYTES + 1)).await;
    let rest = announced.rest(PATIENCE).await.expect("an end");
    assert_eq!(closed_with(&rest), Some(too_large.clone()));
    let mut fragments = Socket::open(&node.address()).await;
    for number in 0..5 {
        let kind = OpCode::Data(if number == 0 { Data::Text } else { Data::Continue });
        let bytes = "x".repeat(HELLO_BYTES / 4);
        fragments.post_message(Message::Frame(Frame::message(bytes, kind, false))).await;
    }
    assert_eq!(fragments.close_frame().await, too_large);
    // A hello may be as long as that, and what follows it at once may be longer.
    let hello = Hello::session(&mesh, "ana").frame().to_string();
    let padding = " ".repeat(HELLO_BYTES - hello.len());
    let mut honest = Socket::open(&node.address()).await;
    honest.post_text(&format!("{hello}{padding}")).await;
    let mut send = envelope("*", "long");
    send["ciphertext"] = json!("x".repeat(1024 * 1024));
    honest.post(&send).await;
    assert_eq!(honest.next_frame().await["type"], "hello_ack");
    let answered = honest.take("an answer", |frame| frame["id"] == "long").await;
    assert_eq!(answered["type"], "ack", "{answered}");
}

/// Without a hello, from one address, as large as is let through and as frames may be later.
#[tokio::test]
async fn unfinished_messages_before_hello_cost_little() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let before = node.rss_kb();
    let mut most = before;
    let mut open = Vec::new();
    for length in [HELLO_BYTES, LARGEST] {
        for _ in 0..200 {
            let mut connection = Raw::open(ELSEWHERE, &node.address()).await;
            assert!(connection.upgrade("").await.starts_with("HTTP/1.1 101"));
            connection.send(&frame_head(0x81, length)).await;
            connection.send(&vec![b'x'; length - 10]).await;
            open.push(connection);
            most = most.max(node.rss_kb());
        }
        ana.round_trip().await;
    }
    println!("400 unfinished messages before hello: RSS {before} KiB, at most {most} KiB");
    let free = 400 * broker::edge::UNFINISHED_FREE;
    let bound =
        u64::try_from((broker::edge::UNFINISHED_PART_FRAMES * LARGEST + free) / 1024).unwrap();
    assert!(most < before + bound + BESIDE_KB, "RSS grew from {before} to {most} KiB");
    // What came is read on for two seconds, so that the close arrives.
    let ends = join_all(open.iter_mut().map(|connection| connection.rest(2 * PATIENCE))).await;
    let ends: Vec<_> =
        ends.into_iter().map(|rest| closed_with(&rest.unwrap_or_default())).collect();
    let unavailable = Some((1013, "unavailable".to_owned()));
    assert!(ends[..200].contains(&unavailable), "{ends:?}");
    // They leave room for peers.
    let mut send = envelope("*", "large");
    send["ciphertext"] = json!("x".repeat(40_000));
    let ack = ana.send_frame(&send).await;
    assert!(!ack.0["messageId"].is_null(), "{ack:?}");
}

#[tokio::test]
async fn unfinished_messages_of_peers_cost_little() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut peers = Vec::new();
    for _ in 0..60 {
        let hello = Hello::session(&mesh, "ben");
        peers.push(TestPeer::join_as(&node, hello, Habit::Reads).await);
    }
    let before = node.rss_kb();
    for peer in &peers {
        peer.post_message(fragment(LARGEST - 1)).await;
    }
    let mut most = before;
    let closed = "broker_sockets_closed_total{reason=\"unavailable\"}";
    until("some are refused", async || {
        most = most.max(node.rss_kb());
        node.metric(closed).await.is_some_and(|count| count >= 30.0)
    })
    .await;
    ana.round_trip().await;
    most = most.max(node.rss_kb());
    println!("60 unfinished messages of peers: RSS {before} KiB, at most {most} KiB");
    let bound = u64::try_from(broker::edge::UNFINISHED_PART_FRAMES * LARGEST / 1024).unwrap();
    assert!(most < before + bound + BESIDE_KB, "RSS grew from {before} to {most} KiB");
    // Whoever goes leaves room for others.
    drop(peers);
    until("there is room", async || {
        let mut eve = TestPeer::session(&node, &mesh, "ben").await;
        let mut send = envelope("*", "large");
        send["ciphertext"] = json!("x".repeat(1024 * 1024));
        eve.post(&send).await;
        eve.take_or_end("an ack", |frame| frame["id"] == "large").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_message_is_finished_in_time() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    ben.post_message(fragment(1000)).await;
    let started = Instant::now();
    // Whatever else it sends, and however little of the message.
    while started.elapsed() < Duration::from_mins(1)
        && timeout(Duration::from_secs(1), ben.ended()).await.is_err()
    {
        ben.post_message(Message::Ping(Vec::new().into())).await;
        let more = Frame::message("x".repeat(200), OpCode::Data(Data::Continue), false);
        ben.post_message(Message::Frame(more)).await;
    }
    assert_eq!(ben.close_frame().await, (1008, "flood".into()));
    let took = started.elapsed();
    assert!((29..45).contains(&took.as_secs()), "{took:?}");
    ana.round_trip().await;
}
