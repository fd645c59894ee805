//! What a commit has come to, and what follows it.

use std::collections::HashMap;

use protocol::close;

use super::io::{Count, Effect, Now};
use super::pipeline::{Left, Then};
use super::state::{Mesh, Phase};
use crate::model::{Duplicate, Outcome, Seq};

impl Mesh {
    pub(super) fn committed(&mut self, now: Now, outcome: Outcome) {
        match outcome {
            Outcome::Committed { purged } => {
                self.pause = 0;
                self.chain.settle();
                if purged > 0 {
                    self.out.push(Effect::Count(Count::Dropped("banned", purged)));
                }
                let durable = self.pipeline.done();
                self.settled(now, durable);
            }
            Outcome::Known(known) => {
                let mut originals: HashMap<Seq, _> =
                    known.into_iter().map(|known| (known.seq, known.original)).collect();
                let taken = self.pipeline.take_out(&originals.keys().copied().collect());
                for accepted in taken {
                    let original = originals.remove(&accepted.envelope.seq);
                    self.accepted(accepted, original);
                }
            }
            Outcome::Fenced => {
                self.phase = Phase::Superseded;
                self.out.push(Effect::Superseded);
            }
            Outcome::Stopped { committed, at } => {
                let mut durable = self.pipeline.done();
                let behind = durable.split_off(committed.min(durable.len()));
                self.settled(now, durable);
                if let Some(stopped) = behind.into_iter().next() {
                    self.refuse_stopped(stopped, at);
                }
                // What was not written is worked out again, by those who asked for it.
                self.reactivate(now);
            }
        }
    }

    fn settled(&mut self, now: Now, thens: Vec<Then>) {
        for then in thens {
            match then {
                Then::Settled => {}
                Then::Accepted(accepted) => {
                    self.tail = self.tail.max(accepted.envelope.seq);
                    self.accepted(*accepted, None);
                }
                Then::Attached { no, conn, number, ack } => {
                    self.attached(now, no, conn, number, *ack);
                }
                Then::Done { conn, number, frame, tell } => {
                    self.out.push(Effect::Result { conn, number, frame });
                    if let Some(no) = tell {
                        self.announce_visibility(now, no);
                    }
                }
                Then::Left(left) => self.gone(now, *left),
                Then::Refused(refused) => self.out.push(*refused),
                Then::Said { conn, number, frame } => {
                    self.out.push(Effect::Result { conn, number, frame: Some(frame) });
                    self.let_on(now, conn);
                }
                Then::Refusal { conn, number, frame } => {
                    self.out.push(Effect::Refusal { conn, number, frame });
                }
            }
        }
    }

    /// Departures are durable: the one way in which what a session owned is freed.
    fn gone(&mut self, now: Now, left: Left) {
        for no in left.leases {
            self.left(now, no);
        }
        for member in &left.banned {
            self.delivery.forget_member(member);
        }
        if left.reinstated {
            self.reinstated.durable(now.mono);
        }
        if let Some((conn, number, frame)) = left.reply {
            self.out.push(Effect::Result { conn, number, frame });
        }
        for (conn, close) in left.conns {
            self.ending.remove(&conn);
            self.out.push(Effect::Close { conn, close });
        }
    }

    /// A unit that the store did not write: its data was refused, or its key was known.
    fn refuse_stopped(&mut self, stopped: Then, at: Option<Duplicate>) {
        match (stopped, at) {
            (Then::Accepted(accepted), Some(known)) => {
                self.accepted(*accepted, Some(known.original));
            }
            (Then::Accepted(accepted), None) => {
                let accepted = *accepted;
                let text = "invalid: the store refuses this message";
                self.refuse_send(accepted.conn, accepted.number, accepted.ack_id, "poison", text);
            }
            (Then::Attached { conn, number, .. }, _) => {
                let text = "hello rejected: malformed";
                self.turn_down(conn, number, "malformed", text, close::MALFORMED);
            }
            (Then::Done { conn, number, .. }, _) => {
                self.out.push(Effect::Result { conn, number, frame: None });
            }
            (Then::Left(left), _) => {
                if let Some((conn, number, _)) = left.reply {
                    self.out.push(Effect::Result { conn, number, frame: None });
                }
            }
            (Then::Settled | Then::Refused(_) | Then::Said { .. } | Then::Refusal { .. }, _) => {}
        }
    }
}
