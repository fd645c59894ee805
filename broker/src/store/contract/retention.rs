//! What is old goes, and takes everything of it along.

use super::Backend;
use super::scene::{CREATED_AT, Scene, accept, confirm, presence, session};
use crate::model::{Recipient, Write};
use crate::store::Retained;

/// Accepted before `before`: envelope, key, deliveries. Accepted then or later: nothing.
pub async fn old_envelopes_go_with_their_keys_and_deliveries(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    for (seq, created_at) in [(1, 100), (2, 100), (3, 199), (4, 200), (5, 300)] {
        let mut envelope = scene.envelope(seq);
        envelope.created_at = created_at;
        scene.commit(vec![accept(envelope, &[&s1])]).await;
    }
    scene.commit(vec![confirm(&scene.envelope(2), &s1)]).await;

    let removed = scene.store.retain(200).await.unwrap();
    assert_eq!(removed, Retained { envelopes: 3, unconfirmed: 2 });
    assert_eq!(scene.waiting(&s1).await, [4, 5]);
    assert_eq!(scene.store.queue_depth().await.unwrap(), 2);
    for seq in 1..=5 {
        let sent = scene.envelope(seq);
        let known = scene.store.accepted(&scene.mesh, &scene.ana(), &sent.key).await.unwrap();
        assert_eq!(known.is_some(), seq >= 4, "the key of {seq}");
        let found = scene.store.messages(&scene.mesh, sent.id.as_str()).await.unwrap();
        assert_eq!(found.len(), usize::from(seq >= 4), "the envelope {seq}");
    }
    // Its key is free.
    let mut again = scene.envelope(6);
    again.key = scene.envelope(1).key;
    scene.commit(vec![accept(again, &[&s1])]).await;
    assert_eq!(scene.store.retain(200).await.unwrap(), Retained::default());
}

/// Also those that were inherited, and those of other recipients.
pub async fn a_shared_envelope_goes_with_all_its_deliveries(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let (s1, p1) = (session("s1"), presence("p1"));
    scene
        .commit(vec![
            scene.accept(1, &[&s1, &p1]),
            scene.accept(2, &[&p1]),
            confirm(&scene.envelope(1), &s1),
            Write::Inherit { from: "p1".into(), to: scene.ben() },
        ])
        .await;
    blue.commit(vec![blue.accept(1, &[&s1])]).await;
    assert_eq!(scene.waiting(&Recipient::Member(scene.ben())).await, [1, 2]);
    let removed = scene.store.retain(CREATED_AT + 1).await.unwrap();
    assert_eq!(removed, Retained { envelopes: 3, unconfirmed: 3 });
    assert_eq!(scene.store.queue_depth().await.unwrap(), 0);
}

/// A place is never given twice, however long a mesh was idle.
pub async fn the_tail_does_not_fall_when_envelopes_go(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit((1..=9).map(|seq| scene.accept(seq, &[&session("s1")])).collect()).await;
    assert_eq!(scene.store.retain(CREATED_AT + 1).await.unwrap().envelopes, 9);
    let found = scene.activate("node-1").await;
    assert_eq!((found.tail, found.queues), (9, vec![]));
    scene.commit(vec![scene.accept(10, &[])]).await;
    assert_eq!(scene.activate("node-1").await.tail, 10);
}

/// More than fits one small transaction, in more than one mesh.
pub async fn much_that_is_old_goes_in_one_call(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    for scene in [&red, &blue] {
        let old = (1..=1500).map(|seq| scene.accept(seq, &[&session("s1")])).collect();
        scene.commit(old).await;
        let mut young = scene.envelope(1501);
        young.created_at += 10;
        scene.commit(vec![accept(young, &[&session("s1")])]).await;
    }
    let removed = red.store.retain(CREATED_AT + 1).await.unwrap();
    assert_eq!(removed, Retained { envelopes: 3000, unconfirmed: 3000 });
    assert_eq!(red.store.queue_depth().await.unwrap(), 2);
    assert_eq!(red.waiting(&session("s1")).await, [1501]);
}
