//! Accepted once, written whole.

use std::sync::Arc;

use protocol::MessageId;
use protocol::client::Priority;

use super::Backend;
use super::scene::{ANY, NOTHING, Scene, accept, audit, confirm, fine, lease, normal, session};
use crate::model::{AcceptKey, Accepted, Duplicate, Lane, Outcome, QueueId, Sender, Write};
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
    full.topic = Some("plans & gossip".into());
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
    let known = |seq| {
        let message = original.id.clone();
        let original = Accepted { message, fingerprint: Some("print".to_owned()) };
        Outcome::Known(vec![Duplicate { seq, original }])
    };
    let outcome = scene.try_commit(vec![scene.accept(3, &[&s2]), accept(retry, &[&s2])]).await;
    assert_eq!(outcome, known(2));
    assert_eq!(scene.waiting(&s1).await, [1]);
    assert_eq!(scene.waiting(&s2).await, NOTHING);

    // The very same envelope again, as after an unknown outcome.
    assert_eq!(scene.try_commit(vec![accept(original.clone(), &[&s1])]).await, known(1));
    assert_eq!(scene.waiting(&s1).await, [1]);

    // And after everybody has it.
    scene.commit(vec![confirm(&scene.envelope(1), &s1)]).await;
    let mut late = scene.envelope(4);
    late.key = scene.envelope(1).key;
    assert_eq!(scene.try_commit(vec![accept(late, &[&s1])]).await, known(4));
    assert_eq!(scene.waiting(&s1).await, NOTHING);
}

/// Nobody could say which of them it belongs to. Nothing is written.
pub async fn a_key_given_twice_in_one_commit_is_bad_data(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    let twice = || {
        let mut second = scene.envelope(2);
        second.key = scene.envelope(1).key;
        vec![scene.accept(1, &[&s1]), accept(second, &[&s1])]
    };
    let mut apart = twice();
    apart.insert(1, confirm(&scene.envelope(1), &s1));
    for writes in [twice(), apart] {
        let refused = scene.store.commit(0, &[scene.to_commit(writes)]).await;
        assert!(matches!(refused, Err(StoreError::BadData(_))), "{refused:?}");
    }
    let key = scene.envelope(1).key;
    assert_eq!(scene.store.accepted(&scene.mesh, &scene.ana(), &key).await.unwrap(), None);
    assert_eq!(scene.waiting(&s1).await, NOTHING);
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
    assert_eq!(outcomes, [fine(), fine()]);
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

/// The audit chain of a mesh runs through everything that it writes, so a known key stops all of
/// it: units before and behind, of every kind, whatever order they have to be written in. The other
/// meshes of the batch are written.
pub async fn a_known_key_writes_nothing_of_its_mesh(backend: &dyn Backend) {
    let mut red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let (s1, p1) = (session("s1"), super::scene::presence("p1"));
    red.commit(vec![red.accept(1, &[&s1]), red.accept(2, &[&p1])]).await;
    let writes = |red: &Scene, staged: bool| {
        let mut retry = red.envelope(4);
        retry.key = red.envelope(1).key;
        let mut writes = vec![
            audit("genesis", "h1"),
            red.accept(3, &[&s1]),
            confirm(&red.envelope(1), &s1),
            lease("p2", false),
            Write::RecordKey { key: "5e55".into(), member: red.ana() },
            accept(retry, &[&s1]),
            Write::Revoke { member: red.ben(), at: 1 },
            Write::Done { command: "c/1".to_owned(), reply: String::new() },
            audit("h1", "h2"),
        ];
        if staged {
            // What must see an earlier write has to be written after it.
            writes.insert(2, confirm(&red.envelope(3), &s1));
            writes.insert(3, Write::Inherit { from: "p1".into(), to: red.ben() });
        }
        writes
    };
    for (staged, seq) in [(false, 1), (true, 2)] {
        let batch =
            [blue.to_commit(vec![blue.accept(seq, &[&s1])]), red.to_commit(writes(&red, staged))];
        let outcomes = red.store.commit(0, &batch).await.unwrap();
        assert_eq!(outcomes[0], fine());
        let original = Accepted { message: red.envelope(1).id, fingerprint: None };
        assert_eq!(outcomes[1], Outcome::Known(vec![Duplicate { seq: 4, original }]));
    }
    assert_eq!(blue.waiting(&s1).await, [1, 2]);
    assert_eq!(red.waiting(&s1).await, [1]);
    assert_eq!(red.waiting(&p1).await, [2]);
    let found = red.activate("node-1").await;
    assert_eq!((found.tail, found.audit_hash, found.leases.len()), (2, None, 0));
    let found = red.identity(&"bb".repeat(32), Some("5e55")).await;
    assert_eq!(found.key_member, None);
    assert!(!found.member.unwrap().revoked);
    let found = red.store.moderation(&red.mesh, &red.ana(), "c/1", None).await.unwrap();
    assert_eq!(found.done, None);
}

/// Each of them is told, in the order of the commit.
pub async fn all_known_keys_are_told(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    scene.commit((1..=80).map(|seq| scene.accept(seq, &[&s1])).collect()).await;
    let again = (101..=180)
        .map(|seq| {
            let mut envelope = scene.envelope(seq);
            if seq % 2 == 0 {
                envelope.key = scene.envelope(seq - 100).key;
            }
            accept(envelope, &[&s1])
        })
        .collect();
    let Outcome::Known(known) = scene.try_commit(again).await else { panic!("keys were known") };
    let told: Vec<_> = known.into_iter().map(|d| (d.seq, d.original.message)).collect();
    let expected: Vec<_> = (1..=40).map(|n| (100 + 2 * n, scene.envelope(2 * n).id)).collect();
    assert_eq!(told, expected);
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
    let outcomes = scenes[0].store.commit(0, &batch).await.unwrap();
    assert_eq!(outcomes, vec![fine(); 7], "one of them had nothing to write");

    let confirms = |scene: &Scene, count: u64| {
        (1..=count)
            .filter(|seq| seq % 3 != 0)
            .map(|seq| confirm(&scene.envelope(seq), &s1))
            .collect()
    };
    let batch: Vec<_> =
        scenes.iter().zip(0..).map(|(scene, n)| scene.to_commit(confirms(scene, n * 29))).collect();
    assert_eq!(scenes[0].store.commit(0, &batch).await.unwrap(), vec![fine(); 7]);
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
