//! Writing a round, and finding the unit that the store refuses.
//!
//! A round that is refused as data wrote nothing: it is tried again mesh by mesh, and a mesh that
//! is refused alone unit by unit. So one poison row costs its own mesh, once.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::{Answer, COMMIT_DEADLINE, Observe, Round};
use crate::model::{MeshCommit, Outcome};
use crate::store::{Store, StoreError};

/// One lane's way into the store.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) lane: usize,
    pub(super) observe: Arc<dyn Observe>,
}

impl Writer {
    /// An answer for each, in order.
    pub(super) async fn write(&self, round: &[MeshCommit]) -> Vec<Answer> {
        match self.commit(round).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(StoreError::BadData(why)) => {
                tracing::warn!(meshes = round.len(), %why, "the store refuses a round, isolating");
                self.mesh_by_mesh(round).await
            }
            Err(error) => round.iter().map(|_| Err(again(&error))).collect(),
        }
    }

    async fn mesh_by_mesh(&self, round: &[MeshCommit]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(round.len());
        // A store that fails meanwhile is not asked again for the rest.
        let mut failed = None;
        for commit in round {
            if let Some(error) = &failed {
                answers.push(Err(again(error)));
                continue;
            }
            let answer = self.alone(commit, round.len() == 1).await;
            failed = answer.as_ref().err().map(again);
            answers.push(answer);
        }
        answers
    }

    /// `refused`: it is known to be refused as a whole.
    async fn alone(&self, commit: &MeshCommit, refused: bool) -> Answer {
        if !refused {
            match self.one(commit).await {
                Err(StoreError::BadData(_)) => {}
                answer => return answer,
            }
        }
        self.unit_by_unit(commit).await
    }

    async fn unit_by_unit(&self, commit: &MeshCommit) -> Answer {
        let mut all_purged = 0;
        for (committed, unit) in commit.units.iter().enumerate() {
            let single = MeshCommit {
                mesh: commit.mesh.clone(),
                epoch: commit.epoch,
                units: vec![unit.clone()],
            };
            match self.one(&single).await {
                Ok(Outcome::Committed { purged }) => all_purged += purged,
                Ok(Outcome::Known(known)) => {
                    return Ok(Outcome::Stopped { committed, at: known.into_iter().next() });
                }
                Err(StoreError::BadData(why)) => {
                    tracing::error!(mesh.id = %commit.mesh, unit = committed, %why,
                        "the store refuses a unit");
                    return Ok(Outcome::Stopped { committed, at: None });
                }
                Ok(Outcome::Fenced) if committed == 0 => return Ok(Outcome::Fenced),
                // "Fenced" would say that nothing was written.
                Ok(Outcome::Fenced | Outcome::Stopped { .. }) => {
                    let why = "the mesh was taken over while its units were written one by one";
                    return Err(StoreError::Unavailable(why.to_owned()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Committed { purged: all_purged })
    }

    async fn one(&self, commit: &MeshCommit) -> Answer {
        let mut outcomes = self.commit(std::slice::from_ref(commit)).await?;
        outcomes.pop().ok_or_else(missing)
    }

    async fn commit(&self, round: &[MeshCommit]) -> Result<Vec<Outcome>, StoreError> {
        let started = Instant::now();
        let Ok(answer) = timeout(COMMIT_DEADLINE, self.store.commit(self.lane, round)).await else {
            let seconds = COMMIT_DEADLINE.as_secs();
            return Err(StoreError::Unavailable(format!("no commit within {seconds} s")));
        };
        let outcomes = answer?;
        if outcomes.len() != round.len() {
            return Err(missing());
        }
        let units = round.iter().map(|commit| commit.units.len()).sum();
        let took = started.elapsed();
        self.observe.committed(Round { meshes: round.len(), units, took });
        Ok(outcomes)
    }
}

fn missing() -> StoreError {
    StoreError::Unavailable("the store did not answer for each mesh".to_owned())
}

/// The same for another mesh of the round.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::NotAttempted(why) => StoreError::NotAttempted(why.clone()),
        StoreError::Unusable(why) => StoreError::Unusable(why.clone()),
        StoreError::BadData(why) => StoreError::BadData(why.clone()),
        StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
    }
}
