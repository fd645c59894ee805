//! P4: per sender connection and recipient session, envelopes of equal priority arrive in the order
//! they were sent.

use crate::support::node::{Kind, Mesh, Node, on_each_store};
use crate::support::peer::{TestPeer, envelope};
use crate::support::socket::Habit;

on_each_store!(
    a_thousand_pipelined_sends_arrive_in_order,
    order_survives_the_death_of_the_broker,
    order_survives_a_recipient_that_keeps_reconnecting,
    a_backlog_beyond_a_page_arrives_in_order,
    a_backlog_beyond_a_page_arrives_in_order_after_a_restart,
    direct_mail_and_broadcasts_keep_their_order,
);

async fn a_thousand_pipelined_sends_arrive_in_order(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    send_range(&mut ana, &ben, 0..1000).await;
    receives(&mut ben, 0..1000).await;
    acks(&mut ana, 0..1000).await;
    assert_eq!(ben.texts().await, [""; 0]);
}

/// The sender goes on where the acks ended; what comes twice is told apart by its id, as clients do.
async fn order_survives_the_death_of_the_broker(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind).await;
    send_range(&mut ana, &ben, 0..1000).await;
    for ends in [150, 500, 800] {
        ana.ack_of(&ends.to_string()).await.acknowledged();
        node.kill();
        node.restart().await;
        ana.vanish();
        ana.reconnect().await;
        ben.reconnect().await;
        // Acks come in order, so all below were given.
        ana.take_kept(|frame| frame["type"] == "ack");
        send_range(&mut ana, &ben, ends + 1..1000).await;
    }
    let mut next = 0;
    while next < 1000 {
        let number: usize = ben.next().await.parse().unwrap();
        assert!(number <= next, "{number} came before {next}");
        next = next.max(number + 1);
    }
}

async fn order_survives_a_recipient_that_keeps_reconnecting(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    send_range(&mut ana, &ben, 0..1000).await;
    let mut next = 0;
    while next < 1000 {
        let number: usize = ben.next().await.parse().unwrap();
        assert!(number <= next, "{number} came before {next}");
        if number == next && number % 150 == 100 {
            ben.reconnect().await;
        }
        next = next.max(number + 1);
    }
}

async fn a_backlog_beyond_a_page_arrives_in_order(kind: Kind) {
    let (_node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.leave().await;
    send_range(&mut ana, &ben, 0..900).await;
    acks(&mut ana, 0..900).await;
    ben.reconnect().await;
    send_range(&mut ana, &ben, 900..1000).await;
    receives(&mut ben, 0..1000).await;
}

async fn a_backlog_beyond_a_page_arrives_in_order_after_a_restart(kind: Kind) {
    let (mut node, mut ana, mut ben, _) = two_peers(kind).await;
    ben.become_one_that(Habit::Stalls);
    send_range(&mut ana, &ben, 0..900).await;
    acks(&mut ana, 0..900).await;
    node.kill();
    node.restart().await;
    ana.reconnect().await;
    send_range(&mut ana, &ben, 900..950).await;
    ben.vanish();
    ben.become_one_that(Habit::Acks);
    ben.reconnect().await;
    send_range(&mut ana, &ben, 950..1000).await;
    receives(&mut ben, 0..1000).await;
}

async fn direct_mail_and_broadcasts_keep_their_order(kind: Kind) {
    let (node, mut ana, mut ben, mesh) = two_peers(kind).await;
    let to_member = mesh.member("ben").pubkey.clone();
    let mut daemon = TestPeer::member(&node, &mesh, "ben").await;
    for number in 0..200 {
        let text = number.to_string();
        let send = if number % 2 == 0 { envelope(&ben, &text) } else { envelope("*", &text) };
        ana.post(&send).await;
    }
    receives(&mut ben, 0..200).await;
    // A session is preferred to the member's own connection, which gets the broadcasts.
    ana.send(&to_member, "end").await.acknowledged();
    assert_eq!(ben.next().await, "end");
    for number in (1..200).step_by(2) {
        assert_eq!(daemon.next().await, number.to_string());
    }
}

async fn send_range(ana: &mut TestPeer, ben: &TestPeer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        ana.post(&envelope(ben, &number.to_string())).await;
    }
}

async fn acks(ana: &mut TestPeer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        ana.ack_of(&number.to_string()).await.acknowledged();
    }
}

/// These, once each, in order.
async fn receives(ben: &mut TestPeer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(ben.next().await, number.to_string());
    }
}

async fn two_peers(kind: Kind) -> (Node, TestPeer, TestPeer, Mesh) {
    let node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    (node, ana, ben, mesh)
}
