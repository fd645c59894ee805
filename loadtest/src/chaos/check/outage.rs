//! How long each fault kept whom waiting.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{Clients, Verdict};
use crate::chaos::log::{Line, Message, What};

/// One fault as its meshes lived through it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Outage {
    pub(crate) fault: String,
    pub(crate) began_ms: u64,
    /// How long it was kept up.
    pub(crate) held_ms: u64,
    /// From its end until everybody was served again; nothing if that did not come.
    pub(crate) recovered_ms: Option<u64>,
    /// For each mesh it hit, ascending: from its beginning to the first ack of a message sent after
    /// it.
    pub(crate) next_ack_ms: Vec<u64>,
    /// For each mesh it hit, ascending: the longest time without any ack.
    pub(crate) stall_ms: Vec<u64>,
    pub(crate) epoch_raises: Option<u64>,
}

#[derive(Default)]
struct Open {
    outage: Outage,
    hit: Vec<String>,
    ended: u64,
    next_ack: BTreeMap<String, u64>,
    stall: BTreeMap<String, u64>,
}

#[derive(Default)]
pub(super) struct Outages {
    open: Option<Open>,
    done: Vec<Outage>,
    /// When each message without an ack was first written.
    written: HashMap<Message, u64>,
    last_ack: BTreeMap<String, u64>,
    worst: u64,
    quiet: bool,
}

impl Outages {
    pub(super) fn take(&mut self, line: &Line, clients: &Clients) {
        let ms = line.ms;
        match &line.what {
            What::Sent { number, .. } => {
                self.written.entry(Message { from: line.who, number: *number }).or_insert(ms);
            }
            What::Acked { number, .. } => {
                let message = Message { from: line.who, number: *number };
                let written = self.written.remove(&message);
                if let (Some(written), Some(client)) = (written, clients.get(&line.who)) {
                    self.acked(&client.mesh, written, ms);
                }
            }
            What::FaultBegan { name, meshes, .. } => {
                self.close();
                let outage = Outage { fault: name.clone(), began_ms: ms, ..Outage::default() };
                self.open = Some(Open { outage, hit: meshes.clone(), ..Open::default() });
            }
            What::FaultEnded => {
                if let Some(open) = &mut self.open {
                    open.ended = ms;
                    open.outage.held_ms = ms - open.outage.began_ms;
                }
            }
            What::Recovered => {
                if let Some(open) = &mut self.open {
                    open.outage.recovered_ms = Some(ms - open.ended);
                }
            }
            What::Raised { times } => {
                if let Some(open) = &mut self.open {
                    open.outage.epoch_raises = Some(*times);
                }
                self.close();
            }
            What::Quiet => self.quiet = true,
            _ => {}
        }
    }

    fn acked(&mut self, mesh: &str, written: u64, ms: u64) {
        let last = self.last_ack.insert(mesh.to_owned(), ms).unwrap_or(ms);
        if self.quiet {
            return;
        }
        self.worst = self.worst.max(ms - last);
        let Some(open) = &mut self.open else { return };
        if !open.hit.is_empty() && open.hit.iter().all(|hit| hit != mesh) {
            return;
        }
        if written >= open.outage.began_ms {
            let after = ms - open.outage.began_ms;
            open.next_ack.entry(mesh.to_owned()).or_insert(after);
        }
        let stall = open.stall.entry(mesh.to_owned()).or_default();
        *stall = (*stall).max(ms - last);
    }

    fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let sorted = |of: BTreeMap<String, u64>| {
            let mut values: Vec<_> = of.into_values().collect();
            values.sort_unstable();
            values
        };
        open.outage.next_ack_ms = sorted(open.next_ack);
        open.outage.stall_ms = sorted(open.stall);
        self.done.push(open.outage);
    }

    pub(super) fn judge(&mut self, verdict: &mut Verdict) {
        self.close();
        verdict.worst_stall_ms = self.worst;
        verdict.outages = std::mem::take(&mut self.done);
    }
}
