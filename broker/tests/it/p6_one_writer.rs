//! P6: one writer per mesh. Of two processes on one store, one serves; a process that finds itself
//! superseded can neither commit nor speak for the mesh, and ends.

use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::time::timeout;

use crate::support::node::{Kind, Node, on_each_store};
use crate::support::peer::{TestPeer, envelope};
use crate::support::socket::Socket;
use crate::support::{SOON, until};

on_each_store!(
    a_second_process_refuses_to_start,
    a_second_process_waits_for_the_first_to_go,
    a_fenced_process_acks_nothing_and_ends,
);

async fn a_second_process_refuses_to_start(kind: Kind) {
    let node = Node::start(kind, &[]).await;
    let mut rival = node.rival(&[("LEASE_GRACE_SECONDS", "1")]);
    assert_eq!(rival.ended().await, Some(1));
    let log = rival.log();
    assert!(log.contains("another broker is running on this store"), "{log}");
    assert!(!log.contains("\"listening\""), "{log}");
    let mesh = node.mesh("red", &["ana"]).await;
    TestPeer::session(&node, &mesh, "ana").await.round_trip().await;
}

async fn a_second_process_waits_for_the_first_to_go(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let mut rival = node.rival(&[]);
    until("the rival waits", async || rival.log().contains("waiting for it to stop")).await;
    ben.leave().await;
    ana.send(&ben, "one").await.acknowledged();
    node.kill();
    rival.serving().await;
    let mut again = TestPeer::join(&rival, ben.hello.clone()).await;
    assert_eq!(again.presence(), ben.presence());
    assert_eq!(again.next().await, "one");
}

/// Somebody else has raised the mesh's epoch in the store.
async fn a_fenced_process_acks_nothing_and_ends(kind: Kind) {
    let mut node = Node::start(kind, &[]).await;
    let mesh = node.mesh("red", &["ana", "ben"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let ben = TestPeer::session(&node, &mesh, "ben").await;
    ana.send(&ben, "one").await.acknowledged();
    raise_epoch(&node).await;
    ana.post(&envelope(&ben, "two")).await;
    ana.ended().await;
    let acks = ana.take_kept(|frame| frame["type"] == "ack" && frame["queued"] == true);
    assert!(acks.is_empty(), "{acks:?}");
    assert_eq!(node.ended().await, Some(1));
    let why = "another broker has taken over this store";
    until("it says why", async || node.log().contains(why)).await;
}

async fn raise_epoch(node: &Node) {
    let rows = if let Some(url) = node.ground().url() {
        let mut conn = PgConnection::connect(url).await.unwrap();
        let raise = "UPDATE broker.mesh_owner SET epoch = epoch + 1, node = 'another'";
        sqlx::query(raise).execute(&mut conn).await.unwrap().rows_affected()
    } else {
        let file = node.ground().file();
        let url = format!("sqlite://{}", file.display());
        let mut conn = SqliteConnection::connect(&url).await.unwrap();
        let raise = "UPDATE mesh_owner SET epoch = epoch + 1, node = 'another'";
        sqlx::query(raise).execute(&mut conn).await.unwrap().rows_affected()
    };
    assert_eq!(rows, 1);
}

/// The claim's connection breaks, and another process is quicker to claim.
#[tokio::test]
async fn a_process_whose_claim_is_taken_ends() {
    let mut node = Node::start(Kind::Postgres, &[]).await;
    let url = node.ground().url().unwrap().to_owned();
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    ana.round_trip().await;
    let locks = "FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
                 WHERE locktype = 'advisory' AND datname = current_database()";
    let mut taker = PgConnection::connect(&url).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let key = format!("SELECT (classid::bigint << 32) | objid::bigint {locks}");
    let key: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(key)).fetch_one(&mut conn).await.unwrap();
    let take = sqlx::query("SELECT pg_advisory_lock($1)").bind(key);
    let end = format!("SELECT pg_terminate_backend(pid) {locks} AND granted");
    let waiting = format!("SELECT count(*) {locks} AND NOT granted");
    let end = async {
        until("the taker waits", async || {
            let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(waiting.clone()));
            count.fetch_one(&mut conn).await.unwrap() == 1
        })
        .await;
        sqlx::query(sqlx::AssertSqlSafe(end)).execute(&mut conn).await.unwrap();
    };
    let (done, ()) = tokio::join!(take.execute(&mut taker), end);
    done.unwrap();
    assert_eq!(ana.close_frame().await, (1001, "shutting down".into()));
    assert_eq!(node.ended().await, Some(1));
}

/// The claim's connection breaks and nobody else wants it.
#[tokio::test]
async fn a_process_whose_claim_broke_claims_again() {
    let node = Node::start(Kind::Postgres, &[]).await;
    let url = node.ground().url().unwrap().to_owned();
    let mesh = node.mesh("red", &["ana"]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let holder = "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
                  WHERE locktype = 'advisory' AND datname = current_database() AND granted";
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let first: i32 = sqlx::query_scalar(holder).fetch_one(&mut conn).await.unwrap();
    let end = sqlx::query("SELECT pg_terminate_backend($1)").bind(first);
    end.execute(&mut conn).await.unwrap();
    until("the process claims again", async || {
        let now = sqlx::query_scalar::<_, i32>(holder).fetch_optional(&mut conn).await.unwrap();
        now.is_some_and(|pid| pid != first)
    })
    .await;
    ana.round_trip().await;
}

/// Nothing is accepted before a hello can be answered.
#[tokio::test]
async fn a_process_that_waits_accepts_no_socket() {
    let node = Node::start(Kind::Sqlite, &[]).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rival = node.rival(&[("BROKER_PORT", &port.to_string())]);
    until("the rival waits", async || rival.log().contains("waiting for it to stop")).await;
    let address = format!("127.0.0.1:{port}");
    let early = timeout(Duration::from_secs(1), Socket::open(&address)).await;
    assert!(early.is_err(), "a socket was accepted");
    drop(node);
    let late = timeout(SOON, Socket::open(&address)).await;
    assert!(late.is_ok(), "no socket is accepted");
}
