//! What the Postgres store does while connections, owners and servers fail around it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use broker::model::{Claim, MeshCommit, Outcome, Recipient, Unit, Write};
use broker::store::committer::Committer;
use broker::store::postgres::Postgres;
use broker::store::{Retained, Store, StoreError};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::postgres::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::scene::{Scene, accept, ben, commit, committed, confirm, waiting};
use crate::support::{SOON, until};

/// A commit holds the fence with its envelope written when another node takes the mesh over.
#[tokio::test]
async fn an_activation_waits_for_the_commit_in_progress_and_sees_it() {
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    assert_eq!(
        commit(&*scene.store, &mesh, epoch, vec![accept(1, &[ben()])]).await.unwrap(),
        committed()
    );
    let mut straggler = scene.connection().await;
    let mut tx = straggler.begin().await.unwrap();
    sqlx::raw_sql(
        "SELECT FROM broker.mesh_owner WHERE mesh_id = 'red' FOR SHARE;
         INSERT INTO broker.envelope SELECT (jsonb_populate_record(e, '{\"seq\": 41}')).*
         FROM broker.envelope e;
         INSERT INTO broker.delivery VALUES ('red', 's:ben', 1, 41, false);",
    )
    .execute(&mut *tx)
    .await
    .unwrap();

    let store = scene.store.clone();
    let activation =
        async { store.activate(&mesh, "node-2", 0).await.unwrap().expect("the mesh exists") };
    let end = async {
        until("the activation waits", async || scene.someone_waits().await).await;
        tx.commit().await.unwrap();
    };
    let (activation, ()) = tokio::join!(activation, end);
    assert_eq!((activation.epoch, activation.tail), (epoch + 1, 41));
    assert_eq!(activation.queues.iter().map(|queue| queue.1).collect::<Vec<_>>(), [41]);
}

/// Nobody waits for a mesh that is moving: not its own commit, not the others of the batch.
#[tokio::test]
async fn a_commit_during_an_activation_is_fenced_at_once() {
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let mut other = scene.connection().await;
    let mut raise = other.begin().await.unwrap();
    sqlx::raw_sql("UPDATE broker.mesh_owner SET epoch = epoch + 1 WHERE mesh_id = 'red'")
        .execute(&mut *raise)
        .await
        .unwrap();
    let writes = || vec![accept(1, &[ben()])];
    let outcome = timeout(SOON, commit(&*scene.store, &mesh, epoch, writes())).await;
    assert_eq!(outcome.expect("nobody waits").unwrap(), Outcome::Fenced);
    raise.rollback().await.unwrap();
    assert_eq!(commit(&*scene.store, &mesh, epoch, writes()).await.unwrap(), committed());
}

/// Postgres takes no text with U+0000 in it; the neighbours of one do not notice.
#[tokio::test]
async fn a_poisoned_unit_is_refused_beside_healthy_meshes() {
    let scene = Scene::start().await;
    let mut commits = Vec::new();
    for name in ["red", "green", "blue"] {
        let (mesh, epoch) = scene.mesh(name).await;
        let units = (1..=3).map(|seq| Unit(vec![accept(seq, &[ben()])])).collect();
        commits.push(MeshCommit { mesh, epoch, units });
    }
    let Write::Accept(poison) = &mut commits[1].units[1].0[0] else { unreachable!() };
    Arc::make_mut(&mut poison.envelope).target = "nul \0".to_owned();
    let tasks = TaskTracker::new();
    let committer = Committer::start(scene.store.clone(), &tasks, CancellationToken::new());
    let answers: Vec<_> = commits.iter().map(|commit| committer.submit(commit.clone())).collect();
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(timeout(SOON, answer).await.expect("bounded").unwrap().unwrap());
    }
    let poisoned = Outcome::Stopped { committed: 1, at: None };
    assert_eq!(outcomes, [committed(), poisoned, committed()]);
    for (commit, stored) in commits.iter().zip([vec![1, 2, 3], vec![1], vec![1, 2, 3]]) {
        assert_eq!(waiting(&*scene.store, &commit.mesh, &ben()).await, stored);
    }
}

/// The server commits, the answer is lost.
#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_the_tail_tells() {
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let proxy = ChaosProxy::start(scene.server.port()).await;
    let url = scene.server.url(&scene.database);
    let url = url.replace(&scene.server.port().to_string(), &proxy.port().to_string());
    let store = Postgres::connect(&url, 1).await.unwrap();
    assert_eq!(commit(&store, &mesh, epoch, vec![]).await.unwrap(), committed());

    proxy.swallow_replies();
    let outcome = timeout(SOON, commit(&store, &mesh, epoch, vec![accept(1, &[ben()])])).await;
    assert!(matches!(outcome.expect("bounded"), Err(StoreError::Unavailable(_))));
    proxy.resume();

    let epoch = scene.activate(&mesh).await;
    assert_eq!(epoch.tail, 1);
    assert_eq!(waiting(&*scene.store, &mesh, &ben()).await, [1]);
    let again = commit(&store, &mesh, epoch.epoch, vec![accept(2, &[ben()])]).await.unwrap();
    assert_eq!(again, committed());
}

/// A cut in the middle of things costs one attempt.
#[tokio::test]
async fn a_cut_connection_is_replaced() {
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let proxy = ChaosProxy::start(scene.server.port()).await;
    let url = scene.server.url(&scene.database);
    let url = url.replace(&scene.server.port().to_string(), &proxy.port().to_string());
    let store = Postgres::connect(&url, 1).await.unwrap();
    assert_eq!(commit(&store, &mesh, epoch, vec![]).await.unwrap(), committed());
    proxy.cut();
    let outcome = commit(&store, &mesh, epoch, vec![accept(1, &[ben()])]).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    assert_eq!(commit(&store, &mesh, epoch, vec![accept(1, &[ben()])]).await.unwrap(), committed());
    store.healthy().await.unwrap();
}

/// Proxies cut connections after minutes; here after a second, and commits go on meanwhile.
#[tokio::test]
async fn connections_are_renewed_between_commits_and_the_claim_has_no_gap() {
    const AGE: Duration = Duration::from_secs(1);
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let url = scene.server.url(&scene.database);
    let store = Postgres::renewing(&url, 1, AGE).await.unwrap();
    for shared in [false, true] {
        let mut claim = store.claim(shared).await.unwrap().unwrap();
        let (started, mut backends) = (Instant::now(), HashSet::new());
        while started.elapsed() < 3 * AGE {
            assert_eq!(commit(&store, &mesh, epoch, vec![]).await.unwrap(), committed());
            store.healthy().await.unwrap();
            assert!(claim.held().await, "the claim is kept");
            assert!(scene.store.claim(false).await.unwrap().is_none(), "nobody else gets it");
            let holders = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database \
                = (SELECT oid FROM pg_database WHERE datname = current_database())";
            let holders: Vec<i32> =
                sqlx::query_scalar(holders).fetch_all(&mut scene.connection().await).await.unwrap();
            backends.extend(holders);
        }
        assert!((3..=5).contains(&backends.len()), "{} connections held it", backends.len());
        drop(claim);
        until("the claim is free", async || scene.store.claim(false).await.unwrap().is_some())
            .await;
    }
}

/// Silence is noticed by reads as well, and does not use the pool up.
#[tokio::test]
async fn a_silent_server_is_unavailable_and_comes_back() {
    let scene = Scene::start().await;
    let proxy = ChaosProxy::start(scene.server.port()).await;
    let url = scene.server.url(&scene.database);
    let url = url.replace(&scene.server.port().to_string(), &proxy.port().to_string());
    let store = Arc::new(Postgres::connect(&url, 1).await.unwrap());
    proxy.pause();
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        reads.spawn(async move { store.healthy().await });
    }
    let outcomes = timeout(SOON, reads.join_all()).await.expect("bounded");
    assert!(outcomes.iter().all(|o| matches!(o, Err(StoreError::Unavailable(_)))));
    proxy.resume();
    until("reads answer again", async || store.healthy().await.is_ok()).await;
}

/// The server dies and returns; the store needs no help.
#[tokio::test]
async fn a_restarted_server_is_found_again_with_all_that_was_committed() {
    let server = Arc::new(Server::own());
    let scene = Scene::on(server.clone()).await;
    let (mesh, epoch) = scene.mesh("red").await;
    assert_eq!(
        commit(&*scene.store, &mesh, epoch, vec![accept(1, &[ben()])]).await.unwrap(),
        committed()
    );
    server.kill();
    let outcome = commit(&*scene.store, &mesh, epoch, vec![accept(2, &[ben()])]).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    assert!(scene.store.healthy().await.is_err());
    server.start();
    until("it is healthy", async || scene.store.healthy().await.is_ok()).await;
    until("it commits", async || {
        commit(&*scene.store, &mesh, epoch, vec![accept(3, &[ben()])]).await.is_ok()
    })
    .await;
    assert_eq!(waiting(&*scene.store, &mesh, &ben()).await, [1, 3]);

    server.stop();
    assert!(scene.store.healthy().await.is_err());
    server.start();
    server.ready().await;
    until("it is healthy", async || scene.store.healthy().await.is_ok()).await;
}

/// Someone's report runs for an hour: nothing that is removed can be cleaned up.
#[tokio::test]
async fn an_open_transaction_stops_neither_traffic_nor_retention() {
    const BATCHES: u64 = 20;
    const ROWS: u64 = 200;
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let mut report = scene.connection().await;
    let mut tx = report.begin().await.unwrap();
    sqlx::raw_sql(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM mesh.mesh",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    for pass in 0..3 {
        for batch in 0..BATCHES {
            let first = (pass * BATCHES + batch) * ROWS + 1;
            let mut writes: Vec<_> =
                (first..first + ROWS).map(|seq| accept(seq, &[ben()])).collect();
            // The last batch of a pass stays unconfirmed.
            writes.extend((first.saturating_sub(ROWS).max(1)..first).map(|s| confirm(s, &ben())));
            assert_eq!(commit(&*scene.store, &mesh, epoch, writes).await.unwrap(), committed());
        }
        let removed = scene.store.retain(i64::MAX).await.unwrap();
        let all = Retained { envelopes: BATCHES * ROWS, unconfirmed: ROWS };
        assert_eq!(removed, all, "in pass {pass}");
        assert_eq!(scene.store.queue_depth().await.unwrap(), 0);
    }
    // Each look at an index entry counts, dead or alive: a few for each row written, and for
    // each pass those that the passes before left behind.
    let removed = i64::try_from(3 * BATCHES * ROWS).unwrap();
    until("the counts are in", async || reads(&scene).await >= removed).await;
    let reads = reads(&scene).await;
    assert!(reads < 15 * removed, "{reads} index entries read for {removed} rows");
    drop(tx);
}

async fn reads(scene: &Scene) -> i64 {
    let query = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
        WHERE schemaname = 'broker' AND relname ~ '^(envelope|delivery|accepted)'";
    scene.count(query).await
}

/// Plans are made while the tables are empty and kept when they are not.
#[tokio::test]
async fn no_table_of_the_queue_is_ever_read_whole() {
    let scene = Scene::start().await;
    let (mesh, epoch) = scene.mesh("red").await;
    let all: Vec<Recipient> =
        (0..5).map(|n| Recipient::Session(format!("peer-{n}").into())).collect();
    // What the planner is told last is that there is nothing anywhere.
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut scene.connection().await).await.unwrap();
    for batch in 0..10u64 {
        let seqs = batch * 256 + 1..=(batch + 1) * 256;
        let mut writes: Vec<_> = seqs.map(|seq| accept(seq, &all)).collect();
        if batch > 0 {
            let before = (batch - 1) * 256 + 1..=batch * 256;
            writes.extend(before.flat_map(|seq| all.iter().map(move |r| confirm(seq, r))));
        }
        assert_eq!(commit(&*scene.store, &mesh, epoch, writes).await.unwrap(), committed());
        waiting(&*scene.store, &mesh, &all[0]).await;
    }
    scene.activate(&mesh).await;
    scene.store.retain(i64::MAX).await.unwrap();
    until("the counts are in", async || reads(&scene).await >= 9 * 256 * 5).await;
    let whole = sqlx::query(
        "SELECT relname FROM pg_stat_user_tables
         WHERE schemaname = 'broker' AND seq_tup_read > 0 AND relname NOT IN ('migration', 'node')",
    )
    .fetch_all(&mut scene.connection().await)
    .await
    .unwrap();
    let whole: Vec<String> = whole.iter().map(|row| row.get("relname")).collect();
    assert_eq!(whole, Vec::<String>::new());
    let (reads, rows) = (reads(&scene).await, 10 * 256 * 5);
    assert!(reads < 20 * rows, "{reads} index entries read for {rows} deliveries");
}

/// Several nodes start on an empty database at the same moment.
#[tokio::test]
async fn nodes_may_migrate_at_the_same_time() {
    let server = Server::shared();
    let url = server.url(&server.database().await);
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        nodes.spawn(async move { Postgres::connect(&url, 1).await?.migrate().await });
    }
    for outcome in nodes.join_all().await {
        outcome.unwrap();
    }
}

/// A database that has the identity tables already keeps its rows, and gets the rest.
#[tokio::test]
async fn a_database_of_the_reference_is_adopted() {
    let server = Server::shared();
    let url = server.url(&server.database().await);
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let theirs = "
        CREATE TABLE public.\"user\" (id text PRIMARY KEY);
        DROP INDEX mesh.member_mesh_pubkey_idx;
        ALTER TABLE mesh.mesh ADD FOREIGN KEY (owner_user_id) REFERENCES public.\"user\" (id);
        INSERT INTO public.\"user\" VALUES ('u');
        INSERT INTO mesh.mesh (id, name, slug, owner_user_id) VALUES ('m', 'Red', 'red', 'u');
        INSERT INTO mesh.member (id, mesh_id, peer_pubkey, display_name, default_groups)
            VALUES ('a', 'm', 'aa', 'Ana', '[{\"name\": \"team/red\"}]');";
    sqlx::raw_sql(include_str!("../../../migrations/postgres/0001_identity.sql"))
        .execute(&mut conn)
        .await
        .unwrap();
    sqlx::raw_sql(theirs).execute(&mut conn).await.unwrap();

    let store = Postgres::connect(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    let claim = Claim { pubkey: "aa".into(), session: None, place: None, hello: None };
    let identity = store.identify(&"m".into(), &claim).await.unwrap().unwrap();
    let member = identity.member.unwrap();
    assert_eq!((identity.mesh_name.as_str(), member.display_name.as_str()), ("Red", "Ana"));
    assert_eq!(member.default_groups[0].name, "team/red");
    assert_eq!(store.activate(&"m".into(), "node-1", 0).await.unwrap().unwrap().epoch, 1);
}

/// What cannot keep the promises is told; a private server with fsync is not.
#[tokio::test]
async fn a_safe_server_is_not_complained_about() {
    let scene = Scene::start().await;
    assert_eq!(scene.store.unsafe_settings().await.unwrap(), Vec::<String>::new());
}
