//! One peer: one connection, one task, its share of the plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::Error;
use crate::clock::{Clock, wall_ms};
use crate::identity::Identity;
use crate::outgoing::{Outgoing, Settled, Shot};
use crate::pipe::Pipe;
use crate::plan::Plan;
use crate::tally::{Arrival, Tally};
use crate::wire::{self, Composer, Incoming, Mark};

/// Between two attempts to reconnect; every peer does so at the same time, as daemons do.
const RECONNECT: Duration = Duration::from_secs(1);

/// What the run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    /// Since this microsecond.
    Sending(u64),
    Over,
}

/// What all peers of a run have in common.
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) clock: Clock,
    pub(crate) plan: Plan,
    pub(crate) addresses: Vec<String>,
    pub(crate) composer: Composer,
    pub(crate) hello: bool,
    pub(crate) acks: bool,
    pub(crate) retry: bool,
    /// How many connect at a time: a herd would measure the listen queue.
    pub(crate) doors: Semaphore,
    pub(crate) progress: Progress,
}

/// How far the run is: only to know when it is over; the report counts anew.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) connected: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) delivered: AtomicU64,
}

/// What is known of a peer once it is done.
pub(crate) struct Peer {
    me: u32,
    url: String,
    identity: Identity,
    run: Arc<Run>,
    pub(crate) out: Outgoing,
    pub(crate) got: Tally,
    /// `error` frames by code.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Why connections ended before the run did.
    pub(crate) lost: Vec<String>,
}

impl Peer {
    pub(crate) fn new(
        run: Arc<Run>,
        me: u32,
        url: String,
        identity: Identity,
        window: usize,
    ) -> Self {
        Self {
            me,
            url,
            identity,
            out: Outgoing::new(run.plan, me, window, run.retry),
            got: Tally::new(me, run.id, run.plan.peers),
            errors: BTreeMap::new(),
            lost: Vec::new(),
            run,
        }
    }

    pub(crate) fn me(&self) -> u32 {
        self.me
    }

    /// Lives until the run is over, or until its connection ends and it may not come back.
    pub(crate) async fn live(mut self, mut phase: watch::Receiver<Phase>) -> Self {
        let mut first = true;
        while *phase.borrow_and_update() != Phase::Over {
            let Err(error) = self.connection(&mut phase, first).await else { break };
            self.lost.push(error.to_string());
            if !self.run.retry || *phase.borrow() == Phase::Connecting {
                break;
            }
            first = false;
            self.out.reconnected();
            sleep(RECONNECT).await;
        }
        self
    }

    /// One connection, from its hello to the end of the run.
    async fn connection(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        first: bool,
    ) -> Result<(), Error> {
        let mut pipe = tokio::select! {
            opened = self.open() => opened?,
            _ = phase.wait_for(|phase| *phase == Phase::Over) => return Ok(()),
        };
        if first {
            self.run.progress.connected.fetch_add(1, Relaxed);
        }
        let mut frames = Vec::new();
        loop {
            let now_in = *phase.borrow_and_update();
            let wake = match now_in {
                Phase::Over => break,
                Phase::Connecting => None,
                Phase::Sending(since) => {
                    let now = self.run.clock.micros();
                    for shot in self.out.launch(since, now) {
                        pipe.queue(self.compose(shot));
                    }
                    self.out.wake(since)
                }
            };
            tokio::select! {
                biased;
                changed = phase.changed() => if changed.is_err() { break },
                received = pipe.receive(&mut frames) => received?,
                () = sleep_until(self.run.clock.instant(wake.unwrap_or(0))), if wake.is_some() => {}
            }
            self.read(&mut frames, &mut pipe);
        }
        pipe.close().await;
        Ok(())
    }

    async fn open(&self) -> Result<Pipe, Error> {
        let _door = self.run.doors.acquire().await;
        let now = wall_ms();
        let hello = if self.run.hello {
            self.identity.hello(now)
        } else {
            self.identity.session_hello(now)
        };
        Pipe::open(&self.url, hello).await
    }

    fn compose(&self, shot: Shot) -> String {
        let plan = &self.run.plan;
        let recipient = plan.recipient(self.me, shot.number);
        let mark = Mark {
            run: self.run.id,
            sender: self.me,
            recipient,
            counter: plan.counter(shot.number),
            origin: shot.origin,
        };
        self.run.composer.send(shot.number, &self.run.addresses[recipient as usize], &mark)
    }

    fn read(&mut self, frames: &mut Vec<Utf8Bytes>, pipe: &mut Pipe) {
        let now = self.run.clock.micros();
        for text in frames.drain(..) {
            let Ok(frame) = serde_json::from_str::<Incoming<'_>>(&text) else {
                *self.errors.entry("unreadable frame".to_owned()).or_default() += 1;
                continue;
            };
            match frame.kind.as_ref() {
                "ack" => self.acked(&frame, now),
                "push" => self.pushed(&frame, now, pipe),
                "error" => *self.errors.entry(frame.code.into_owned()).or_default() += 1,
                _ => {}
            }
        }
    }

    fn acked(&mut self, ack: &Incoming<'_>, now: u64) {
        let Some(number) = wire::number(&ack.id) else { return };
        let error = ack.error.as_deref().filter(|error| !error.is_empty());
        let progress = &self.run.progress;
        match self.out.answered(number, error, now) {
            Settled::Accepted => progress.accepted.fetch_add(1, Relaxed),
            Settled::Refused => progress.refused.fetch_add(1, Relaxed),
            Settled::NotYet => return,
        };
    }

    fn pushed(&mut self, push: &Incoming<'_>, now: u64, pipe: &mut Pipe) {
        if push.subtype == "system" {
            return;
        }
        if self.run.acks {
            pipe.queue(wire::client_ack(push));
        }
        let limit = self.run.plan.counter(self.run.plan.total(0)) + 1;
        let arrival = Mark::read(&push.ciphertext)
            .map_or(Arrival::Foreign, |mark| self.got.take(&mark, limit, now));
        if arrival == Arrival::First {
            self.run.progress.delivered.fetch_add(1, Relaxed);
        }
    }
}
