//! A database that the reference broker has lived in: taken over as it is, its queue delivered,
//! and the reference still able to run on it.

use std::sync::Arc;

use broker::model::{
    AcceptKey, AuditQuery, Claim, Joined, Joining, Lane, MeshCommit, NewMesh, Outcome, Page,
    PageLimit, Place, QueueId, Recipient, User,
};
use broker::store::postgres::Postgres;
use broker::store::{Store, StoreError};
use protocol::MessageId;
use protocol::client::Priority;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::node::{Ground, Member, Mesh, Node};
use crate::support::peer::{TestPeer, fresh_key};
use crate::support::postgres::Server;

const REFERENCE: &str = include_str!("fixtures/reference.sql");
const AUDIT: &str = include_str!("fixtures/reference_audit.sql");
const SCHEMA_PUSH: &str = include_str!("fixtures/schema_push.sql");
const RUNS: &str = include_str!("fixtures/reference_runs.sql");
const OTHER_NAME: &str = "ALTER TABLE mesh.invite RENAME capability_v2 TO capability_v_2";

struct Adopted {
    server: Arc<Server>,
    database: String,
    store: Postgres,
}

impl Adopted {
    /// What a broker does when it starts.
    async fn adopt(&self) {
        self.store.migrate().await.unwrap();
        self.store.adopt().await.unwrap();
    }

    /// As its 30 migrations leave it, changed by what is given; not migrated by us.
    async fn found(changes: &[&'static str]) -> Self {
        let server = Server::shared();
        let database = server.database().await;
        let url = server.url(&database);
        let mut conn = PgConnection::connect(&url).await.unwrap();
        for sql in [&[REFERENCE, AUDIT], changes].concat() {
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        }
        let store = Postgres::connect(&url, 1).await.unwrap();
        Self { server, database, store }
    }

    /// And migrated.
    async fn start() -> Self {
        let adopted = Self::found(&[]).await;
        adopted.adopt().await;
        adopted
    }

    async fn execute(&self, sql: &str) {
        let mut conn = PgConnection::connect(&self.server.url(&self.database)).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }

    /// A list of texts, in their order.
    async fn texts(&self, query: &str) -> Vec<String> {
        let mut conn = PgConnection::connect(&self.server.url(&self.database)).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut conn).await.unwrap()
    }

    async fn page(&self, recipient: Recipient, lane: Lane) -> Page {
        let limit = PageLimit { rows: 100, bytes: 1 << 20 };
        self.store.page(&"red".into(), &QueueId { recipient, lane }, 0, limit).await.unwrap()
    }

    /// What waits for a recipient in both lanes: the reference's ids, as its bodies spell them.
    async fn waiting(&self, recipient: Recipient) -> Vec<String> {
        let mut found = Vec::new();
        for lane in Lane::ALL {
            let page = self.page(recipient.clone(), lane).await;
            found.extend(page.envelopes.iter().map(|e| e.ciphertext.replacen("c-", "", 1)));
        }
        found
    }
}

fn member(id: &str) -> Recipient {
    Recipient::Member(id.into())
}

fn claim(pubkey: &str) -> Claim {
    let place = Place { session_id: "s".to_owned(), cwd: "/".to_owned(), pid: 1 };
    Claim { pubkey: pubkey.repeat(32).into(), session: None, place: Some(place), hello: None }
}

#[tokio::test]
async fn its_variants_are_all_taken_over_and_twice_is_once() {
    for changes in [&[][..], &[SCHEMA_PUSH], &[OTHER_NAME], &[SCHEMA_PUSH, OTHER_NAME]] {
        let adopted = Adopted::found(changes).await;
        adopted.adopt().await;
        let depth = adopted.store.queue_depth().await.unwrap();
        let count = "SELECT count(*)::text FROM broker.envelope";
        let envelopes = adopted.texts(count).await;
        adopted.adopt().await;
        assert_eq!(adopted.store.queue_depth().await.unwrap(), depth);
        assert_eq!(adopted.texts(count).await, envelopes);
        assert_eq!((depth, envelopes), (9, vec!["7".to_owned()]));
    }
}

#[tokio::test]
async fn its_people_are_who_they_were() {
    let adopted = Adopted::start().await;
    let identify =
        async |key| adopted.store.identify(&"red".into(), &claim(key)).await.unwrap().unwrap();
    let ana = identify("aa").await;
    assert_eq!(ana.mesh_name, "The red mesh");
    assert_eq!(ana.saved, None);
    let ana = ana.member.unwrap();
    assert!(ana.owner && ana.may_moderate() && ana.default_groups.is_empty());
    let ben = identify("bb").await.member.unwrap();
    assert!(!ben.owner && !ben.may_moderate() && !ben.grants.is_empty());
    assert_eq!(ben.default_groups[0].name, "team/core");
    let cleo = identify("cc").await.saved.unwrap();
    assert_eq!((cleo.groups[0].name.as_str(), cleo.visible), ("team", false));
    assert_eq!(cleo.profile.title.as_deref(), Some("Reviewer"));
    assert_eq!(cleo.summary.as_deref(), Some("reviewing"));
    assert_eq!((cleo.stats.messages_in, cleo.stats.messages_out, cleo.stats.tool_calls), (7, 3, 0));
    assert_eq!(cleo.seen_at, Some(1_770_091_506_789));
    assert!(identify("dd").await.member.unwrap().revoked);
    assert_eq!(identify("ee").await.member, None);
    let bans = adopted.store.bans(&"red".into()).await.unwrap();
    assert_eq!(bans.iter().map(|ban| ban.name.as_str()).collect::<Vec<_>>(), ["Dora"]);
    let topic = adopted.store.topic(&"red".into(), "plans").await.unwrap().unwrap();
    assert_eq!(topic.members, ["ana".into(), "cleo".into()]);
}

#[tokio::test]
async fn what_it_had_not_delivered_waits_for_whom_it_was_meant_in_its_order() {
    let adopted = Adopted::start().await;
    // q05 is for a group above Ben's, which is also the one that Cleo last was in.
    assert_eq!(adopted.waiting(member("ben")).await, ["q01", "q02", "q04", "q05"]);
    assert_eq!(adopted.waiting(member("cleo")).await, ["q04", "q05", "q06", "q07"]);
    let session = Recipient::Session("b5".repeat(32).into());
    assert_eq!(adopted.waiting(session).await, ["q03"]);
    assert_eq!(adopted.waiting(member("ana")).await, Vec::<String>::new());

    let page = adopted.page(member("ben"), Lane::Normal).await;
    let first = &page.envelopes[0];
    assert_eq!(MessageId::position(first.id.as_str()), Some(first.seq));
    assert_eq!((first.nonce.as_str(), first.target.as_str()), ("n-q01", &*"bb".repeat(32)));
    assert_eq!((first.sender.pubkey(), &*first.sender.name), (&*"a5".repeat(32), "Ana"));
    let second = &page.envelopes[1];
    assert_eq!((second.priority, second.key.client_id()), (Priority::Low, Some("client-2")));
    assert_eq!(second.fingerprint.as_deref(), Some("fp-2"));
    let topic = adopted.page(member("cleo"), Lane::Normal).await.envelopes[2].clone();
    assert_eq!(topic.topic.as_deref(), Some("plans"));

    // A session that proves its key is Ben's.
    let proven = Claim { session: Some("b5".repeat(32).into()), ..claim("bb") };
    let found = adopted.store.identify(&"red".into(), &proven).await.unwrap().unwrap();
    assert_eq!(found.key_member, Some("ben".into()));
}

#[tokio::test]
async fn what_is_taken_over_is_not_delivered_by_the_reference_as_well() {
    let adopted = Adopted::start().await;
    let left = "SELECT id FROM mesh.message_queue WHERE delivered_at IS NULL ORDER BY id";
    assert_eq!(adopted.texts(left).await, ["x2", "x3", "x4", "x5", "x6", "x7"]);
}

#[tokio::test]
async fn a_retry_across_the_seam_is_recognized() {
    let adopted = Adopted::start().await;
    let key = AcceptKey::Client("client-2".to_owned());
    let known = adopted.store.accepted(&"red".into(), &"cleo".into(), &key).await.unwrap().unwrap();
    let page = adopted.page(member("ben"), Lane::Normal).await;
    assert_eq!(known.message, page.envelopes[1].id);
    assert_eq!(known.fingerprint.as_deref(), Some("fp-2"));
}

/// An owner runs while another node starts: it must not give out the same places.
#[tokio::test]
async fn an_owner_that_runs_meanwhile_notices() {
    let adopted = Adopted::start().await;
    let owned = adopted.store.activate(&"red".into(), "node-1", 0).await.unwrap().unwrap();
    assert_eq!(owned.tail, 7);
    let commit = |epoch| MeshCommit { mesh: "red".into(), epoch, units: Vec::new() };
    adopted.adopt().await;
    let outcomes = adopted.store.commit(0, &[commit(owned.epoch)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Committed { purged: 0 }], "there was nothing to take");

    adopted.execute("UPDATE mesh.message_queue SET delivered_at = NULL WHERE id = 'x1'").await;
    adopted.adopt().await;
    let outcomes = adopted.store.commit(0, &[commit(owned.epoch)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Fenced]);
    let owned = adopted.store.activate(&"red".into(), "node-1", 0).await.unwrap().unwrap();
    assert_eq!(owned.tail, 8);
    assert_eq!(adopted.waiting(member("ben")).await.last().unwrap(), "x1");
}

#[tokio::test]
async fn nodes_that_start_at_once_take_each_message_once() {
    let adopted = Adopted::found(&[]).await;
    let url = adopted.server.url(&adopted.database);
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        nodes.spawn(async move {
            let store = Postgres::connect(&url, 1).await?;
            store.migrate().await?;
            store.adopt().await
        });
    }
    for outcome in nodes.join_all().await {
        outcome.unwrap();
    }
    assert_eq!(adopted.store.queue_depth().await.unwrap(), 9);
}

#[tokio::test]
async fn its_audit_chain_can_be_read_and_checked() {
    let adopted = Adopted::start().await;
    let chain = adopted.store.audit_from(&"red".into(), 0, 100).await.unwrap();
    let mut before = "genesis".to_owned();
    let times = ["2026-02-03T04:05:06.007Z", "2026-02-03T04:05:07.120Z"];
    for (entry, (at, ms)) in
        chain.iter().zip(times.iter().zip([1_770_091_506_007, 1_770_091_507_120]))
    {
        assert_eq!(entry.created_at, ms);
        let actor = entry.actor.as_deref().unwrap_or("null");
        // Keys of a parsed object are sorted.
        let text = format!("{before}|red|{}|{actor}|{}|{at}", entry.event, entry.payload);
        assert_eq!(entry.prev_hash, before);
        assert_eq!(entry.hash, hex::encode(Sha256::digest(text.as_bytes())));
        before.clone_from(&entry.hash);
    }
    assert_eq!(chain.len(), 2);
    let query = AuditQuery { limit: 50, offset: 0, event: None, reader: None };
    let (newest, total) = adopted.store.audit(&"red".into(), &query).await.unwrap();
    assert_eq!((newest[0].event.as_str(), total), ("peer_left", 2));
    let owned = adopted.store.activate(&"red".into(), "node-1", 0).await.unwrap().unwrap();
    assert_eq!(owned.audit_hash, Some(before));
}

/// Its people, with keys of their own, connect to a broker on it; then it is the reference's again.
#[tokio::test]
async fn its_peers_connect_get_their_mail_and_leave_the_chain_whole() {
    let adopted = Adopted::found(&[]).await;
    let mut members = Vec::new();
    for (name, key) in [("ana", "aa"), ("ben", "bb")] {
        let own = fresh_key();
        let pubkey = own.public_hex();
        adopted
            .execute(&format!(
                "UPDATE mesh.member SET peer_pubkey = '{pubkey}' WHERE id = '{name}';
                 UPDATE mesh.message_queue SET target_spec = '{pubkey}'
                 WHERE target_spec = repeat('{key}', 32)"
            ))
            .await;
        members.push(Member { id: name.to_owned(), name: name.to_owned(), pubkey, key: own });
    }
    let mesh = Mesh { id: "red".to_owned(), invite_url: String::new(), members };
    let ground = Ground::of(adopted.server.clone(), &adopted.database);
    let mut node = Node::start_on(ground, &[]).await;
    let mut ana = TestPeer::session(&node, &mesh, "ana").await;
    let mut ben = TestPeer::session(&node, &mesh, "ben").await;
    let mail = ben.next_push().await;
    assert!(mail["ciphertext"].as_str().unwrap().starts_with("c-"), "{mail}");
    ana.send(&ben, "after the seam").await.acknowledged();
    ben.take("the new message", |frame| frame["ciphertext"] == "after the seam").await;
    let verified = ana.ask(json!({"type": "audit_verify"})).await;
    // Two of the reference's, two who joined, one message.
    assert_eq!((&verified["valid"], &verified["entries"]), (&json!(true), &json!(5)), "{verified}");
    assert_eq!(node.terminate().await, Some(0));
    adopted.execute(RUNS).await;
}

#[tokio::test]
async fn the_reference_can_still_run_on_it() {
    for changes in [&[][..], &[SCHEMA_PUSH, OTHER_NAME]] {
        let adopted = Adopted::found(changes).await;
        adopted.execute(RUNS).await;
        adopted.adopt().await;
        adopted.execute(RUNS).await;
        let ids = "SELECT data_type::text FROM information_schema.columns
            WHERE table_schema = 'mesh' AND table_name = 'audit_log' AND column_name = 'id'";
        assert_eq!(adopted.texts(ids).await, ["integer"], "it reads numbers");
    }
}

#[tokio::test]
async fn its_invites_are_honoured() {
    let adopted = Adopted::start().await;
    let joining = |member: &str| Joining {
        token: "token-1".to_owned(),
        mesh: "red".into(),
        owner_pubkey: "0f".repeat(32),
        role: "member".to_owned(),
        member: member.into(),
        pubkey: "ee".repeat(32),
        display_name: "Eve".to_owned(),
        now: 1_770_000_000_000,
    };
    let joined = adopted.store.join(&joining("eve")).await.unwrap();
    assert_eq!(joined, Joined::New("eve".into()));
    let again = adopted.store.join(&joining("eve2")).await.unwrap();
    assert_eq!(again, Joined::Already("eve".into()));
    let found = adopted.store.identify(&"red".into(), &claim("ee")).await.unwrap().unwrap();
    let eve = found.member.unwrap();
    assert_eq!(
        (eve.display_name.as_str(), eve.default_groups[0].name.as_str()),
        ("Eve the tester", "qa")
    );
}

#[tokio::test]
async fn its_users_are_listed_and_own_what_is_made() {
    let adopted = Adopted::start().await;
    let user = |id: &str, name: &str, email: &str| User {
        id: id.to_owned(),
        name: name.to_owned(),
        email: email.to_owned(),
    };
    let expected = [
        user("user-ana", "Ana Lovelace", "ana@example.org"),
        user("user-zoe", "Zoe", "zoe@example.org"),
    ];
    assert_eq!(adopted.store.users().await.unwrap(), expected);
    let mesh = |owner: &str| NewMesh {
        id: "green".into(),
        slug: "green".to_owned(),
        name: "Green".to_owned(),
        owner_user: owner.to_owned(),
        owner_pubkey: "0a".repeat(32),
        owner_secret_key: String::new(),
        root_key: String::new(),
        members: Vec::new(),
        created_at: 1_770_000_000_000,
    };
    let nobody = adopted.store.create_mesh(&mesh("local")).await;
    assert!(matches!(nobody, Err(StoreError::BadData(_))), "{nobody:?}");
    assert!(adopted.store.create_mesh(&mesh("user-zoe")).await.unwrap());
}
