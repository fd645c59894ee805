//! A run from its first process to its verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::bystanders::Bystanders;
use super::cluster::{Cluster, Settings};
use super::crowd::{self, CLIENTS, MEMBERS, Manners};
use super::faults::{self, Stage, Step};
use super::log::{Log, What};
use super::report::Report;
use super::rng::Rng;
use super::shared::{Phase, Shared};
use crate::Error;
use crate::cli::Chaos;
use crate::clock::Clock;

/// Everybody must be served so soon after a fault.
const RECOVERY: Duration = Duration::from_secs(30);
/// Before the first fault, and after the last.
const WARM_UP: Duration = Duration::from_secs(5);
/// What is acked must arrive so soon once nothing is broken: twice the wait for another push.
const SETTLING: Duration = Duration::from_secs(75);
/// After its grace a departure must be seen within 5 s, and so must a return; and then some.
const DEPARTURE: Duration = Duration::from_secs(9);
const RETURN: Duration = Duration::from_secs(8);
/// Between two looks at whether something has come about.
const LOOK: Duration = Duration::from_millis(50);
/// Longest pause between two faults; half of it is the shortest.
const PAUSE_MS: u64 = 3_000;

/// One run.
struct Run {
    cluster: Cluster,
    shared: Arc<Shared>,
    meshes: Vec<String>,
    rng: Rng,
    grace_ms: u64,
}

/// Starts everything, breaks it, ends it, judges it.
pub(crate) async fn run(options: &Chaos) -> Result<Report, Error> {
    let mut rng = Rng::new(options.seed);
    let nodes = options.nodes as usize;
    let steps = plan(options, nodes, &mut rng)?;
    std::fs::create_dir_all(&options.out)?;
    let out = std::fs::canonicalize(&options.out)?;
    let path = out.join("log.jsonl");
    let log = Log::create(&path, Clock::start())?;
    let shared = Arc::new(Shared::new(log.clone(), (options.meshes * CLIENTS) as usize));

    let settings = Settings { broker: broker(options)?, out, nodes, grace_seconds: options.grace };
    let mut cluster = Cluster::start(settings, Arc::clone(&shared)).await?;
    let balancer = if options.balancer { Some(cluster.put_behind_balancer().await?) } else { None };
    let mut meshes = Vec::new();
    for number in 0..options.meshes {
        meshes.push(cluster.mesh(&format!("chaos-{number}"), MEMBERS).await?);
    }
    let grace_ms = options.grace * 1_000;
    shared.note(What::Settings { grace_ms });
    let run_id = std::process::id();
    let manners = Manners { run: run_id, rate: options.rate, grace_ms, seed: options.seed };
    let clients = crowd::gather(&meshes, &manners, &shared)?;
    let bystanders = Bystanders::gather(&cluster, options.bystanders, &shared).await?;
    let (phases, phase) = watch::channel(Phase::Traffic);
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(client.live(phase.clone()));
    }

    let meshes = meshes.into_iter().map(|mesh| mesh.id).collect();
    let mut run = Run { cluster, shared, meshes, rng, grace_ms };
    // A node that cannot be brought back is a finding, too.
    if let Err(error) = run.live_through(&steps).await {
        run.shared.complain(format!("the run ends early: {error}"));
    }
    run.calm_down(&phases).await;
    run.settle(&phases).await;
    // Before the others close, which nobody is to see here.
    bystanders.judge(&run.shared).await;
    phases.send_replace(Phase::Over);
    while tasks.join_next().await.is_some() {}
    drop((run, balancer));
    log.finish()?;
    super::check_file(&path)
}

fn plan(options: &Chaos, nodes: usize, rng: &mut Rng) -> Result<Vec<Step>, Error> {
    if !options.only.is_empty() {
        return faults::only(&options.only).map_err(Error::Cluster);
    }
    Ok(if options.short {
        faults::short(nodes, options.balancer)
    } else if options.figures {
        faults::figures(nodes)
    } else {
        faults::full(nodes, rng)
    })
}

/// The one beside this program, unless another is named.
fn broker(options: &Chaos) -> Result<PathBuf, Error> {
    let path = match &options.broker {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("claudemesh-broker"),
    };
    std::fs::canonicalize(&path).map_err(|_| {
        let path = path.display();
        Error::Cluster(format!("no broker at {path}: `cargo build --release`, or --broker"))
    })
}

impl Run {
    async fn live_through(&mut self, steps: &[Step]) -> Result<(), Error> {
        let began = self.shared.log.now();
        sleep(WARM_UP).await;
        self.served_since(began).await;
        for (number, step) in steps.iter().enumerate() {
            eprintln!(
                "chaos: {:>4} s  {}/{}  {}",
                self.shared.log.now() / 1_000,
                number + 1,
                steps.len(),
                step.name()
            );
            self.break_it(step).await?;
            let pause = self.rng.between(PAUSE_MS / 2, PAUSE_MS);
            sleep(Duration::from_millis(pause)).await;
        }
        Ok(())
    }

    /// One step: break, hold, mend, wait until everybody is served.
    async fn break_it(&mut self, step: &Step) -> Result<(), Error> {
        let Some(stage) = Stage::choose(&self.cluster, &self.meshes, &mut self.rng).await else {
            self.shared.complain(format!("{}: no node to break", step.name()));
            return Ok(());
        };
        let before = self.cluster.epochs().await;
        let meshes = self.hit_by(step, &stage).await;
        self.shared.note(What::FaultBegan {
            name: step.name(),
            meshes,
            forgets: step.forgets(),
            reachable: self.shared.balancer().is_some() && step.leaves_nodes_ready(),
        });
        let mut undos = Vec::new();
        let mut hold = Duration::ZERO;
        for fault in &step.faults {
            undos.extend(faults::begin(*fault, &mut self.cluster, &stage).await?);
            hold = hold.max(fault.hold(self.grace_ms));
            if step.faults.len() > 1 {
                sleep(Duration::from_millis(self.rng.below(1_000))).await;
            }
        }
        sleep(hold).await;
        // Servers first: a node that is started must find them.
        let (nodes, servers): (Vec<_>, Vec<_>) =
            undos.into_iter().partition(faults::Undo::needs_servers);
        for undo in servers.into_iter().chain(nodes) {
            faults::undo(undo, &mut self.cluster).await?;
        }
        self.cluster.tend().await?;
        self.shared.note(What::FaultEnded);
        let ended = self.shared.log.now();
        self.served_since(ended).await;
        self.shared.note(What::Recovered);
        let raised = self.cluster.epochs().await.saturating_sub(before);
        self.shared.note(What::Raised { times: raised });
        Ok(())
    }

    /// Meshes whose owner a step is meant for; none named, all are.
    async fn hit_by(&self, step: &Step, stage: &Stage) -> Vec<String> {
        let owners_only = |fault: &faults::Fault| fault.about().target == faults::Target::Owner;
        if !step.faults.iter().all(owners_only) {
            return Vec::new();
        }
        let mut meshes = self.cluster.owned_by(stage.owner).await;
        if meshes.is_empty() {
            meshes.push(stage.mesh.clone());
        }
        meshes
    }

    /// Waits until everybody has an ack for something sent after then.
    async fn served_since(&self, since: u64) {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let unserved = self.shared.unserved(since);
            if unserved.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                self.shared.complain(format!(
                    "{} s later these clients have had no ack: {unserved:?}",
                    RECOVERY.as_secs()
                ));
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Leaves the cluster alone, has some depart, and waits for as long as that may take to be seen.
    async fn calm_down(&self, phases: &watch::Sender<Phase>) {
        phases.send_replace(Phase::Calm);
        sleep(WARM_UP).await;
        phases.send_replace(Phase::Parting);
        sleep(Duration::from_millis(self.grace_ms) + DEPARTURE).await;
    }

    /// Has everybody come back, and waits until all that was acked has arrived.
    async fn settle(&self, phases: &watch::Sender<Phase>) {
        self.shared.note(What::Quiet);
        phases.send_replace(Phase::Quiet);
        let deadline = Instant::now() + SETTLING;
        sleep(RETURN).await;
        while Instant::now() < deadline {
            if self.shared.settled() && self.shared.missing() == 0 {
                break;
            }
            sleep(LOOK).await;
        }
        let open: Vec<_> = self
            .shared
            .standings
            .iter()
            .enumerate()
            .filter(|(_, standing)| !standing.gone.load(Relaxed))
            .map(|(who, standing)| (who, standing.open.load(Relaxed)))
            .filter(|(_, open)| *open > 0)
            .collect();
        eprintln!(
            "chaos: settled with {} messages missing, unanswered (client, messages): {open:?}",
            self.shared.missing()
        );
    }
}
