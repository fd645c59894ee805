//! Accepted once, written whole.

use std::sync::Arc;

use protocol::MessageId;
use protocol::client::Priority;

use super::Backend;
use super::scene::{ANY, NOTHING, Scene, accept, confirm, lease, normal, session};
use crate::model::{
    AcceptKey, Accepted, Duplicate, Lane, MeshCommit, Outcome, QueueId, Sender, Unit, Write,
};
use crate::store::StoreError;

/// Every field, whatever characters it holds, and a body of the largest size a frame allows.
pub async fn an_envelope_comes_back_as_it_was_accepted(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    let mut full = scene.envelope(1);
    full.sender = Arc::new(Sender {
        session_pubkey: Some("5e55".into()),
        name: "Ana ✂ \u{1F600} 'quoted' \\ \"twice\"".into(),
        ..(*full.sender).clone()
    });
    full.target = "@team/été, {braces}".into();
    full.priority = Priority::Now;
    full.fingerprint = Some("f".repeat(64));
    full.reply_to = Some(MessageId::at(77, 1).to_string());
    full.subtype = Some("reminder".to_owned());
    full.key = AcceptKey::Client(" odd\u{7f}key\n".to_owned());
    let mut big = scene.envelope(2);
    big.priority = Priority::Low;
    big.nonce = String::new();
    big.ciphertext = "A".repeat(1 << 20);
    big.key = AcceptKey::Link("conn-1/17".to_owned());
    scene.commit(vec![accept(full.clone(), &[&s1]), accept(big.clone(), &[&s1])]).await;

    let urgent = QueueId { recipient: s1.clone(), lane: Lane::Urgent };
    let page = scene.store.page(&scene.mesh, &urgent, 0, ANY).await.unwrap();
    assert_eq!(page.envelopes, [Arc::new(full)]);
    let page = scene.page(&s1, 0, ANY).await;
    assert_eq!(page.envelopes, [Arc::new(big)]);
}

/// The original's id and fingerprint; no second envelope, no second delivery.
pub async fn a_retry_is_answered_with_the_original_and_writes_nothing(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (s1, s2) = (session("s1"), session("s2"));
    let mut original = scene.envelope(1);
    original.fingerprint = Some("print".to_owned());
    scene.commit(vec![accept(original.clone(), &[&s1])]).await;

    let mut retry = scene.envelope(2);
    retry.key = original.key.clone();
    retry.fingerprint = Some("other print".to_owned());
    let outcome = scene.try_commit(vec![accept(retry, &[&s2]), scene.accept(3, &[])]).await;
    let known = Accepted { message: original.id.clone(), fingerprint: Some("print".to_owned()) };
    let duplicates = vec![Duplicate { seq: 2, original: known.clone() }];
    assert_eq!(outcome, Outcome::Committed { duplicates });
    assert_eq!(scene.waiting(&s1).await, [1]);
    assert_eq!(scene.waiting(&s2).await, NOTHING);

    // The very same envelope again, as after an unknown outcome.
    let outcome = scene.try_commit(vec![accept(original, &[&s1])]).await;
    let duplicates = vec![Duplicate { seq: 1, original: known.clone() }];
    assert_eq!(outcome, Outcome::Committed { duplicates });
    assert_eq!(scene.waiting(&s1).await, [1]);

    // And after everybody has it.
    scene.commit(vec![confirm(&scene.envelope(1), &s1)]).await;
    let mut late = scene.envelope(4);
    late.key = scene.envelope(1).key;
    let outcome = scene.try_commit(vec![accept(late, &[&s1])]).await;
    assert_eq!(
        outcome,
        Outcome::Committed { duplicates: vec![Duplicate { seq: 4, original: known }] }
    );
    assert_eq!(scene.waiting(&s1).await, NOTHING);
}

/// The first of them counts.
pub async fn a_key_given_twice_in_one_commit_is_accepted_once(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    let mut second = scene.envelope(2);
    second.key = scene.envelope(1).key;
    let outcome = scene
        .try_commit(vec![scene.accept(1, &[&s1]), accept(second, &[&s1]), scene.accept(3, &[&s1])])
        .await;
    let original = Accepted { message: scene.envelope(1).id, fingerprint: None };
    assert_eq!(outcome, Outcome::Committed { duplicates: vec![Duplicate { seq: 2, original }] });
    assert_eq!(scene.waiting(&s1).await, [1, 3]);
}

/// Clients choose their keys, so they could choose the link's.
pub async fn keys_of_clients_and_of_the_link_do_not_collide(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    let keyed = |seq, key| {
        let mut envelope = scene.envelope(seq);
        envelope.key = key;
        accept(envelope, &[&s1])
    };
    scene
        .commit(vec![
            keyed(1, AcceptKey::Link("conn/1".to_owned())),
            keyed(2, AcceptKey::Client("conn/1".to_owned())),
        ])
        .await;
    assert_eq!(scene.waiting(&s1).await, [1, 2]);
}

/// The scope of a key is (mesh, sender member).
pub async fn the_same_key_of_another_member_or_mesh_is_another_key(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let s1 = session("s1");
    let mut bens = red.envelope(2);
    bens.key = red.envelope(1).key;
    bens.sender = Arc::new(Sender { member: red.ben(), ..(*bens.sender).clone() });
    let mut blues = blue.envelope(1);
    blues.sender = red.envelope(1).sender;
    let batch = [
        red.to_commit(vec![red.accept(1, &[&s1]), accept(bens, &[&s1])]),
        blue.to_commit(vec![accept(blues, &[&s1])]),
    ];
    let outcomes = red.store.commit(0, &batch).await.unwrap();
    let fine = Outcome::Committed { duplicates: vec![] };
    assert_eq!(outcomes, [fine.clone(), fine]);
    assert_eq!(red.waiting(&s1).await, [1, 2]);
    assert_eq!(blue.waiting(&s1).await, [1]);
}

/// `accepted`, also once nobody waits for the envelope.
pub async fn what_a_key_was_accepted_as_can_be_asked(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let mut sent = scene.envelope(1);
    sent.fingerprint = Some("print".to_owned());
    scene.commit(vec![accept(sent.clone(), &[])]).await;
    let ask = async |member, key| scene.store.accepted(&scene.mesh, &member, &key).await.unwrap();
    let known = Accepted { message: sent.id.clone(), fingerprint: sent.fingerprint.clone() };
    assert_eq!(ask(scene.ana(), sent.key.clone()).await, Some(known));
    assert_eq!(ask(scene.ben(), sent.key.clone()).await, None);
    let links = AcceptKey::Link(sent.key.as_str().to_owned());
    assert_eq!(ask(scene.ana(), links).await, None);
    assert_eq!(ask(scene.ana(), AcceptKey::Client("key-2".to_owned())).await, None);
}

/// Only the accept writes nothing.
pub async fn a_duplicate_does_not_stop_the_rest_of_its_unit(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit(vec![scene.accept(1, &[&session("s1")])]).await;
    let mut retry = scene.envelope(2);
    retry.key = scene.envelope(1).key;
    let commit = MeshCommit {
        mesh: scene.mesh.clone(),
        epoch: scene.epoch,
        units: vec![Unit(vec![accept(retry, &[&session("s1")]), lease("p1", false)])],
    };
    let outcomes = scene.store.commit(0, &[commit]).await.unwrap();
    assert!(matches!(&outcomes[0], Outcome::Committed { duplicates } if duplicates.len() == 1));
    assert_eq!(scene.activate("node-1").await.leases.len(), 1);
}

/// A place that is taken by another message is data that no backend takes.
pub async fn bad_data_writes_nothing_of_the_batch(backend: &dyn Backend) {
    let mut red = Scene::red(backend).await;
    let mut blue = Scene::named(backend, "blue").await;
    let s1 = session("s1");
    red.commit(vec![red.accept(1, &[&s1])]).await;
    let mut broken = red.envelope(1);
    broken.id = MessageId::at(1, 424_242);
    broken.key = AcceptKey::Client("new".to_owned());
    let batch = [
        blue.to_commit(vec![
            blue.accept(1, &[&s1]),
            lease("p1", false),
            Write::RecordKey { key: "5e55".into(), member: blue.ana() },
        ]),
        red.to_commit(vec![
            red.accept(2, &[&s1]),
            confirm(&red.envelope(1), &s1),
            accept(broken, &[&s1]),
            lease("p1", false),
        ]),
    ];
    let refused = red.store.commit(0, &batch).await;
    assert!(matches!(refused, Err(StoreError::BadData(_))), "{refused:?}");

    assert_eq!(red.waiting(&s1).await, [1]);
    assert_eq!(blue.waiting(&s1).await, NOTHING);
    let found = red.activate("node-1").await;
    assert_eq!((found.tail, found.leases.len()), (1, 0));
    let found = blue.activate("node-1").await;
    assert_eq!((found.tail, found.leases.len()), (0, 0));
    for key in ["new", "key-2"] {
        let key = AcceptKey::Client(key.to_owned());
        assert_eq!(red.store.accepted(&red.mesh, &red.ana(), &key).await.unwrap(), None);
    }
    // The store is as good as before.
    red.commit(vec![red.accept(2, &[&s1])]).await;
    assert_eq!(red.waiting(&s1).await, [1, 2]);
}

/// Units are written in order.
pub async fn later_units_of_a_commit_see_the_earlier_ones(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let (s1, p1) = (session("s1"), super::scene::presence("p1"));
    let bens = crate::model::Recipient::Member(scene.ben());
    let inherit = Write::Inherit { from: "p1".into(), to: scene.ben() };
    scene
        .commit(vec![
            scene.accept(1, &[&s1]),
            confirm(&scene.envelope(1), &s1),
            scene.accept(2, &[&p1]),
            inherit,
            confirm(&scene.envelope(2), &p1),
            scene.accept(3, &[&p1]),
            scene.accept(4, &[&bens]),
            confirm(&scene.envelope(4), &bens),
            lease("p1", false),
            Write::DropLease("p1".into()),
            Write::DropLease("p2".into()),
            lease("p2", true),
            lease("p3", true),
            lease("p3", false),
        ])
        .await;
    assert_eq!(scene.waiting(&s1).await, NOTHING);
    assert_eq!(scene.waiting(&p1).await, [3], "accepted after the move");
    assert_eq!(scene.waiting(&bens).await, [2], "moved before the presence confirmed");
    let mut leases = scene.activate("node-1").await.leases;
    leases.sort_by(|a, b| a.row.presence.cmp(&b.row.presence));
    let found: Vec<_> =
        leases.iter().map(|lease| (lease.row.presence.as_str(), lease.row.away)).collect();
    assert_eq!(found, [("p2", true), ("p3", false)]);
}

/// Sizes that no fixed number of rows divides.
pub async fn a_batch_of_many_meshes_and_rows_is_written_whole(backend: &dyn Backend) {
    let mut scenes = Vec::new();
    for index in 0..7 {
        scenes.push(Scene::named(backend, &format!("mesh{index}")).await);
    }
    let (s1, s2) = (session("s1"), session("s2"));
    let accepts =
        |scene: &Scene, count: u64| (1..=count).map(|seq| scene.accept(seq, &[&s1, &s2])).collect();
    let batch: Vec<_> =
        scenes.iter().zip(0..).map(|(scene, n)| scene.to_commit(accepts(scene, n * 29))).collect();
    let fine = Outcome::Committed { duplicates: vec![] };
    let outcomes = scenes[0].store.commit(0, &batch).await.unwrap();
    assert_eq!(outcomes, vec![fine.clone(); 7], "one of them had nothing to write");

    let confirms = |scene: &Scene, count: u64| {
        (1..=count)
            .filter(|seq| seq % 3 != 0)
            .map(|seq| confirm(&scene.envelope(seq), &s1))
            .collect()
    };
    let batch: Vec<_> =
        scenes.iter().zip(0..).map(|(scene, n)| scene.to_commit(confirms(scene, n * 29))).collect();
    assert_eq!(scenes[0].store.commit(0, &batch).await.unwrap(), vec![fine; 7]);
    for (scene, n) in scenes.iter().zip(0u64..) {
        let all: Vec<_> = (1..=n * 29).collect();
        let thirds: Vec<_> = all.iter().copied().filter(|seq| seq % 3 == 0).collect();
        assert_eq!(scene.waiting(&s1).await, thirds);
        assert_eq!(scene.waiting(&s2).await, all);
        let depth = scene.store.page(&scene.mesh, &normal(&s2), 0, ANY).await.unwrap().depth;
        assert_eq!(depth, all.len());
    }
    assert_eq!(scenes[0].store.commit(0, &[]).await.unwrap(), [], "nothing asked, nothing done");
}
