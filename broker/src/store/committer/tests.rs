//! Against a store that does as it is told.

use std::sync::Mutex;

use async_trait::async_trait;
use protocol::{MemberId, PresenceId};
use tokio::sync::Semaphore;

use super::*;
use crate::model::{
    self, AcceptKey, Accepted, Activation, AuditEntry, AuditQuery, Ban, Duplicate, Epoch, Grants,
    HookPresence, HookTarget, Identity, Joined, Joining, LeaseRow, Membership, MeshRow, Moderation,
    NewInvite, NewMesh, NewPending, Page, PageLimit, Place, QueueBytes, QueueId, Seq, Standing,
    StoredMessage, Target, Topic, Unit, User, Write,
};
use crate::store::{Claim, Retained};

type Commit = (usize, Vec<(MeshId, usize)>);

/// Each commit waits for a permit. What it then does is spelled by the leases dropped.
struct Scripted {
    lanes: usize,
    permits: Semaphore,
    /// Lane, and units of each mesh, of every commit.
    rounds: Mutex<Vec<Commit>>,
}

impl Scripted {
    fn new(lanes: usize, permits: usize) -> Arc<Self> {
        Arc::new(Self { lanes, permits: Semaphore::new(permits), rounds: Mutex::default() })
    }

    fn rounds(&self) -> Vec<Vec<(String, usize)>> {
        let rounds = self.rounds.lock().unwrap();
        let name = |(mesh, units): &(MeshId, usize)| (mesh.to_string(), *units);
        rounds.iter().map(|(_, round)| round.iter().map(name).collect()).collect()
    }
}

#[async_trait]
impl Store for Scripted {
    fn lanes(&self) -> usize {
        self.lanes
    }

    async fn commit(&self, lane: usize, batch: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError> {
        let round = batch.iter().map(|commit| (commit.mesh.clone(), commit.units.len())).collect();
        self.rounds.lock().unwrap().push((lane, round));
        self.permits.acquire().await.unwrap().forget();
        let says = |commit: &MeshCommit, word: &str| {
            let word = Write::DropLease(PresenceId::from(word));
            commit.units.iter().any(|unit| unit.0.contains(&word))
        };
        if batch.iter().any(|commit| says(commit, "poison")) {
            return Err(StoreError::BadData("poison".to_owned()));
        }
        if batch.iter().any(|commit| says(commit, "break")) {
            return Err(StoreError::Unavailable("broken".to_owned()));
        }
        let outcome = |commit: &MeshCommit| {
            if says(commit, "fence") {
                return Outcome::Fenced;
            }
            if says(commit, "repeat") {
                return Outcome::Known(vec![known()]);
            }
            Outcome::Committed { purged: u64::from(says(commit, "purge")) }
        };
        Ok(batch.iter().map(outcome).collect())
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn adopt(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn healthy(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn unsafe_settings(&self) -> Result<Vec<String>, StoreError> {
        unimplemented!()
    }
    async fn claim(&self, _: bool) -> Result<Option<Box<dyn Claim>>, StoreError> {
        unimplemented!()
    }
    async fn share_health(&self, _: &str, _: bool) -> Result<bool, StoreError> {
        unimplemented!()
    }
    async fn cluster(&self) -> Result<String, StoreError> {
        unimplemented!()
    }
    async fn clock(&self) -> Result<u64, StoreError> {
        unimplemented!()
    }
    async fn standing(&self, _: &MeshId) -> Result<Option<Standing>, StoreError> {
        unimplemented!()
    }
    async fn beat(&self, _: &str) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn activate(
        &self,
        _: &MeshId,
        _: &str,
        _: Epoch,
    ) -> Result<Option<Activation>, StoreError> {
        unimplemented!()
    }
    async fn memberships(&self, _: &[MeshId]) -> Result<Vec<(MeshId, Membership)>, StoreError> {
        unimplemented!()
    }
    async fn queue_bytes(&self, _: &MeshId) -> Result<QueueBytes, StoreError> {
        unimplemented!()
    }
    async fn meshes_with_leases(&self) -> Result<Vec<MeshId>, StoreError> {
        unimplemented!()
    }
    async fn page(
        &self,
        _: &MeshId,
        _: &QueueId,
        _: Seq,
        _: PageLimit,
    ) -> Result<Page, StoreError> {
        unimplemented!()
    }
    async fn accepted(
        &self,
        _: &MeshId,
        _: &MemberId,
        _: &AcceptKey,
    ) -> Result<Option<Accepted>, StoreError> {
        unimplemented!()
    }
    async fn identify(&self, _: &MeshId, _: &model::Claim) -> Result<Option<Identity>, StoreError> {
        unimplemented!()
    }
    async fn grants(&self, _: &MeshId) -> Result<Vec<(MemberId, Grants)>, StoreError> {
        unimplemented!()
    }
    async fn taken_keys(&self, _: &MeshId, _: &[Arc<str>]) -> Result<Vec<Arc<str>>, StoreError> {
        unimplemented!()
    }
    async fn topic(&self, _: &MeshId, _: &str) -> Result<Option<Topic>, StoreError> {
        unimplemented!()
    }
    async fn moderation(
        &self,
        _: &MeshId,
        _: &MemberId,
        _: &str,
        _: Option<&Target>,
    ) -> Result<Moderation, StoreError> {
        unimplemented!()
    }
    async fn bans(&self, _: &MeshId) -> Result<Vec<Ban>, StoreError> {
        unimplemented!()
    }
    async fn audit(
        &self,
        _: &MeshId,
        _: &AuditQuery,
    ) -> Result<(Vec<AuditEntry>, u64), StoreError> {
        unimplemented!()
    }
    async fn audit_from(&self, _: &MeshId, _: i64, _: u32) -> Result<Vec<AuditEntry>, StoreError> {
        unimplemented!()
    }
    async fn hook_presences(&self, _: &HookTarget) -> Result<Vec<HookPresence>, StoreError> {
        unimplemented!()
    }
    async fn keep_pending(&self, _: &NewPending) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn join(&self, _: &Joining) -> Result<Joined, StoreError> {
        unimplemented!()
    }
    async fn users(&self) -> Result<Vec<User>, StoreError> {
        unimplemented!()
    }
    async fn messages(&self, _: &MeshId, _: &str) -> Result<Vec<StoredMessage>, StoreError> {
        unimplemented!()
    }
    async fn queue_depth(&self) -> Result<u64, StoreError> {
        unimplemented!()
    }
    async fn retain(&self, _: i64) -> Result<Retained, StoreError> {
        unimplemented!()
    }
    async fn create_mesh(&self, _: &NewMesh) -> Result<bool, StoreError> {
        unimplemented!()
    }
    async fn meshes(&self) -> Result<Vec<MeshRow>, StoreError> {
        unimplemented!()
    }
    async fn create_invite(&self, _: &NewInvite) -> Result<(), StoreError> {
        unimplemented!()
    }
}

struct Stage {
    store: Arc<Scripted>,
    committer: Committer,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Stage {
    fn new(lanes: usize, permits: usize) -> Self {
        let (store, tasks) = (Scripted::new(lanes, permits), TaskTracker::new());
        let stop = CancellationToken::new();
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let committer = Committer::start(shared, &tasks, stop.clone());
        Self { store, committer, tasks, stop }
    }

    /// With a first commit in flight that waits for a permit.
    async fn busy() -> Self {
        let stage = Self::new(1, 0);
        drop(stage.committer.submit(commit("first", &["fine"])));
        while stage.store.rounds().is_empty() {
            tokio::task::yield_now().await;
        }
        stage
    }

    /// All are handed in while the first is in flight, then answered.
    async fn answers(&self, commits: Vec<MeshCommit>) -> Vec<Answer> {
        let waiting: Vec<_> = commits.into_iter().map(|c| self.committer.submit(c)).collect();
        self.store.permits.add_permits(1000);
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await.unwrap());
        }
        answers
    }
}

/// A unit for each word.
fn commit(mesh: &str, words: &[&str]) -> MeshCommit {
    let unit = |word: &&str| Unit(vec![Write::DropLease((*word).into())]);
    MeshCommit { mesh: mesh.into(), epoch: 1, units: words.iter().map(unit).collect() }
}

fn fine() -> Outcome {
    Outcome::Committed { purged: 0 }
}

fn known() -> Duplicate {
    let original = Accepted { message: "m".into(), fingerprint: None };
    Duplicate { seq: 1, original }
}

fn named(round: &[(&str, usize)]) -> Vec<(String, usize)> {
    round.iter().map(|(mesh, units)| ((*mesh).to_owned(), *units)).collect()
}

#[tokio::test]
async fn what_waits_during_a_commit_goes_together() {
    let stage = Stage::busy().await;
    let commits = vec![commit("a", &["fine"]), commit("b", &["fine", "fine"])];
    for answer in stage.answers(commits).await {
        assert_eq!(answer.unwrap(), fine());
    }
    assert_eq!(stage.store.rounds()[1..], [named(&[("a", 1), ("b", 2)])]);
}

#[tokio::test]
async fn a_second_commit_of_a_mesh_waits_for_the_next_round() {
    let stage = Stage::busy().await;
    let again = vec![commit("a", &["fine"]), commit("a", &["fine"]), commit("b", &["fine"])];
    stage.answers(again).await;
    let rounds = stage.store.rounds();
    assert_eq!(rounds[1..], [named(&[("a", 1)]), named(&[("a", 1), ("b", 1)])]);
}

#[tokio::test]
async fn a_round_keeps_to_its_bounds() {
    let stage = Stage::busy().await;
    let many = vec!["fine"; MAX_BATCH_UNITS - 1];
    let mut large = commit("c", &[]);
    let body = "x".repeat(MAX_BATCH_BYTES + 1);
    let (member, place) = ("m".into(), Place::default());
    let lease = LeaseRow { presence: "p".into(), body, away: false, member, place };
    large.units.push(Unit(vec![Write::SaveLease(lease)]));
    let commits = vec![commit("a", &many), commit("b", &["fine", "fine"]), large];
    for answer in stage.answers(commits).await {
        assert_eq!(answer.unwrap(), fine());
    }
    let expected = [named(&[("a", MAX_BATCH_UNITS - 1)]), named(&[("b", 2)]), named(&[("c", 1)])];
    assert_eq!(stage.store.rounds()[1..], expected);
}

#[tokio::test]
async fn a_mesh_sticks_to_its_lane() {
    let stage = Stage::new(4, 1000);
    for index in 0..200 {
        let mesh = format!("mesh-{}", index % 100);
        stage.committer.submit(commit(&mesh, &["fine"])).await.unwrap().unwrap();
    }
    let mut lanes = std::collections::HashMap::new();
    for (lane, round) in stage.store.rounds.lock().unwrap().iter() {
        for (mesh, _) in round {
            assert_eq!(lanes.entry(mesh.clone()).or_insert(*lane), lane);
        }
    }
    let used: std::collections::HashSet<_> = lanes.values().collect();
    assert_eq!(used.len(), 4, "all of them are used");
}

#[tokio::test]
async fn a_refused_unit_fails_alone() {
    let stage = Stage::busy().await;
    let commits = vec![
        commit("a", &["fine"]),
        commit("b", &["fine", "fine", "poison", "fine"]),
        commit("c", &["fence"]),
        commit("d", &["poison"]),
        commit("e", &["fine", "repeat"]),
    ];
    let answers: Vec<_> = stage.answers(commits).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0], fine());
    assert_eq!(answers[1], Outcome::Stopped { committed: 2, at: None });
    assert_eq!(answers[2], Outcome::Fenced);
    assert_eq!(answers[3], Outcome::Stopped { committed: 0, at: None });
    assert_eq!(answers[4], Outcome::Known(vec![known()]), "it was not written unit by unit");
    // The unit behind the refused one was never tried.
    let alone = stage.store.rounds().iter().filter(|round| **round == named(&[("b", 1)])).count();
    assert_eq!(alone, 3);
}

/// Whatever is refused behind it waits until its mesh has taken it out.
#[tokio::test]
async fn a_known_key_stops_a_mesh_that_is_written_unit_by_unit() {
    let stage = Stage::new(1, 1000);
    let words = ["fine", "purge", "repeat", "poison"];
    let answer = stage.committer.submit(commit("a", &words)).await.unwrap().unwrap();
    assert_eq!(answer, Outcome::Stopped { committed: 2, at: Some(known()) });
    let rounds = stage.store.rounds();
    assert_eq!(rounds.len(), 4, "the whole, then three units");
}

#[tokio::test]
async fn a_mesh_alone_in_its_round_is_not_tried_twice_as_a_whole() {
    let stage = Stage::new(1, 1000);
    let answer = stage.committer.submit(commit("a", &["fine", "poison"])).await.unwrap().unwrap();
    assert_eq!(answer, Outcome::Stopped { committed: 1, at: None });
    let rounds = [named(&[("a", 2)]), named(&[("a", 1)]), named(&[("a", 1)])];
    assert_eq!(stage.store.rounds(), rounds);
}

#[tokio::test]
async fn a_store_that_fails_during_isolation_is_not_asked_for_the_rest() {
    let stage = Stage::busy().await;
    let commits = vec![
        commit("a", &["fine"]),
        commit("b", &["poison"]),
        commit("c", &["break"]),
        commit("d", &["fine"]),
    ];
    let answers = stage.answers(commits).await;
    assert_eq!(answers[0].as_ref().unwrap(), &fine());
    assert!(matches!(answers[1], Ok(Outcome::Stopped { committed: 0, at: None })));
    assert!(matches!(answers[2], Err(StoreError::Unavailable(_))));
    assert!(matches!(answers[3], Err(StoreError::Unavailable(_))));
    assert_eq!(stage.store.rounds().last().unwrap(), &named(&[("c", 1)]));
}

#[tokio::test]
async fn a_mesh_fenced_half_way_has_an_unknown_outcome() {
    let stage = Stage::new(1, 1000);
    let words = ["fine", "fence", "poison"];
    let answer = stage.committer.submit(commit("a", &words)).await.unwrap();
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let answer = stage.committer.submit(commit("a", &["fence", "poison"])).await.unwrap();
    assert_eq!(answer.unwrap(), Outcome::Fenced);
}

#[tokio::test]
async fn an_unavailable_store_answers_the_whole_round() {
    let stage = Stage::busy().await;
    let answers = stage.answers(vec![commit("a", &["fine"]), commit("b", &["break"])]).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))));
    assert_eq!(stage.store.rounds().len(), 2, "nothing is tried again");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_too_long_is_unavailable() {
    let stage = Stage::new(1, 0);
    let started = tokio::time::Instant::now();
    let answer = stage.committer.submit(commit("a", &["fine"])).await.unwrap();
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(started.elapsed() < COMMIT_DEADLINE * 2);
    // The lane goes on.
    stage.store.permits.add_permits(2);
    let answer = stage.committer.submit(commit("a", &["fine"])).await.unwrap();
    assert_eq!(answer.unwrap(), fine());
}

#[tokio::test]
async fn a_full_queue_is_told_at_once() {
    let stage = Stage::busy().await;
    let waiting: Vec<_> = (0..LANE_QUEUE)
        .map(|index| stage.committer.submit(commit(&format!("mesh-{index}"), &["fine"])))
        .collect();
    let refused = stage.committer.submit(commit("a", &["fine"])).await.unwrap();
    assert!(matches!(refused, Err(StoreError::NotAttempted(_))), "{refused:?}");
    stage.store.permits.add_permits(1000);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap(), fine());
    }
}

#[tokio::test]
async fn a_stop_finishes_what_was_taken_and_takes_no_more() {
    let stage = Stage::busy().await;
    let taken = stage.committer.submit(commit("a", &["fine"]));
    stage.stop.cancel();
    stage.store.permits.add_permits(1000);
    assert_eq!(taken.await.unwrap().unwrap(), fine());
    stage.tasks.close();
    stage.tasks.wait().await;
    let late = stage.committer.submit(commit("b", &["fine"])).await.unwrap();
    assert!(matches!(late, Err(StoreError::NotAttempted(_))), "{late:?}");
}

#[tokio::test]
async fn every_good_commit_is_observed() {
    struct Seen(Mutex<Vec<(usize, usize)>>);
    impl Observe for Seen {
        fn committed(&self, round: Round) {
            self.0.lock().unwrap().push((round.meshes, round.units));
        }
    }
    let (store, seen) = (Scripted::new(1, 1000), Arc::new(Seen(Mutex::default())));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let observe = Arc::clone(&seen) as Arc<dyn Observe>;
    let committer = Committer::start_observed(store, observe, &tasks, stop);
    committer.submit(commit("a", &["fine", "fine"])).await.unwrap().unwrap();
    committer.submit(commit("b", &["break"])).await.unwrap().unwrap_err();
    assert_eq!(*seen.0.lock().unwrap(), [(1, 2)]);
}
