//! One lane: gather a round, write it, answer, again.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::isolate::Writer;
use super::{Answer, MAX_BATCH_BYTES, MAX_BATCH_UNITS};
use crate::model::{MeshCommit, Write};

/// A commit that waits for its answer.
pub(super) struct Job {
    pub(super) commit: MeshCommit,
    pub(super) reply: oneshot::Sender<Answer>,
}

impl Job {
    /// Whoever asked may have gone: then nobody needs to know.
    pub(super) fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }
}

pub(super) struct LaneLoop {
    writer: Writer,
    inbox: mpsc::Receiver<Job>,
    /// What did not fit the last round.
    held: Option<Job>,
    stop: CancellationToken,
}

impl LaneLoop {
    pub(super) fn new(writer: Writer, inbox: mpsc::Receiver<Job>, stop: CancellationToken) -> Self {
        Self { writer, inbox, held: None, stop }
    }

    pub(super) async fn run(mut self) {
        while let Some(first) = self.next().await {
            let jobs = self.gather(first);
            let (commits, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.commit, job.reply)).unzip();
            let answers = self.writer.write(&commits).await;
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
    }

    /// The first of a round. After a stop the inbox takes no more, and ends once it is empty.
    async fn next(&mut self) -> Option<Job> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let stopping = self.stop.is_cancelled();
        if stopping {
            self.inbox.close();
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if !stopping => self.inbox.close(),
            job = self.inbox.recv() => return job,
        }
        self.inbox.recv().await
    }

    /// Takes what waits, up to the bounds. A mesh that is in the round already ends it: its
    /// second commit may depend on the answer to the first.
    fn gather(&mut self, first: Job) -> Vec<Job> {
        let (mut units, mut bytes) = (first.commit.units.len(), bytes(&first.commit));
        let mut meshes = HashSet::from([first.commit.mesh.clone()]);
        let mut jobs = vec![first];
        while let Ok(job) = self.inbox.try_recv() {
            units += job.commit.units.len();
            bytes += self::bytes(&job.commit);
            let full = units > MAX_BATCH_UNITS || bytes > MAX_BATCH_BYTES;
            if full || !meshes.insert(job.commit.mesh.clone()) {
                self.held = Some(job);
                break;
            }
            jobs.push(job);
        }
        jobs
    }
}

/// Near enough what it makes the store write. A delivery counts too: a multicast to hundreds is
/// hundreds of rows.
fn bytes(commit: &MeshCommit) -> usize {
    let writes = commit.units.iter().flat_map(|unit| &unit.0);
    let bytes = writes.map(|write| match write {
        Write::Accept(accept) => accept.envelope.bytes() + 128 * accept.recipients.len(),
        Write::History(history) => history.envelope.bytes() + 128,
        Write::SaveLease(lease) => lease.body.len() + lease.place.cwd.len() + 128,
        Write::Audit(entry) => entry.payload.len() + 256,
        Write::Done { command, reply } => command.len() + reply.len() + 128,
        // Groups and profile are bounded to some kilobytes where they are read.
        Write::SaveState(_) => 4096,
        Write::SeeHello { .. } => 256,
        Write::Confirm(_)
        | Write::Undeliverable { .. }
        | Write::DropLease(_)
        | Write::Inherit { .. }
        | Write::RecordKey { .. }
        | Write::Revoke { .. }
        | Write::Reinstate { .. }
        | Write::Purge { .. }
        | Write::Kick(_)
        | Write::LiftKicks(_)
        | Write::UsePending(_) => 128,
    });
    bytes.sum()
}
