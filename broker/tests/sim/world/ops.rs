//! What the store is asked to do, moment by moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use broker::mesh::io::{Answer, Input};
use broker::model::{MeshCommit, Outcome, Unit, Write};

use broker::seat::SeatInput;

use super::{Event, Mode, Op, Reply, Work, World};
use crate::client::{Client, wall};
use crate::faults::{Fault, Planted};
use crate::store::Durable;

impl World {
    pub(super) fn op(&mut self, process: u64, term: u64, work: Work) {
        let id = self.next_op;
        self.next_op += 1;
        let latency = if self.now < self.store_slow_until { 900 } else { 4 };
        let latency = self.rng.between(0, latency);
        self.ops.insert(id, Op { process, term, work, orphan: false, running: false });
        self.at(latency, Event::OpBegin(id));
    }

    pub(super) fn drop_op(&mut self, id: u64) {
        self.ops.remove(&id);
        self.store.locks.remove(&id);
        self.waiting.retain(|waiting| *waiting != id);
        self.unblock();
    }

    pub(super) fn fails(&mut self, process: u64, one_in: u64) -> bool {
        let cut = self.processes.get(&process).is_some_and(|p| self.now < p.cuts.store.1);
        self.now < self.store_down_until || cut || (self.chaos && self.rng.one_in(one_in))
    }

    pub(super) fn op_begin(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let process = op.process;
        match &op.work {
            Work::Beat => {
                let cut = self.processes.get(&process).is_some_and(|p| self.now < p.cuts.store.1);
                if self.now >= self.store_down_until && !cut {
                    self.store.now.beats.insert(process, self.now);
                }
                self.ops.remove(&id);
            }
            Work::Ask(ticket, question) => {
                let (ticket, question) = (*ticket, question.clone());
                let answer = if self.fails(process, 60) {
                    self.fire(Fault::AnswerFailed);
                    None
                } else {
                    let answer = self.store.answer(wall(self.now), &question);
                    if matches!(&answer, Answer::Moderation(known) if known.done.is_some()) {
                        self.fire(Fault::CommandRepeated);
                    }
                    Some(answer)
                };
                let pause = if answer.is_none() { 1_000 } else { 2 };
                if answer.is_none() {
                    self.check.trouble(self.now, self.now + pause);
                }
                let reply = Reply::Input(Input::Answer(ticket, answer));
                self.at(pause, Event::OpAnswer(id, reply));
            }
            Work::Review(asked) => {
                let asked = *asked;
                if self.fails(process, 60) {
                    self.check.trouble(self.now, self.now + 1_000);
                    self.ops.remove(&id);
                    return;
                }
                let membership = Arc::new(self.store.now.membership());
                let reply = Reply::Input(Input::Membership { asked, membership });
                self.at(2, Event::OpAnswer(id, reply));
            }
            Work::Commit(_) => self.commit_begin(id, process),
            Work::Activate { .. } => self.activate_begin(id, process),
        }
    }

    pub(super) fn commit_begin(&mut self, id: u64, process: u64) {
        let Some(Op { work: Work::Commit(commit), .. }) = self.ops.get(&id) else { return };
        let epoch = commit.epoch;
        if self.chaos && self.rng.one_in(400) {
            self.fire(Fault::CrashBeforeCommit);
            self.crash(process);
            return;
        }
        if self.fails(process, 150) {
            self.fire(Fault::CommitRefusedUnknown);
            return self.at(3, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
        }
        if !self.store.fence(id, epoch) {
            let fenced = Reply::Input(Input::Committed(Outcome::Fenced));
            return self.at(1, Event::OpAnswer(id, fenced));
        }
        if let Some(op) = self.ops.get_mut(&id) {
            op.running = true;
        }
        if self.chaos && self.rng.one_in(150) {
            // The caller hears of a failure; the backend goes on and commits later.
            self.fire(Fault::CommitDoneLate);
            self.at(1, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
            let late = self.rng.between(5, 400);
            return self.at(late, Event::OpEnd(id));
        }
        let latency = self.rng.between(0, 5);
        self.at(latency, Event::OpEnd(id));
    }

    pub(super) fn op_end(&mut self, id: u64) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.running = false;
        let Work::Commit(commit) = &op.work else { return };
        let (commit, orphan, process) = (commit.clone(), op.orphan, op.process);
        if orphan {
            self.fire(Fault::ZombieCommitLands);
        }
        self.check.landed(self.now, commit.epoch, self.store.now.epoch);
        let outcome = self.apply(&commit);
        self.store.locks.remove(&id);
        self.unblock();
        if !self.ops.contains_key(&id) || orphan {
            self.ops.remove(&id);
            return;
        }
        if self.chaos && self.rng.one_in(400) {
            self.fire(Fault::CrashAfterCommit);
            self.crash(process);
        } else if self.chaos && self.rng.one_in(if is_command(&commit) { 8 } else { 150 }) {
            self.fire(Fault::CommitDoneUnknown);
            self.at(2, Event::OpAnswer(id, Reply::Input(Input::CommitUnknown)));
        } else {
            self.at(1, Event::OpAnswer(id, Reply::Input(Input::Committed(outcome))));
        }
    }

    /// A poison row makes the committer write unit by unit, up to the one that is refused.
    pub(super) fn apply(&mut self, commit: &MeshCommit) -> Outcome {
        let units = &commit.units;
        if !units.iter().any(is_poison) {
            return self.land(units);
        }
        self.fire(Fault::PoisonRow);
        let mut all_purged = 0;
        for (committed, unit) in units.iter().enumerate() {
            if is_poison(unit) {
                return Outcome::Stopped { committed, at: None };
            }
            match self.land(std::slice::from_ref(unit)) {
                Outcome::Committed { purged } => all_purged += purged,
                Outcome::Known(known) => {
                    return Outcome::Stopped { committed, at: known.into_iter().next() };
                }
                other => return other,
            }
        }
        Outcome::Committed { purged: all_purged }
    }

    fn land(&mut self, units: &[Unit]) -> Outcome {
        self.remember();
        let outcome = self.store.commit(self.now, units);
        if matches!(outcome, Outcome::Committed { .. }) {
            if let Outcome::Committed { purged: 1.. } = outcome {
                self.fire(Fault::Purged);
            }
            self.check.committed(self.now, units, &self.store.now);
            self.check.clash(self.now, self.store.clash.take());
        }
        outcome
    }

    pub(super) fn activate_begin(&mut self, id: u64, process: u64) {
        if self.chaos && self.rng.one_in(60) {
            self.fire(Fault::CrashBeforeActivation);
            self.crash(process);
            return;
        }
        if self.fails(process, 20) {
            self.fire(Fault::ActivationFailed);
            return self.at(3, Event::OpAnswer(id, Reply::Input(Input::NotActivated)));
        }
        if self.planted == Some(Planted::OneSnapshot) {
            let durable = Box::new(self.store.now.clone());
            if let Some(Op { work: Work::Activate { snapshot, .. }, .. }) = self.ops.get_mut(&id) {
                *snapshot = Some(durable);
            }
        }
        self.waiting.push(id);
        self.unblock();
    }

    /// A raise takes the row as soon as nobody holds it.
    pub(super) fn unblock(&mut self) {
        if !self.store.locks.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            self.remember();
            let Some(op) = self.ops.get_mut(&id) else { continue };
            let process = op.process;
            let Work::Activate { floor, raised, .. } = &mut op.work else { continue };
            let (epoch, before) = self.store.raise(self.now, process, *floor);
            *raised = Some(epoch);
            if before != process && self.mode == Mode::Alone {
                self.lost.push(before);
            }
            self.check.raised(self.now, epoch, process);
            self.note_owner();
            let pause = self.rng.between(0, 3);
            self.at(pause, Event::ActivationRead(id));
        }
        let now = self.now;
        for process in std::mem::take(&mut self.lost) {
            for socket in self.sockets.values_mut().filter(|socket| socket.process == process) {
                socket.lost_at.get_or_insert(now);
            }
        }
        self.look_for_owner();
    }

    /// What clients hear is up to another owner now.
    fn note_owner(&mut self) {
        // Who is on a node that others cannot reach does not know that it hears nothing.
        let hears = |client: &&Client| {
            let socket = client.socket.and_then(|socket| self.sockets.get(&socket));
            client.attached
                && socket.is_some_and(|s| !s.stalled && s.lost_at.is_none() && s.process != 0)
        };
        let told: BTreeSet<_> = self.clients.iter().filter(hears).map(|c| c.identity).collect();
        self.check.owner_changed(self.now, |identity| told.contains(&identity));
    }

    pub(super) fn activation_read(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let process = op.process;
        let Work::Activate { snapshot, raised: Some(epoch), .. } = &op.work else { return };
        let from = snapshot.as_deref().unwrap_or(&self.store.now);
        let activation = self.store.read(from, *epoch);
        if self.chaos && self.rng.one_in(60) {
            self.fire(Fault::CrashAfterActivation);
            self.crash(process);
            return;
        }
        let reply = Reply::Activated(Some(Box::new(activation)));
        self.at(1, Event::OpAnswer(id, reply));
    }

    pub(super) fn op_answer(&mut self, id: u64, reply: Reply) {
        let Some(op) = self.ops.get(&id) else { return };
        let (process, term, orphan) = (op.process, op.term, op.orphan);
        // A late commit stays with the store when its caller has been told that nobody knows.
        if op.running {
            self.ops.get_mut(&id).expect("just seen").orphan = true;
        } else {
            self.ops.remove(&id);
        }
        if orphan {
            return;
        }
        if self.planted == Some(Planted::AckBeforeCommit)
            && matches!(&reply, Reply::Input(Input::Committed(_)))
        {
            return;
        }
        let input = match reply {
            Reply::Input(review @ Input::Membership { .. }) => {
                return self.input(process, SeatInput::Local(review));
            }
            Reply::Input(input) => input,
            Reply::Activated(activation) => {
                let entropy = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
                Input::Activated { activation, entropy, edges: Vec::new() }
            }
        };
        self.input(process, SeatInput::Store(term, input));
    }

    /// Once a second a node asks how the members stand that are here.
    pub(super) fn review(&mut self, process: u64) {
        let asked = self.time(process).mono;
        let Some(state) = self.processes.get(&process) else { return };
        let serves = state.seat.mesh().and_then(broker::mesh::Mesh::serving).is_some();
        let serves = serves && !state.frozen;
        self.at(1_000, Event::Review(process));
        if serves && self.planted != Some(Planted::RemovalUnheard) {
            self.op(process, 0, Work::Review(asked));
        }
    }

    pub(crate) fn slow_store(&mut self, until: u64) {
        self.store_slow_until = until;
    }

    fn remember(&mut self) {
        if let Some(past) = &mut self.past {
            past.push((self.store.now.clone(), self.check.mark()));
        }
    }

    /// A replica takes the store's place that has not seen the last commits. Whatever is under way
    /// has an unknown outcome.
    pub(crate) fn promote(&mut self, lost: usize) {
        let mut past = self.past.take().unwrap_or_default();
        let kept = past.len().checked_sub(lost).expect("so many commits");
        let (then, mark) = past.remove(kept);
        let ids = |store: &Durable| -> BTreeSet<String> {
            store.envelopes.values().map(|row| row.envelope.id.to_string()).collect()
        };
        self.lost_tail = &ids(&self.store.now) - &ids(&then);
        self.store.now = then;
        self.check.rewind(mark, &self.store.now);
        for (_, op) in std::mem::take(&mut self.ops) {
            let unknown = match op.work {
                Work::Commit(_) => Input::CommitUnknown,
                Work::Activate { .. } => Input::NotActivated,
                Work::Ask(ticket, _) => Input::Answer(ticket, None),
                Work::Beat | Work::Review(_) => continue,
            };
            if !op.orphan {
                self.input(op.process, SeatInput::Store(op.term, unknown));
            }
        }
        self.store.locks.clear();
        self.waiting.clear();
        self.look_for_owner();
    }

    /// What was asked of the store is nobody's business any more; it may do it all the same.
    pub(super) fn forget_ops(&mut self, process: u64) {
        for op in self.ops.values_mut().filter(|op| op.process == process) {
            op.orphan = true;
        }
        let reads =
            |op: &Op| !matches!(op.work, Work::Commit(_) | Work::Beat) && op.process == process;
        let reads: Vec<_> =
            self.ops.iter().filter(|(_, op)| reads(op)).map(|(id, _)| *id).collect();
        for op in reads {
            if self.rng.one_in(2) {
                self.drop_op(op);
            }
        }
    }

    /// No faults from here on; everybody who wants to be here comes back.
    pub(crate) fn calm(&mut self) {
        self.chaos = false;
        self.calm_since = self.now;
        self.store_down_until = 0;
        self.store_slow_until = 0;
        self.archive(false);
        self.heal_all();
        self.unstall();
        self.grant_all();
        // Nobody goes on with what the store will never take.
        for client in &mut self.clients {
            client.unacked.retain(|body, _| !body.starts_with("poison"));
            client.clock = 0;
        }
    }
}

fn is_poison(unit: &Unit) -> bool {
    unit.0.iter().any(
        |write| matches!(write, Write::Accept(a) if a.envelope.ciphertext.starts_with("poison")),
    )
}

/// Commands that must not be executed again are repeated more often than chance would have it.
fn is_command(commit: &MeshCommit) -> bool {
    let mut writes = commit.units.iter().flat_map(|unit| &unit.0);
    writes.any(|write| matches!(write, Write::Done { .. }))
}
