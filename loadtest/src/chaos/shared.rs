//! What clients and runner know of each other while a run lasts: where the nodes are, what phase it
//! is, who has been served lately, what is still to arrive.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::log::{Log, Message, What};

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Traffic,
    /// The same while nothing is broken, and whoever is away comes back.
    Calm,
    /// The same, but who comes and goes leaves now, so that all can see it.
    Parting,
    /// Nothing new; come back, and settle what is open.
    Quiet,
    Over,
}

/// A node that clients may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    pub(crate) node: String,
    pub(crate) port: u16,
}

/// How one client is doing.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// When the latest acked message was first written.
    pub(crate) served: AtomicU64,
    /// It has left on purpose: nobody need wait for it.
    pub(crate) away: AtomicBool,
    /// For good: what is for it need not arrive.
    pub(crate) gone: AtomicBool,
    pub(crate) online: AtomicBool,
    /// Messages without an answer.
    pub(crate) open: AtomicU64,
}

pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) standings: Vec<Standing>,
    doors: Mutex<Vec<Door>>,
    /// What stands in front of the nodes, if anything.
    balancer: OnceLock<u16>,
    due: Mutex<Due>,
}

/// Messages acked and not arrived yet. One may arrive before its ack.
#[derive(Default)]
struct Due {
    /// And for whom.
    acked: HashMap<Message, u32>,
    arrived: HashSet<Message>,
}

impl Shared {
    pub(crate) fn new(log: Log, clients: usize) -> Self {
        Self {
            log,
            standings: std::iter::repeat_with(Standing::default).take(clients).collect(),
            doors: Mutex::default(),
            balancer: OnceLock::new(),
            due: Mutex::default(),
        }
    }

    pub(crate) fn doors(&self) -> MutexGuard<'_, Vec<Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only port that clients know from now on.
    pub(crate) fn put_behind(&self, balancer: u16) {
        let _ = self.balancer.set(balancer);
    }

    pub(crate) fn balancer(&self) -> Option<u16> {
        self.balancer.get().copied()
    }

    /// The node at this port, as the balancer calls it.
    pub(crate) fn behind(&self, port: &str) -> Option<String> {
        let port = port.parse::<u16>().ok()?;
        self.doors().iter().find(|door| door.port == port).map(|door| door.node.clone())
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was acked that was first written at `written`.
    pub(crate) fn acked(&self, message: Message, to: u32, written: u64) {
        let standing = &self.standings[message.from as usize];
        standing.served.fetch_max(written, Relaxed);
        let mut due = self.due();
        if !due.arrived.remove(&message) {
            due.acked.insert(message, to);
        }
    }

    /// A message has come, for the first time or again.
    pub(crate) fn arrived(&self, message: Message) {
        let mut due = self.due();
        if due.acked.remove(&message).is_none() {
            due.arrived.insert(message);
        }
    }

    /// Acked messages that have not arrived.
    pub(crate) fn missing(&self) -> usize {
        let gone = |to: &u32| self.standings[*to as usize].gone.load(Relaxed);
        self.due().acked.values().filter(|to| !gone(to)).count()
    }

    /// Who has had no ack of anything written since then, though it is there.
    pub(crate) fn unserved(&self, since: u64) -> Vec<usize> {
        let standings = self.standings.iter().enumerate();
        let unserved = standings.filter(|(_, standing)| {
            !standing.away.load(Relaxed) && standing.served.load(Relaxed) < since
        });
        unserved.map(|(who, _)| who).collect()
    }

    /// Whether everybody is online and nobody waits for an answer.
    pub(crate) fn settled(&self) -> bool {
        self.standings.iter().all(|standing| {
            let online = standing.online.load(Relaxed) && standing.open.load(Relaxed) == 0;
            standing.away.load(Relaxed) || online
        })
    }

    /// A line of the runner.
    pub(crate) fn note(&self, what: What) {
        self.log.add(super::log::RUNNER, what);
    }

    /// Something is wrong that no client can see.
    pub(crate) fn complain(&self, text: String) {
        eprintln!("chaos: {text}");
        self.note(What::Complaint { text });
    }
}
