//! What keeps the store from growing: bytes of what waits, the age of session keys, kicks; and who
//! was removed beside the broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::MemberId;

use super::Backend;
use super::scene::{Scene, accept, confirm, place, presence, session};
use crate::model::{KICKED_MOST, Kicked, LeaseRow, Membership, QueueBytes, Recipient, Write};

fn holds(member: MemberId, presence: &str, body: &str) -> Write {
    Write::SaveLease(LeaseRow {
        presence: presence.into(),
        body: body.to_owned(),
        away: false,
        member,
        place: place(presence),
    })
}

/// Of each mesh asked about, and of those that hold leases: also of a mesh or member that is gone.
pub async fn memberships_tell_who_was_removed_and_who_moderates(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let asked = [red.mesh.clone(), blue.mesh.clone(), "nowhere".into()];
    let told = async || -> BTreeMap<_, Membership> {
        red.store.memberships(&asked).await.unwrap().into_iter().collect()
    };
    let archived = Membership { archived: true, ..Membership::default() };
    let found = told().await;
    assert_eq!(found.len(), 3);
    assert_eq!((&found[&asked[0]], &found[&asked[2]]), (&Membership::default(), &archived));

    red.commit(vec![
        holds(red.ana(), "p1", "{}"),
        holds(red.ana(), "p2", "{}"),
        holds(red.ben(), "p3", "{}"),
        holds("stranger".into(), "p4", "{}"),
        holds("".into(), "p5", "{}"),
    ])
    .await;
    blue.commit(vec![holds(blue.ben(), "p1", "{}")]).await;
    let admin = format!("UPDATE {{mesh}}member SET role = 'admin' WHERE id = '{}'", red.ana());
    backend.run(&admin).await;
    let mut expected = Membership::default();
    expected.add(red.ana(), false, true);
    expected.add("stranger".into(), true, false);
    expected.add(red.ben(), false, false);
    assert_eq!(told().await[&red.mesh], expected);
    backend.revoke(&red.ana()).await;
    backend.archive(&blue.mesh).await;
    let found = told().await;
    let removed = [red.ana(), "stranger".into()].into();
    let plain = [red.ben()].into();
    assert_eq!(found[&red.mesh], Membership { removed, plain, ..Membership::default() });
    assert!(found[&blue.mesh].archived);
    assert_eq!(red.store.memberships(&[]).await.unwrap(), []);
}

fn kicked(key: &str, left_ms: u64) -> Kicked {
    Kicked { key: key.into(), member: "m".into(), name: format!("of {key}"), left_ms }
}

/// The next owner reads what is left; what is over, or lifted, is forgotten.
pub async fn a_kicked_key_stays_out_until_its_time_is_over(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    blue.commit(vec![Write::Kick(kicked("elsewhere", 50_000))]).await;
    let kicks = ["a", "b", "c"].map(|key| Write::Kick(kicked(key, 1_000_000)));
    scene.commit(kicks.into()).await;
    scene.commit(vec![Write::Kick(kicked("b", 2_000_000)), Write::Kick(kicked("d", 0))]).await;
    scene.commit(vec![Write::LiftKicks(vec!["a".into(), "nobody".into()])]).await;
    let found = scene.activate("node-2").await.kicked;
    let keys: Vec<_> = found.iter().map(|kicked| &*kicked.key).collect();
    assert_eq!(keys, ["b", "c"], "the longest first");
    let left = found[0].left_ms;
    assert!((1_000_001..=2_000_000).contains(&left), "{left} ms are left");
    assert_eq!(found[0], Kicked { left_ms: left, ..kicked("b", 0) });
    scene.store.retain(0).await.unwrap();
    let rows = "SELECT key FROM {broker}kicked ORDER BY key";
    assert_eq!(backend.texts(rows).await, ["b", "c", "elsewhere"]);
}

/// Whoever kicks all day does not fill the store.
pub async fn no_more_kicks_are_kept_than_a_mesh_remembers(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let many: Vec<u64> = (0..KICKED_MOST as u64 + 20).collect();
    let kick = |n: &u64| Write::Kick(kicked(&format!("key-{n}"), 1_000_000 + 1_000 * n));
    // A hundred at once, as a full mesh has them.
    for some in many.chunks(100) {
        scene.commit(some.iter().map(kick).collect()).await;
    }
    let found = scene.activate("node-2").await.kicked;
    assert_eq!(found.len(), KICKED_MOST);
    assert_eq!(&*found[0].key, format!("key-{}", KICKED_MOST + 19));
    let rows = backend.texts("SELECT key FROM {broker}kicked").await;
    assert_eq!(rows.len(), KICKED_MOST);
}

fn sums(bytes: QueueBytes) -> (u64, BTreeMap<String, u64>) {
    let recipients = bytes.recipients.into_iter().map(|(to, bytes)| (to.to_string(), bytes));
    (bytes.mesh, recipients.collect())
}

/// Confirmed, inherited, taken back, expired: each gives back what it should.
pub async fn bytes_that_wait_are_known(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let waits = async || sums(scene.store.queue_bytes(&scene.mesh).await.unwrap());
    assert_eq!(waits().await, (0, BTreeMap::new()));
    let (s1, s2, p1) = (session("s1"), session("s2"), presence("p1"));
    let sized = |seq, bytes: usize, to: &[&Recipient]| {
        let mut envelope = scene.envelope(seq);
        envelope.ciphertext = "é".repeat(bytes / 2);
        envelope.nonce = String::new();
        accept(envelope, to)
    };
    scene
        .commit(vec![
            sized(1, 1_000, &[&s1]),
            sized(2, 100, &[&s1, &s2, &p1]),
            sized(3, 10, &[&p1]),
            sized(4, 500, &[]),
        ])
        .await;
    let named = |all: &[(&str, u64)]| -> BTreeMap<_, _> {
        all.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    };
    assert_eq!(waits().await, (1_110, named(&[("s:s1", 1_100), ("s:s2", 100), ("p:p1", 110)])));
    // As a version before would have written them.
    backend.run("UPDATE {broker}delivery SET bytes = NULL WHERE recipient = 's:s1'").await;
    assert_eq!(waits().await, (1_110, named(&[("s:s1", 1_100), ("s:s2", 100), ("p:p1", 110)])));

    scene.commit(vec![confirm(&scene.envelope(2), &s1)]).await;
    assert_eq!(waits().await, (1_110, named(&[("s:s1", 1_000), ("s:s2", 100), ("p:p1", 110)])));
    scene.commit(vec![Write::Inherit { from: "p1".into(), to: scene.ben() }]).await;
    let ben = Recipient::Member(scene.ben()).to_string();
    assert_eq!(waits().await, (1_110, named(&[("s:s1", 1_000), ("s:s2", 100), (&ben, 110)])));
    scene.commit(vec![confirm(&scene.envelope(2), &s2)]).await;
    assert_eq!(waits().await, (1_110, named(&[("s:s1", 1_000), (&ben, 110)])));
    let purge = Write::Purge { member: scene.ben(), presences: vec![] };
    scene.try_commit(vec![purge]).await;
    assert_eq!(waits().await, (1_000, named(&[("s:s1", 1_000)])));
    scene.store.retain(i64::MAX).await.unwrap();
    assert_eq!(waits().await, (0, BTreeMap::new()));
}

/// Not while a presence holds the key, nor while something waits for it.
pub async fn session_keys_are_forgotten_when_nobody_proves_them(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let record = |key: &str, member: MemberId| Write::RecordKey { key: key.into(), member };
    let keys = ["young", "old", "held", "awaited", "again"];
    scene.commit(keys.map(|key| record(key, scene.ana())).into()).await;
    let left = async || -> Vec<String> {
        scene.store.retain(0).await.unwrap();
        backend.texts("SELECT key FROM {broker}session_key ORDER BY key").await
    };
    assert_eq!(left().await, ["again", "awaited", "held", "old", "young"]);
    let age = "UPDATE {broker}session_key SET proven_at = {nine_days_ago} WHERE key <> 'young'";
    backend.run(age).await;
    let age = "UPDATE {broker}session_key SET proven_at = {seven_days_ago} WHERE key = 'young'";
    backend.run(age).await;
    let mut fresh = scene.envelope(1);
    fresh.created_at = i64::MAX / 2;
    scene
        .commit(vec![
            holds(scene.ana(), "p1", "{\"session_pubkey\":\"held\"}"),
            accept(fresh.clone(), &[&session("awaited")]),
            record("again", scene.ana()),
            // Of another member: it proves nothing.
            record("old", scene.ben()),
        ])
        .await;
    assert_eq!(left().await, ["again", "awaited", "held", "young"]);
    scene.commit(vec![Write::DropLease("p1".into()), confirm(&fresh, &session("awaited"))]).await;
    assert_eq!(left().await, ["again", "young"]);
}

/// A session that reconnects again and again does not write each time.
pub async fn a_proof_is_noted_every_few_hours(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let key: Arc<str> = "key".into();
    let record = || Write::RecordKey { key: key.clone(), member: scene.ana() };
    scene.commit(vec![record()]).await;
    let proven = "SELECT CAST(proven_at AS text) FROM {broker}session_key";
    let first = backend.texts(proven).await;
    scene.commit(vec![record(), record()]).await;
    assert_eq!(backend.texts(proven).await, first);
    backend.run("UPDATE {broker}session_key SET proven_at = {yesterday}").await;
    let old = backend.texts(proven).await;
    scene.commit(vec![record()]).await;
    assert_ne!(backend.texts(proven).await, old);
}
