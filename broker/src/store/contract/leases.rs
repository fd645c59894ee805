//! Leases, and how much of a grace has passed.
//!
//! Graces are told by the store's clock, which nobody can turn: the promises wait for real. What is
//! told is compared with what passed between two moments seen here, however slow the machine is.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Backend;
use super::scene::{Scene, lease};
use crate::model::{Activation, Write};

/// One step.
const STEP: Duration = Duration::from_millis(120);

/// What two clocks may differ by over a few steps, rounding included.
const SLACK_MS: u64 = 10;

/// The least that a step of waiting must add.
const STEP_MS: u64 = 120 - SLACK_MS;

/// The most that can have passed since.
fn at_most(since: Instant) -> u64 {
    let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    ms.saturating_add(SLACK_MS)
}

/// Saved, saved over, dropped; and the mesh is among those with leases meanwhile.
pub async fn a_lease_is_kept_as_saved_until_dropped(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let blue = Scene::named(backend, "blue").await;
    assert_eq!(scene.store.meshes_with_leases().await.unwrap(), []);
    blue.commit(vec![lease("p1", false)]).await;
    scene.commit(vec![lease("p1", false), lease("p2", false)]).await;
    scene.commit(vec![lease("p2", true)]).await;
    let mut meshes = scene.store.meshes_with_leases().await.unwrap();
    meshes.sort();
    assert_eq!(meshes, [blue.mesh.clone(), scene.mesh.clone()]);
    let mut found = scene.activate("node-1").await.leases;
    found.sort_by(|a, b| a.row.presence.cmp(&b.row.presence));
    let rows: Vec<_> = found.iter().map(|lease| Write::SaveLease(lease.row.clone())).collect();
    assert_eq!(rows, [lease("p1", false), lease("p2", true)]);

    scene.commit(vec![Write::DropLease("p1".into()), Write::DropLease("p2".into())]).await;
    assert_eq!(scene.activate("node-1").await.leases, []);
    assert_eq!(scene.store.meshes_with_leases().await.unwrap(), [blue.mesh]);
}

/// Neither with time alone, nor with the beats of a node that does not own the mesh.
pub async fn a_grace_grows_with_the_beats_of_the_owner_alone(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.store.beat("node-1").await.unwrap();
    let gone = Instant::now();
    scene.commit(vec![lease("p1", true), lease("here", false)]).await;
    sleep(STEP).await;
    scene.store.beat("node-1").await.unwrap();
    let most = at_most(gone);
    // Longer than all before, so that it would show.
    sleep(gone.elapsed()).await;
    let until_last_beat = away_ms(&scene.activate("node-2").await);
    assert!((STEP_MS..=most).contains(&until_last_beat), "{until_last_beat} of {most} ms");

    // node-2 owns it now, and is not heard of; others are.
    sleep(STEP).await;
    scene.store.beat("node-1").await.unwrap();
    scene.store.beat("node-3").await.unwrap();
    let unchanged = away_ms(&scene.activate("node-3").await);
    assert!((STEP_MS..=most).contains(&unchanged), "{unchanged} of {most} ms");
}

/// A beat from before the absence counts for nothing either.
pub async fn an_owner_that_never_beat_spends_no_grace(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.store.beat("node-9").await.unwrap();
    scene.commit(vec![lease("p1", true)]).await;
    sleep(STEP).await;
    assert_eq!(away_ms(&scene.activate("node-2").await), 0);
    scene.store.beat("node-2").await.unwrap();
    sleep(STEP).await;
    scene.commit(vec![lease("p1", false), lease("p1", true)]).await;
    assert_eq!(away_ms(&scene.activate("node-3").await), 0);
}

/// The body may change while the holder is away.
pub async fn saving_an_absence_again_does_not_start_it_again(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit(vec![lease("p1", true)]).await;
    sleep(STEP).await;
    scene.commit(vec![lease("p1", true)]).await;
    scene.store.beat("node-1").await.unwrap();
    let away = away_ms(&scene.activate("node-1").await);
    assert!(away >= STEP_MS, "{away} ms");
}

/// And the next absence starts from nothing.
pub async fn coming_back_ends_an_absence(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit(vec![lease("p1", true)]).await;
    sleep(STEP).await;
    scene.commit(vec![lease("p1", false)]).await;
    scene.store.beat("node-1").await.unwrap();
    let found = scene.activate("node-1").await;
    assert_eq!((found.leases[0].row.away, found.leases[0].away_ms), (false, 0));
    let gone = Instant::now();
    scene.commit(vec![lease("p1", true)]).await;
    scene.store.beat("node-1").await.unwrap();
    let (away, most) = (away_ms(&scene.activate("node-1").await), at_most(gone));
    assert!(away <= most, "{away} of {most} ms");
}

/// However often the owner changes: what passed between two owners is not added later.
pub async fn time_without_an_owner_never_counts_as_grace(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    let first = Instant::now();
    scene.commit(vec![lease("p1", true)]).await;
    scene.store.beat("node-1").await.unwrap();
    let under_first = at_most(first);
    // node-1 is gone for a long while; node-2 takes over, and beats at once.
    sleep(4 * STEP).await;
    let second = Instant::now();
    scene.activate("node-2").await;
    scene.store.beat("node-2").await.unwrap();
    let away = away_ms(&scene.activate("node-3").await);
    let most = under_first + at_most(second);
    assert!(away <= most, "{away} of {most} ms counted");
}

/// Else a node that fails as often as it starts would keep peers present for ever.
pub async fn an_owner_that_dies_before_its_first_beat_gives_no_grace_back(backend: &dyn Backend) {
    let mut scene = Scene::red(backend).await;
    scene.commit(vec![lease("p1", true)]).await;
    sleep(STEP).await;
    scene.store.beat("node-1").await.unwrap();
    let first = away_ms(&scene.activate("node-2").await);
    assert!(first >= STEP_MS, "{first} ms");
    let second = away_ms(&scene.activate("node-3").await);
    assert!(second >= STEP_MS, "{second} ms after {first} ms");
}

fn away_ms(found: &Activation) -> u64 {
    let lease = found.leases.iter().find(|lease| lease.row.presence.as_str() == "p1");
    let lease = lease.expect("the lease is kept");
    assert!(lease.row.away, "its holder is away");
    lease.away_ms
}
