//! Whole runs against a broker in miniature. Two peers of 40 messages each: every tenth of them,
//! four of each peer, is the one a fault befalls.

use super::*;
use crate::fake::{Fake, Fault, MeshFile};

fn options(url: &str, file: &MeshFile) -> Traffic {
    Traffic {
        mesh: file.0.clone(),
        url: vec![url.to_owned()],
        peers: 2,
        payload: 100,
        in_flight: 8,
        hello: false,
        no_ack: false,
        retry: false,
        deadline: 1,
        pid: vec![],
        json: false,
    }
}

const LOAD: Load = Load::Burst { messages: 40 };
const FAULTY: u64 = 8;

async fn report(fault: Fault, change: impl FnOnce(&mut Traffic)) -> (Report, Fake) {
    let fake = Fake::start(fault).await;
    let file = MeshFile::new();
    let mut options = options(&fake.url, &file);
    change(&mut options);
    let report = run(&options, LOAD).await.unwrap();
    (report, fake)
}

#[tokio::test]
async fn a_good_broker_passes() {
    let (report, fake) =
        report(Fault::None, |options| options.pid = vec![std::process::id()]).await;
    assert!(report.passed, "{report}");
    assert_eq!((report.planned, report.sent, report.accepted, report.delivered), (80, 80, 80, 80));
    assert!(report.ack.is_some() && report.delivery.is_some() && report.broker.is_some());
    assert!(report.throughput > 0.0);
    assert_eq!(fake.client_acks(), 80);
}

#[tokio::test]
async fn many_peers_by_plain_hello_without_acks_pass() {
    let (report, fake) = report(Fault::None, |options| {
        (options.peers, options.hello, options.no_ack) = (20, true, true);
    })
    .await;
    assert!(report.passed, "{report}");
    assert_eq!((report.delivered, fake.client_acks()), (800, 0));
}

#[tokio::test]
async fn a_dropped_delivery_is_missing() {
    let (report, _fake) = report(Fault::Drop, |_| {}).await;
    assert!(!report.passed);
    assert_eq!((report.accepted, report.missing, report.delivered), (80, FAULTY, 80 - FAULTY));
    assert_eq!((report.duplicates, report.inversions), (0, 0));
}

#[tokio::test]
async fn a_repeated_delivery_is_a_duplicate() {
    let (report, _fake) = report(Fault::Duplicate, |_| {}).await;
    assert!(!report.passed);
    assert_eq!((report.duplicates, report.missing, report.inversions), (FAULTY, 0, 0));
}

#[tokio::test]
async fn a_late_delivery_is_an_inversion() {
    let (report, _fake) = report(Fault::Reorder, |_| {}).await;
    assert!(!report.passed);
    assert_eq!((report.inversions, report.missing, report.duplicates), (FAULTY, 0, 0));
}

#[tokio::test]
async fn a_misrouted_delivery_is_foreign() {
    let (report, _fake) = report(Fault::Misroute, |_| {}).await;
    assert!(!report.passed);
    assert_eq!((report.foreign, report.missing), (FAULTY, FAULTY));
}

#[tokio::test]
async fn a_send_without_an_answer_fails_the_run() {
    let (report, _fake) = report(Fault::Ignore, |_| {}).await;
    assert!(!report.passed);
    assert_eq!((report.unanswered, report.missing), (FAULTY, 0));
}

#[tokio::test]
async fn refusals_are_told_by_their_text_and_are_no_loss() {
    let (report, _fake) = report(Fault::Refuse, |_| {}).await;
    assert!(report.passed, "{report}");
    assert_eq!((report.refused, report.refusals["queue_full: \"later\""]), (FAULTY, FAULTY));
}

#[tokio::test]
async fn a_lost_connection_fails_the_run() {
    let (report, _fake) = report(Fault::Hang, |_| {}).await;
    assert!(!report.passed);
    assert_eq!(report.connections_lost.values().sum::<u64>(), 2);
}

#[tokio::test]
async fn with_retries_what_was_postponed_comes_and_its_order_is_excused() {
    let (report, _fake) = report(Fault::Postpone, |options| {
        (options.retry, options.deadline) = (true, 30);
    })
    .await;
    assert!(report.passed, "{report}");
    assert_eq!((report.delivered, report.refused, report.refusals["unavailable"]), (80, 0, FAULTY));
    assert!(report.inversions_of_resent > 0);
}

/// The miniature keeps nothing for a peer that is away, so what it lost in between is not asked.
#[tokio::test]
async fn with_retries_a_peer_comes_back_and_goes_on() {
    let fake = Fake::start(Fault::Hang).await;
    let file = MeshFile::new();
    let options = Traffic { retry: true, deadline: 4, in_flight: 1, ..options(&fake.url, &file) };
    let report = run(&options, Load::Burst { messages: 10 }).await.unwrap();
    assert_eq!(report.connections_lost.values().sum::<u64>(), 2, "{report}");
    assert_eq!((report.accepted, report.unanswered), (20, 0), "{report}");
}

#[tokio::test]
async fn a_paced_run_keeps_its_time() {
    let fake = Fake::start(Fault::None).await;
    let file = MeshFile::new();
    let options = options(&fake.url, &file);
    let report = run(&options, Load::Steady { rate: 100, seconds: 1 }).await.unwrap();
    assert!(report.passed, "{report}");
    assert_eq!(report.delivered, 100);
    assert!(report.seconds > 0.9, "{report}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error() {
    let file = MeshFile::new();
    let options = options("ws://127.0.0.1:9/ws", &file);
    assert!(matches!(run(&options, LOAD).await, Err(Error::Peer(_))));
}
