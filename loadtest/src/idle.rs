//! `idle`: sessions that do nothing, and what each costs the broker in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::Error;
use crate::cli::Idle;
use crate::clock::wall_ms;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::pipe::Pipe;
use crate::process;
use crate::report::IdleReport;
use crate::traffic::{DOORS, float};

/// How often it is looked whether all are open.
const LOOK: Duration = Duration::from_millis(50);

/// Opens the sessions, lets them rest and reports.
pub(crate) async fn run(options: &Idle) -> Result<IdleReport, Error> {
    if options.sessions == 0 {
        return Err(Error::Options("no sessions to open"));
    }
    let meshes = options.mesh.iter().map(|path| Mesh::read(path)).collect::<Result<Vec<_>, _>>()?;
    let before = process::rss_kb(&options.pid)?;
    let (over, watching) = watch::channel(false);
    let (doors, open) = (Arc::new(Semaphore::new(DOORS)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for index in 0..options.sessions {
        let turn = index as usize;
        // Members take turns within their mesh, meshes first.
        let within = turn / meshes.len();
        let mesh = &meshes[turn % meshes.len()];
        let identity = session(mesh, index, within)?;
        let url = options.url[turn % options.url.len()].clone();
        tasks.spawn(rest(url, identity, Arc::clone(&doors), Arc::clone(&open), watching.clone()));
    }
    drop(watching);

    let deadline = Instant::now() + Duration::from_secs(options.deadline);
    let mut failed = BTreeMap::new();
    let mut ended = 0;
    while open.load(Relaxed) + ended < options.sessions && Instant::now() < deadline {
        sleep(LOOK).await;
        ended += collect(&mut tasks, &mut failed);
    }
    let cpu_before = process::cpu_micros(&options.pid)?;
    sleep(Duration::from_secs(options.seconds)).await;
    let cpu = process::cpu_micros(&options.pid)?.saturating_sub(cpu_before);
    let after = process::rss_kb(&options.pid)?;
    let sessions = open.load(Relaxed);
    collect(&mut tasks, &mut failed);
    over.send_replace(true);
    while tasks.join_next().await.is_some() {}

    Ok(IdleReport {
        sessions,
        rss_before_kb: before,
        rss_after_kb: after,
        kb_per_session: float(after.saturating_sub(before)) / f64::from(sessions.max(1)),
        cpu_percent: float(cpu) / 10_000.0 / float(options.seconds.max(1)),
        passed: sessions == options.sessions && failed.is_empty(),
        failed,
    })
}

fn session(mesh: &Mesh, index: u32, within: usize) -> Result<Identity, Error> {
    let mut one = mesh.clone();
    one.members = vec![mesh.members[within % mesh.members.len()].clone()];
    Identity::new(&one, index).map_err(|_| Error::Options("a member's secret_key is malformed"))
}

/// Takes note of sessions that ended; how many.
fn collect(tasks: &mut JoinSet<Result<(), Error>>, failed: &mut BTreeMap<String, u64>) -> u32 {
    let mut ended = 0;
    while let Some(task) = tasks.try_join_next() {
        ended += 1;
        if let Ok(Err(error)) = task {
            *failed.entry(error.to_string()).or_default() += 1;
        }
    }
    ended
}

/// One session: reads what it is sent, which is little, and says nothing.
async fn rest(
    url: String,
    identity: Identity,
    doors: Arc<Semaphore>,
    open: Arc<AtomicU32>,
    mut over: watch::Receiver<bool>,
) -> Result<(), Error> {
    let opening = async {
        let _door = doors.acquire().await;
        Pipe::open(&url, identity.session_hello(wall_ms())).await
    };
    let mut pipe = tokio::select! {
        opened = opening => opened?,
        _ = over.wait_for(|over| *over) => return Ok(()),
    };
    open.fetch_add(1, Relaxed);
    let mut frames = Vec::new();
    let ended = loop {
        tokio::select! {
            biased;
            _ = over.changed() => break Ok(()),
            received = pipe.receive(&mut frames) => if let Err(error) = received { break Err(error) },
        }
        frames.clear();
    };
    open.fetch_sub(1, Relaxed);
    pipe.close().await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Fault, MeshFile};

    fn options(url: &str, files: &[MeshFile]) -> Idle {
        Idle {
            mesh: files.iter().map(|file| file.0.clone()).collect(),
            url: vec![url.to_owned()],
            sessions: 50,
            seconds: 1,
            pid: vec![std::process::id()],
            deadline: 10,
            json: false,
        }
    }

    #[tokio::test]
    async fn sessions_are_opened_and_weighed() {
        let fake = Fake::start(Fault::None).await;
        let files = [MeshFile::new(), MeshFile::new()];
        let report = run(&options(&fake.url, &files)).await.unwrap();
        assert!(report.passed, "{report}");
        assert_eq!(report.sessions, 50);
        assert!(report.rss_after_kb > 0);
    }

    #[tokio::test]
    async fn sessions_that_cannot_open_are_told() {
        let report = run(&options("ws://127.0.0.1:9/ws", &[MeshFile::new()])).await.unwrap();
        assert!(!report.passed);
        assert_eq!((report.sessions, report.failed.values().sum::<u64>()), (0, 50));
    }
}
