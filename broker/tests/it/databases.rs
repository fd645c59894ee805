//! What a node stands on is tried before it starts: by itself, and by `check-config --connect`.

use std::sync::Arc;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::cluster::Cluster;
use crate::support::node::{Ground, Kind, Node, on_each_store};
use crate::support::pooler::Pooler;
use crate::support::postgres::Server;
use crate::support::until;

on_each_store!(a_node_that_is_alone_shows_itself);

async fn run_on(server: &Server, statement: &str) {
    let mut conn = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await.unwrap();
}

/// What `serve` and `check-config --connect` say to this address.
async fn refusals_of(url: &str) -> [String; 2] {
    let settings = [("DATABASE_URL", url), ("STORE_WAIT_SECONDS", "0"), ("BROKER_PORT", "0")];
    let node = Node::idle(&settings);
    let mut said = [String::new(), String::new()];
    for (said, words) in said.iter_mut().zip([&["serve"][..], &["check-config", "--connect"]]) {
        let (code, text) = node.run_to_fail(words).await;
        assert_eq!(code, 1, "{text}");
        *said = text;
    }
    said
}

#[tokio::test]
async fn a_database_that_starts_later_is_waited_for() {
    let server = Arc::new(Server::own());
    let ground = Ground::on(server.clone()).await;
    server.stop();
    let mut node = Node::launch(ground, &[("STORE_WAIT_SECONDS", "60")]);
    until("the node waits", async || node.log().contains("waiting for the store")).await;
    server.start();
    node.serving().await;
    assert!(node.log().contains("connection refused"), "{}", node.log());
}

#[tokio::test]
async fn an_encoding_that_cannot_hold_every_text_is_refused() {
    let server = Server::shared();
    run_on(
        &server,
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    .await;
    for said in refusals_of(&server.url("latin")).await {
        assert!(said.contains("the database's encoding is LATIN1"), "{said}");
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_refused() {
    let server = Server::shared();
    let database = server.database().await;
    let pooler = Pooler::start(&server, "transaction");
    until("the pooler answers", async || {
        PgConnection::connect(&pooler.url(&database)).await.is_ok()
    })
    .await;
    for said in refusals_of(&pooler.url(&database)).await {
        assert!(said.contains("a pooler's in transaction mode"), "{said}");
    }
}

#[tokio::test]
async fn a_pooler_in_session_mode_will_do() {
    let server = Server::shared();
    let database = server.database().await;
    let pooler = Pooler::start(&server, "session");
    until("the pooler answers", async || {
        PgConnection::connect(&pooler.url(&database)).await.is_ok()
    })
    .await;
    let node = Node::idle(&[("DATABASE_URL", &pooler.url(&database))]);
    let said = String::from_utf8(node.run(&["check-config", "--connect"]).await).unwrap();
    assert!(said.contains("sessions of its own"), "{said}");
}

#[tokio::test]
async fn what_a_user_may_not_do_is_told() {
    let server = Server::shared();
    let database = server.database().await;
    run_on(&server, "CREATE ROLE narrow LOGIN CONNECTION LIMIT 6").await;
    let url = server.url(&database).replace("postgres@", "narrow@");
    let node = Node::idle(&[("DATABASE_URL", &url)]);
    let (code, said) = node.run_to_fail(&["check-config", "--connect"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("REFUSED  this user may not create the schemas"), "{said}");
    assert!(said.contains("warning  6 connections are left, a node opens 14"), "{said}");
    let wrong = server.url("nowhere");
    for said in refusals_of(&wrong).await {
        assert!(said.contains("SQLSTATE 3D000 (there is no such database)"), "{said}");
    }
}

#[tokio::test]
async fn a_cluster_s_database_and_redis_are_tried() {
    let cluster = Cluster::of(1, &[]).await;
    let said = cluster.nodes[0].run(&["check-config", "--connect"]).await;
    let said = String::from_utf8(said).unwrap();
    for part in [
        "sessions of its own",
        "a round trip takes",
        "this user has every right",
        "what is published arrives",
        "noeviction",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
}

async fn a_node_that_is_alone_shows_itself(kind: Kind) {
    let node = Node::start(kind, &[("NODE_ID", "box"), ("REGION", "desk")]).await;
    let shown: Value = serde_json::from_slice(&node.run(&["status", "--json"]).await).unwrap();
    let shown = &shown[0];
    assert_eq!((&shown["id"], &shown["region"]), (&"box".into(), &"desk".into()));
    assert_eq!((&shown["state"], &shown["connections"]), (&"serving".into(), &0.into()));
    assert_eq!(shown["ring_share"], 1.0);
}
