//! `burst` and `pace`: connects all peers, lets them go at once, and adds up what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::Error;
use crate::cli::Traffic;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::outgoing::Fate;
use crate::peer::{Peer, Phase, Progress, Run};
use crate::plan::{Load, Plan};
use crate::process;
use crate::report::{Broker, Report};
use crate::stats::Samples;
use crate::wire::{Composer, MARK_CHARS};

/// Peers that connect at a time.
pub(crate) const DOORS: usize = 32;
/// How often the end is looked for. Throughput ends with the last delivery, not with the look.
const LOOK: Duration = Duration::from_millis(20);
/// How long after the end duplicates may still show.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs `load` and reports.
pub(crate) async fn run(options: &Traffic, load: Load) -> Result<Report, Error> {
    let mesh = Mesh::read(&options.mesh)?;
    check(options, load)?;
    let plan = Plan { peers: options.peers, load };
    let seed = random()?;
    let (run, peers) = prepare(options, &mesh, plan, &seed)?;
    let (phase, watching) = watch::channel(Phase::Connecting);
    let mut tasks = JoinSet::new();
    for peer in peers {
        tasks.spawn(peer.live(watching.clone()));
    }
    drop(watching);
    connected(&run, &mut tasks).await?;

    let cpu_before = process::cpu_micros(&options.pid)?;
    let since = run.clock.micros();
    phase.send_replace(Phase::Sending(since));
    let mut done = Vec::new();
    finished(&run, options, since, &mut tasks, &mut done).await;
    let busy = run.clock.micros() - since;
    let cpu = process::cpu_micros(&options.pid).map(|after| after.saturating_sub(cpu_before));
    sleep(SETTLE).await;
    phase.send_replace(Phase::Over);
    while let Some(peer) = tasks.join_next().await {
        done.extend(peer.ok());
    }

    let mut report = add_up(&run, options, since, done);
    if !options.pid.is_empty() {
        // A broker that died is a finding, not a reason to keep the rest to oneself.
        report.broker = cpu.and_then(|cpu| weigh(options, cpu, busy, report.delivered)).ok();
    }
    report.passed = report.verdict() && (options.pid.is_empty() || report.broker.is_some());
    Ok(report)
}

fn check(options: &Traffic, load: Load) -> Result<(), Error> {
    let empty = match load {
        Load::Burst { messages } => messages == 0,
        Load::Steady { rate, seconds } => rate == 0 || seconds == 0,
    };
    if empty {
        Err(Error::Options("nothing to send"))
    } else if options.peers < 2 {
        Err(Error::Options("peers send to each other: at least two are needed"))
    } else if options.payload < MARK_CHARS {
        Err(Error::Options("a payload carries its sender and time: at least 48 characters"))
    } else if options.in_flight == 0 {
        Err(Error::Options("without anything in flight nothing is sent"))
    } else {
        Ok(())
    }
}

pub(crate) fn random() -> Result<[u8; 32], Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| Error::Options("no randomness on this machine"))?;
    Ok(seed)
}

fn prepare(
    options: &Traffic,
    mesh: &Mesh,
    plan: Plan,
    seed: &[u8; 32],
) -> Result<(Arc<Run>, Vec<Peer>), Error> {
    let identities = (0..options.peers)
        .map(|index| Identity::new(mesh, index))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::Options("a member's secret_key is malformed"))?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|offset| seed[at + offset]));
    let run = Arc::new(Run {
        id: word(4),
        clock: Clock::start(),
        plan,
        addresses: identities.iter().map(Identity::address).collect(),
        composer: Composer::new(options.payload, u64::from(word(8)) << 32 | u64::from(word(12))),
        hello: options.hello,
        acks: !options.no_ack,
        retry: options.retry,
        doors: Semaphore::new(DOORS),
        progress: Progress::default(),
    });
    let peers = (0..).zip(identities).map(|(me, identity)| {
        let url = options.url[me as usize % options.url.len()].clone();
        Peer::new(Arc::clone(&run), me, url, identity, options.in_flight)
    });
    Ok((Arc::clone(&run), peers.collect()))
}

/// Waits until all peers are connected. One that cannot ends the run.
async fn connected(run: &Run, tasks: &mut JoinSet<Peer>) -> Result<(), Error> {
    while run.progress.connected.load(Relaxed) < u64::from(run.plan.peers) {
        tokio::select! {
            Some(peer) = tasks.join_next() => {
                let lost = peer.map(|peer| peer.lost.join("; ")).unwrap_or_default();
                return Err(Error::Peer(lost));
            }
            () = sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// Waits until everything is answered and delivered, the deadline is over, or no peer is left.
async fn finished(
    run: &Run,
    options: &Traffic,
    since: u64,
    tasks: &mut JoinSet<Peer>,
    done: &mut Vec<Peer>,
) {
    let all = run.plan.all();
    let limit = Duration::from_secs(run.plan.seconds() + options.deadline);
    let deadline = run.clock.instant(since) + limit;
    loop {
        let Progress { accepted, refused, delivered, .. } = &run.progress;
        let (accepted, refused) = (accepted.load(Relaxed), refused.load(Relaxed));
        let over = accepted + refused == all && delivered.load(Relaxed) >= accepted;
        if over || tokio::time::Instant::now() >= deadline {
            return;
        }
        tokio::select! {
            peer = tasks.join_next() => match peer {
                Some(peer) => done.extend(peer.ok()),
                None => return,
            },
            () = sleep(LOOK) => {}
        }
    }
}

/// Sets what senders know against what recipients saw.
fn add_up(run: &Run, options: &Traffic, since: u64, mut peers: Vec<Peer>) -> Report {
    peers.sort_by_key(Peer::me);
    let mut report = Report {
        peers: options.peers,
        peers_ack: run.acks,
        retry: run.retry,
        payload: options.payload,
        planned: run.plan.all(),
        ..Report::default()
    };
    let by_index: BTreeMap<u32, &Peer> = peers.iter().map(|peer| (peer.me(), peer)).collect();
    for sender in &peers {
        for (number, fate) in sender.out.fates() {
            report.sent += u64::from(fate != Fate::Unsent);
            report.refused += u64::from(fate == Fate::Refused);
            report.unanswered += u64::from(fate == Fate::Unanswered);
            if fate == Fate::Accepted {
                let recipient = by_index.get(&run.plan.recipient(sender.me(), number));
                let counter = run.plan.counter(number);
                let came = recipient.is_some_and(|peer| peer.got.has(sender.me(), counter));
                report.accepted += 1;
                report.missing += u64::from(!came);
            }
        }
    }
    for recipient in &peers {
        for (sender, counter) in &recipient.got.inverted {
            let number = run.plan.number(*sender, recipient.me(), *counter);
            let resent = by_index.get(sender).is_some_and(|peer| peer.out.was_resent(number));
            *(if resent { &mut report.inversions_of_resent } else { &mut report.inversions }) += 1;
        }
        report.delivered += recipient.got.unique;
        report.duplicates += recipient.got.duplicates;
        report.foreign += recipient.got.foreign;
    }
    let last = peers.iter().map(|peer| peer.got.last).max().unwrap_or_default();
    let micros = last.saturating_sub(since).max(1);
    report.seconds = Duration::from_micros(micros).as_secs_f64();
    report.throughput = float(report.delivered) / report.seconds;
    gather(&mut report, peers);
    report
}

fn gather(report: &mut Report, peers: Vec<Peer>) {
    let (mut acks, mut deliveries) = (Samples::default(), Samples::default());
    for peer in peers {
        acks.absorb(peer.out.ack_latency);
        deliveries.absorb(peer.got.latency);
        for (text, count) in peer.out.refusals {
            *report.refusals.entry(text).or_default() += count;
        }
        for (code, count) in peer.errors {
            *report.errors.entry(code).or_default() += count;
        }
        for why in peer.lost {
            *report.connections_lost.entry(why).or_default() += 1;
        }
    }
    report.ack = acks.summary();
    report.delivery = deliveries.summary();
}

fn weigh(options: &Traffic, cpu: u64, busy: u64, delivered: u64) -> Result<Broker, Error> {
    Ok(Broker {
        cpu_percent: 100.0 * float(cpu) / float(busy.max(1)),
        cpu_micros_per_message: float(cpu) / float(delivered.max(1)),
        rss_kb: process::rss_kb(&options.pid)?,
        peak_rss_kb: process::peak_rss_kb(&options.pid)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts and microseconds stay far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
