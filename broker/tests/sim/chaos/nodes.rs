//! What happens to nodes, to their Redis, and to what they say to each other.

use crate::faults::Fault;
use crate::world::{Cuts, World};

/// After what reasons a mesh may have a new owner.
const REASONS: [Fault; 24] = [
    Fault::CrashBeforeCommit,
    Fault::CrashAfterCommit,
    Fault::CrashBeforeActivation,
    Fault::CrashAfterActivation,
    Fault::CrashAnytime,
    Fault::CommitRefusedUnknown,
    Fault::CommitDoneUnknown,
    Fault::CommitDoneLate,
    Fault::StoreDown,
    Fault::StoreSlow,
    Fault::StoreBlind,
    Fault::PoisonRow,
    Fault::TwoProcesses,
    Fault::Frozen,
    Fault::RedisBlind,
    Fault::Deaf,
    Fault::Mute,
    Fault::Unanswered,
    Fault::Gagged,
    Fault::RedisDown,
    Fault::RedisForgets,
    Fault::Drain,
    Fault::Suspected,
    Fault::SeatForgotten,
];

impl World {
    /// How many faults this history has seen that may move the mesh.
    pub(crate) fn reasons(&self) -> usize {
        let all = REASONS.iter().filter_map(|fault| self.coverage.get(fault));
        usize::try_from(all.sum::<u64>()).expect("few")
    }

    pub(super) fn trouble_nodes(&mut self) {
        let all: Vec<_> = self.processes.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        // More often than not whoever has the mesh.
        let any = *self.rng.pick(&all);
        let node = self.owner().filter(|_| self.rng.one_in(2)).unwrap_or(any);
        match self.rng.between(0, 15) {
            0 => {
                self.fire(Fault::CrashAnytime);
                self.crash(node);
            }
            1 => {
                self.fire(Fault::Frozen);
                let pause = self.brief(20_000);
                self.freeze(node, pause);
            }
            2 if self.rng.one_in(2) => self.freeze_and_replace(node),
            3 | 4 => self.cut(node, Fault::RedisBlind, 25_000, |cuts, until| cuts.blind = until),
            5 | 6 => self.cut(node, Fault::Deaf, 8_000, |cuts, until| cuts.deaf = until),
            7 => self.cut(node, Fault::Mute, 8_000, |cuts, until| cuts.mute = until),
            8 if self.rng.one_in(2) => {
                self.cut(node, Fault::Unanswered, 8_000, |cuts, until| cuts.unanswered = until);
            }
            8 => self.cut(node, Fault::Gagged, 8_000, |cuts, until| cuts.gagged = until),
            9 => {
                let now = self.now;
                self.cut(node, Fault::StoreBlind, 12_000, |cuts, until| cuts.store = (now, until));
            }
            10 => self.begin_drain(node),
            11 if self.rng.one_in(4) => {
                self.fire(Fault::WholeStop);
                for id in all {
                    self.crash(id);
                }
            }
            _ => self.trouble_redis(),
        }
    }

    /// Mostly short, at times up to `most`.
    fn brief(&mut self, most: u64) -> u64 {
        let most = if self.rng.one_in(3) { most } else { most / 6 };
        self.rng.between(100, most)
    }

    fn cut(&mut self, id: u64, fault: Fault, most: u64, end: impl FnOnce(&mut Cuts, u64)) {
        let lasts = self.brief(most);
        let until = self.now + lasts;
        if let Some(process) = self.processes.get_mut(&id) {
            end(&mut process.cuts, until);
            self.fire(fault);
            self.cut_off(id, lasts);
        }
    }

    fn trouble_redis(&mut self) {
        let now = self.now;
        let (lasts, fault) = match self.rng.between(0, 3) {
            0 => {
                let lasts = self.brief(15_000);
                self.redis.down_until = now + lasts;
                (lasts, Fault::RedisDown)
            }
            1 => {
                let lasts = self.brief(3_000);
                self.redis.paused_until = now + lasts;
                (lasts, Fault::RedisPauses)
            }
            2 => {
                let lasts = self.brief(4_000);
                self.redis.drops_until = now + lasts;
                (lasts, Fault::RedisDrops)
            }
            _ => {
                self.redis.forget();
                (0, Fault::RedisForgets)
            }
        };
        self.fire(fault);
        if lasts > 0 {
            for id in self.processes.keys().copied().collect::<Vec<_>>() {
                self.cut_off(id, lasts);
            }
        }
    }
}
