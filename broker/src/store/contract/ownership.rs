//! Epochs, activation, the fence, the claim.

use super::Backend;
use super::scene::{
    Scene, accept, audit, confirm, fine, lease, new_mesh, normal, presence, session,
};
use crate::model::{EPOCH_STEP, Lane, Outcome, QueueId, Recipient, Write};
use protocol::client::Priority;

/// Also for the node that owns the mesh already, and through another handle.
pub async fn every_activation_raises_the_epoch(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    assert!(scene.epoch >= 1);
    let mut last = scene.epoch;
    for node in ["node-1", "node-2", "node-1"] {
        let epoch = scene.activate(node).await.epoch;
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
    }
    let other = backend.another().await;
    let found = other.activate(&scene.mesh, "node-3", 0).await.unwrap().unwrap();
    assert!(found.epoch > last);
    // An epoch is a mesh's own.
    assert!(Scene::named(backend, "blue").await.epoch >= 1);
}

/// A store that lost its tail mints nothing that was seen before.
pub async fn an_activation_raises_the_epoch_above_the_floor(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let found = scene.store.activate(&scene.mesh, "node-1", 1000).await.unwrap().unwrap();
    assert!(found.epoch > 1000);
    let next = scene.activate("node-1").await.epoch;
    assert!(next > found.epoch, "a lower floor lowers nothing");
    // Nor does the first activation ignore it.
    let fresh = new_mesh("fresh");
    assert!(scene.store.create_mesh(&fresh).await.unwrap());
    let found = scene.store.activate(&fresh.id, "node-1", 77).await.unwrap().unwrap();
    assert!(found.epoch > 77);
}

/// What somebody claims to have seen cannot take the epochs to their end.
pub async fn an_activation_raises_the_epoch_by_a_bounded_step(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let (store, most) = (&scene.store, i64::MAX.unsigned_abs());
    let mut before = scene.epoch;
    for _ in 0..3 {
        let found = store.activate(&scene.mesh, "node-1", most).await.unwrap().unwrap();
        assert!((before + 1..=before + EPOCH_STEP + 1).contains(&found.epoch), "{}", found.epoch);
        before = found.epoch;
    }
    let fresh = new_mesh("fresh");
    assert!(store.create_mesh(&fresh).await.unwrap());
    let found = store.activate(&fresh.id, "node-1", most).await.unwrap().unwrap();
    assert!((1..=EPOCH_STEP + 1).contains(&found.epoch), "{}", found.epoch);
}

/// `None`, not an error.
pub async fn an_unknown_mesh_cannot_be_activated(backend: &dyn Backend) {
    let found = backend.store().activate(&"mesh-nowhere".into(), "node-1", 0).await.unwrap();
    assert_eq!(found, None);
}

/// Tail, audit tail, queues with their tails, leases; nothing of what was confirmed.
pub async fn a_new_owner_starts_from_what_was_written(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let empty = scene.activate("node-2").await;
    assert_eq!((empty.tail, empty.audit_hash), (0, None));
    assert!(empty.queues.is_empty() && empty.leases.is_empty());

    let (s1, p1) = (session("s1"), presence("p1"));
    let m1 = Recipient::Member(scene.ben());
    let mut urgent = scene.envelope(4);
    urgent.priority = Priority::Now;
    scene
        .commit(vec![
            scene.accept(1, &[&s1, &p1]),
            scene.accept(2, &[&s1]),
            scene.accept(3, &[&m1]),
            accept(urgent, &[&s1]),
            scene.accept(7, &[&p1]),
            confirm(&scene.envelope(3), &m1),
            audit("genesis", "h1"),
            audit("h1", "h2"),
            lease("p1", false),
        ])
        .await;
    let other = Scene::named(backend, "blue").await;
    other.commit(vec![other.accept(9, &[&s1]), audit("genesis", "blue")]).await;

    let mut found = scene.activate("node-3").await;
    found.queues.sort();
    assert_eq!(found.tail, 7);
    assert_eq!(found.audit_hash.as_deref(), Some("h2"));
    let expected = [
        (QueueId { recipient: s1.clone(), lane: Lane::Urgent }, 4),
        (normal(&s1), 2),
        (normal(&p1), 7),
    ];
    assert_eq!(found.queues, expected);
    assert_eq!(found.leases.len(), 1);
    assert_eq!(Write::SaveLease(found.leases[0].row.clone()), lease("p1", false));
    assert_eq!(found.leases[0].away_ms, 0);
}

/// No two owners under one epoch.
pub async fn activations_at_once_all_get_epochs_of_their_own(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let other = backend.another().await;
    let (a, b, c, d) = tokio::join!(
        scene.store.activate(&scene.mesh, "node-1", 0),
        other.activate(&scene.mesh, "node-2", 0),
        scene.store.activate(&scene.mesh, "node-3", 0),
        other.activate(&scene.mesh, "node-4", 0),
    );
    let mut epochs = [a, b, c, d].map(|found| found.unwrap().unwrap().epoch);
    epochs.sort_unstable();
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
}

/// Lower or higher: an epoch that is not the mesh's is nobody's.
pub async fn a_wrong_epoch_writes_nothing_while_other_meshes_commit(backend: &dyn Backend) {
    let red = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    let another = backend.another().await;
    let s1 = session("s1");
    red.commit(vec![red.accept(1, &[&s1])]).await;
    another.activate(&red.mesh, "node-2", 0).await.unwrap().unwrap();

    let writes = vec![
        red.accept(2, &[&s1]),
        confirm(&red.envelope(1), &s1),
        lease("p1", false),
        Write::RecordKey { key: "5e55".into(), member: red.ana() },
        audit("genesis", "h1"),
    ];
    let mut ahead = red.to_commit(writes.clone());
    ahead.epoch += 1000;
    let batch = [red.to_commit(writes), blue.to_commit(vec![blue.accept(1, &[&s1])])];
    let outcomes = red.store.commit(0, &batch).await.unwrap();
    assert_eq!(outcomes, [Outcome::Fenced, fine()]);
    assert_eq!(red.store.commit(0, &[ahead]).await.unwrap(), [Outcome::Fenced]);

    assert_eq!(red.waiting(&s1).await, [1], "neither accepted nor confirmed");
    assert_eq!(blue.waiting(&s1).await, [1]);
    let found = another.activate(&red.mesh, "node-2", 0).await.unwrap().unwrap();
    assert_eq!((found.tail, found.audit_hash, found.leases.len()), (1, None, 0));
    let key = red.envelope(2).key;
    assert_eq!(red.store.accepted(&red.mesh, &red.ana(), &key).await.unwrap(), None);
    assert_eq!(red.identity("", Some("5e55")).await.key_member, None);
}

/// Nor one that does not exist.
pub async fn a_mesh_never_activated_is_fenced(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let fresh = new_mesh("fresh");
    assert!(scene.store.create_mesh(&fresh).await.unwrap());
    for mesh in [fresh.id, "mesh-nowhere".into()] {
        scene.mesh = mesh;
        for epoch in [0, 1] {
            scene.epoch = epoch;
            let outcome = scene.try_commit(vec![lease("p1", false)]).await;
            assert_eq!(outcome, Outcome::Fenced);
        }
    }
}

/// One process, then the next.
pub async fn a_claim_excludes_a_second_until_it_is_dropped(backend: &dyn Backend) {
    let (store, other) = (backend.store(), backend.another().await);
    let claim = store.claim(false).await.unwrap();
    assert!(claim.is_some(), "nobody else is here");
    assert!(other.claim(false).await.unwrap().is_none(), "one at a time");
    drop(claim);
    // A backend may need a moment to notice.
    for _ in 0..1_000 {
        if other.claim(false).await.unwrap().is_some() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("a dropped claim is free again");
}

/// A second node starts while the first runs.
pub async fn migrating_again_and_at_once_changes_nothing(backend: &dyn Backend) {
    let scene = Scene::red(backend).await;
    let s1 = session("s1");
    scene.commit(vec![scene.accept(1, &[&s1])]).await;
    let other = backend.another().await;
    let (first, second) = tokio::join!(scene.store.migrate(), other.migrate());
    first.unwrap();
    second.unwrap();
    assert_eq!(scene.waiting(&s1).await, [1]);
}

/// And has at least one lane.
pub async fn a_working_store_is_healthy(backend: &dyn Backend) {
    let store = backend.store();
    store.healthy().await.unwrap();
    store.healthy().await.unwrap();
    store.unsafe_settings().await.unwrap();
    assert!(store.lanes() >= 1);
}
