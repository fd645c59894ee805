//! A client that behaves like the real ones: it pipelines its sends, sends again under the same id
//! until it is acked, comes back to any node as soon as its connection ends, confirms what it gets
//! (or never does), and trusts nobody. All it does and sees goes into the log.

mod habits;
mod open;
mod outbox;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::watch;
use tokio::time::{Duration, sleep, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::log::{Kind, Message, What};
use super::rng::Rng;
use super::shared::{Door, Phase, Shared};
use crate::identity::Identity;
use crate::pipe::Pipe;
use crate::wire::{self, Incoming, Mark};
use habits::Visit;
pub(crate) use habits::pause;
pub(crate) use habits::{Habits, Leaving};
pub(crate) use open::{Failed, connect, greet};
use outbox::{Answer, Outbox};

/// What it takes to be one.
pub(crate) struct Client {
    pub(crate) me: u32,
    pub(crate) run: u32,
    pub(crate) kind: Kind,
    pub(crate) identity: Identity,
    pub(crate) habits: Habits,
    /// Whom it may write to: the client, and the target that reaches it.
    pub(crate) peers: Vec<(u32, String)>,
    pub(crate) rng: Rng,
    pub(crate) shared: Arc<Shared>,
}

/// How a connection came to its end.
enum End {
    Lost(String),
    /// It is time to go away for a while.
    Leave,
    Over,
}

/// One open connection.
struct Socket {
    conn: u32,
    pipe: Pipe,
    /// When something last came.
    heard: u64,
}

impl Client {
    /// Lives until the run is over.
    pub(crate) async fn live(mut self, mut phase: watch::Receiver<Phase>) {
        let mut outbox = Outbox::new(self.me, self.run);
        let mut visit = Visit::new(&self.habits, self.shared.log.now(), &mut self.rng);
        let mut conn = 0;
        let mut failures: u32 = 0;
        let mut last = None;
        while *phase.borrow_and_update() != Phase::Over {
            conn += 1;
            let door = self.choose(last.as_ref());
            let opened = tokio::select! {
                opened = self.connect(conn, &door) => opened,
                _ = phase.wait_for(|phase| *phase == Phase::Over) => return,
            };
            last = Some(door.node);
            let end = match opened {
                Ok(pipe) => {
                    failures = 0;
                    let heard = self.shared.log.now();
                    let mut socket = Socket { conn, pipe, heard };
                    let end = self.converse(&mut socket, &mut outbox, &mut phase, &visit).await;
                    self.part(socket, &end, &visit).await;
                    end
                }
                Err(failed) => {
                    let why = failed.why();
                    self.note(What::Closed { conn, why: why.clone() });
                    failures += 1;
                    End::Lost(why)
                }
            };
            match end {
                End::Over => break,
                End::Leave => {
                    if !self.stay_away(&mut visit, &mut phase).await {
                        return;
                    }
                }
                End::Lost(_) => sleep(pause(failures, &mut self.rng)).await,
            }
        }
    }

    /// The balancer; else any node, but rather not the one that has just failed.
    fn choose(&mut self, last: Option<&String>) -> Door {
        if let Some(port) = self.shared.balancer() {
            return Door { node: String::new(), port };
        }
        let doors = self.shared.doors().clone();
        let others: Vec<_> =
            doors.iter().filter(|door| Some(&door.node) != last).cloned().collect();
        let chosen = self.rng.pick(&others).or_else(|| doors.first());
        chosen.cloned().unwrap_or(Door { node: String::new(), port: 0 })
    }

    async fn connect(&mut self, conn: u32, door: &Door) -> Result<Pipe, Failed> {
        let (mut pipe, server) = connect(door.port).await.inspect_err(|failed| {
            if let Failed::Refused(why) = failed {
                self.note(What::ConnectionRefused { why: why.clone() });
            }
        })?;
        let node = server.and_then(|port| self.shared.behind(&port));
        self.note(What::Connected { conn, node: node.unwrap_or_else(|| door.node.clone()) });
        let presence = greet(&mut pipe, self.kind, &self.identity).await?;
        self.note(What::HelloAck { conn, presence });
        self.standing().online.store(true, Relaxed);
        Ok(pipe)
    }

    /// From the `hello_ack` until the connection is no more.
    async fn converse(
        &mut self,
        socket: &mut Socket,
        outbox: &mut Outbox,
        phase: &mut watch::Receiver<Phase>,
        visit: &Visit,
    ) -> End {
        outbox.reconnected();
        let mut frames = Vec::new();
        loop {
            let now = self.shared.log.now();
            let current = *phase.borrow_and_update();
            if current == Phase::Over {
                return End::Over;
            }
            let talks = !matches!(current, Phase::Quiet | Phase::Over);
            if talks && visit.is_over(now, current) {
                return End::Leave;
            }
            if talks {
                self.write(outbox, now);
            }
            self.flush(socket, outbox, now);
            let patience = self.habits.patience_ms;
            if now.saturating_sub(socket.heard) > patience && outbox.waits_since(now, patience) {
                return End::Lost("no answer".to_owned());
            }
            let wake = outbox.wake(now, talks).min(now + 250);
            tokio::select! {
                biased;
                changed = phase.changed() => if changed.is_err() { return End::Over },
                received = socket.pipe.receive(&mut frames) => {
                    socket.heard = self.shared.log.now();
                    if let Err(error) = received {
                        return End::Lost(error.to_string());
                    }
                }
                () = sleep(Duration::from_millis(wake.saturating_sub(now).max(1))) => {}
            }
            self.read(&mut frames, socket, outbox);
            self.standing().open.store(outbox.len(), Relaxed);
        }
    }

    /// First attempts that are due now.
    fn write(&mut self, outbox: &mut Outbox, now: u64) {
        while outbox.may_write(now) {
            let Some((to, target)) = self.rng.pick(&self.peers).cloned() else { return };
            outbox.write(to, target, &self.habits, now, &mut self.rng);
        }
    }

    fn flush(&mut self, socket: &mut Socket, outbox: &mut Outbox, now: u64) {
        for shot in outbox.launch(now) {
            self.note(What::Sent {
                conn: socket.conn,
                number: shot.number,
                to: shot.to,
                priority: shot.priority.to_owned(),
                id: shot.id,
            });
            socket.pipe.queue(shot.text);
        }
    }

    fn read(&mut self, frames: &mut Vec<Utf8Bytes>, socket: &mut Socket, outbox: &mut Outbox) {
        let now = self.shared.log.now();
        for text in frames.drain(..) {
            let Ok(frame) = serde_json::from_str::<Incoming<'_>>(&text) else { continue };
            match frame.kind.as_ref() {
                "ack" => self.acked(&frame, socket.conn, outbox, now),
                "push" if frame.subtype == "system" => self.seen(&text, socket.conn),
                "push" => self.pushed(&frame, socket),
                _ => {}
            }
        }
    }

    fn acked(&self, ack: &Incoming<'_>, conn: u32, outbox: &mut Outbox, now: u64) {
        let Some(number) = wire::number(&ack.id) else { return };
        let error = ack.error.as_deref().filter(|error| !error.is_empty());
        match outbox.answered(number, error, now) {
            Answer::Accepted { to, written } => {
                self.note(What::Acked { conn, number, id: ack.message_id.to_string() });
                self.shared.acked(Message { from: self.me, number }, to, written);
            }
            Answer::Refused { last } => {
                let error = error.unwrap_or_default().to_owned();
                self.note(What::Refused { conn, number, error, last });
            }
            // A late answer to something sent twice must still name the same message.
            Answer::Known if error.is_none() => {
                self.note(What::Acked { conn, number, id: ack.message_id.to_string() });
            }
            Answer::Known => {}
        }
    }

    fn pushed(&self, push: &Incoming<'_>, socket: &mut Socket) {
        let Some(mark) = Mark::read(&push.ciphertext).filter(|mark| mark.run == self.run) else {
            return;
        };
        let message = Message { from: mark.sender, number: mark.counter };
        let acked = self.kind != Kind::Silent;
        let (conn, id) = (socket.conn, push.message_id.to_string());
        self.note(What::Pushed { conn, id, message, to: mark.recipient, acked });
        self.shared.arrived(message);
        if acked {
            socket.pipe.queue(wire::client_ack(push));
        }
    }

    fn seen(&self, text: &str, conn: u32) {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        self.note(What::Seen {
            conn,
            name: word(&event["event"]),
            key: word(&event["eventData"]["pubkey"]),
            id: word(&event["messageId"]),
        });
    }

    /// Ends a connection, in one of the ways clients do.
    async fn part(&mut self, socket: Socket, end: &End, visit: &Visit) {
        self.standing().online.store(false, Relaxed);
        let conn = socket.conn;
        let why = match end {
            End::Lost(why) => why.clone(),
            End::Leave => "leaves".to_owned(),
            End::Over => "over".to_owned(),
        };
        let polite = match end {
            End::Lost(_) => false,
            // Half of all departures are without a word.
            End::Leave => self.rng.chance(50),
            End::Over => true,
        };
        if matches!(end, End::Leave) {
            self.standing().away.store(true, Relaxed);
            self.standing().gone.store(visit.is_last(), Relaxed);
            self.note(What::Departed { for_good: visit.is_last() });
        }
        // Whatever is read from now on is gone, as for a client that is being ended.
        if polite {
            let _ = timeout(Duration::from_secs(2), socket.pipe.close()).await;
        } else {
            drop(socket.pipe);
        }
        self.note(What::Closed { conn, why });
    }

    /// Stays away until its time has come; false if that is for good.
    async fn stay_away(&mut self, visit: &mut Visit, phase: &mut watch::Receiver<Phase>) -> bool {
        if visit.is_last() {
            return false;
        }
        let enough = sleep(self.habits.absence());
        tokio::pin!(enough);
        loop {
            let current = *phase.borrow_and_update();
            if matches!(current, Phase::Calm | Phase::Quiet | Phase::Over) {
                break;
            }
            tokio::select! {
                () = &mut enough, if current == Phase::Traffic => break,
                changed = phase.changed() => if changed.is_err() { break },
            }
        }
        visit.again(&self.habits, self.shared.log.now(), &mut self.rng);
        self.standing().away.store(false, Relaxed);
        true
    }

    fn standing(&self) -> &super::shared::Standing {
        &self.shared.standings[self.me as usize]
    }

    fn note(&self, what: What) {
        self.shared.log.add(self.me, what);
    }
}
