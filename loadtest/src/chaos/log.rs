//! What happened in a run, line by line: written while it runs, judged afterwards by `check`.
//!
//! One file for all clients and for the runner itself. Lines stand in the order in which one thread
//! saw things happen, so a line's place says more than its time, which is in milliseconds since the
//! run began.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::clock::Clock;

/// The runner's lines: those of no client.
pub(crate) const RUNNER: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) ms: u64,
    /// Which client, counted over all meshes.
    pub(crate) who: u32,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// How a client behaves, which is what it may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// `session_hello` with a key of its own; confirms what it receives.
    Session,
    /// `hello` on channel `claudemesh-daemon`; reached by its member's key.
    Daemon,
    /// `hello` with a key it does not prove; never confirms.
    Silent,
}

/// A message: its sender, and which one of that sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) from: u32,
    pub(crate) number: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum What {
    /// A client as it will be for the whole run.
    Client {
        mesh: String,
        member: String,
        kind: Kind,
        /// What system events call it.
        key: String,
    },
    /// A socket is open on this node, and the hello written.
    Connected {
        conn: u32,
        node: String,
    },
    HelloAck {
        conn: u32,
        presence: String,
    },
    /// A send is written, for the first time or again.
    Sent {
        conn: u32,
        number: u32,
        to: u32,
        priority: String,
        /// Whether it may be sent again: it carries a client's id.
        id: bool,
    },
    Acked {
        conn: u32,
        number: u32,
        id: String,
    },
    /// An ack with an error. `last` if the client gives the message up.
    Refused {
        conn: u32,
        number: u32,
        error: String,
        last: bool,
    },
    /// A message has come; `acked` if a `client_ack` was written for it.
    Pushed {
        conn: u32,
        id: String,
        message: Message,
        to: u32,
        acked: bool,
    },
    /// A system event about the peer `key`.
    Seen {
        conn: u32,
        name: String,
        key: String,
        id: String,
    },
    Closed {
        conn: u32,
        why: String,
    },
    /// There was no socket to be had: nobody listens, or a balancer knows of nobody.
    ConnectionRefused {
        why: String,
    },
    /// It left by its own will and stays away for longer than the grace; or for good.
    Departed {
        for_good: bool,
    },
    /// The nodes' settings that matter to the checker.
    Settings {
        grace_ms: u64,
    },
    /// Others may hold this node for dead: killed, stopped, or cut off.
    NodeLost {
        node: String,
    },
    NodeBack {
        node: String,
    },
    FaultBegan {
        name: String,
        /// Meshes it hits by the plan; all if empty.
        meshes: Vec<String>,
        /// Redis and owners are lost together: graces may be forgotten.
        forgets: bool,
        /// Behind a balancer: somebody must take every connection.
        #[serde(default)]
        reachable: bool,
    },
    /// All is undone; now it must recover.
    FaultEnded,
    /// Traffic flows for everybody.
    Recovered,
    /// How often the fault had meshes' epochs raised.
    Raised {
        times: u64,
    },
    /// Something the runner itself saw go wrong.
    Complaint {
        text: String,
    },
    /// No more first sends; everybody is back and waits for what is still due.
    Quiet,
}

/// Writes lines; cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    file: Arc<Mutex<BufWriter<File>>>,
    clock: Clock,
}

impl Log {
    pub(crate) fn create(path: &Path, clock: Clock) -> Result<Self, Error> {
        Ok(Self { file: Arc::new(Mutex::new(BufWriter::new(File::create(path)?))), clock })
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.micros() / 1000
    }

    pub(crate) fn add(&self, who: u32, what: What) {
        let line = Line { ms: self.now(), who, what };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk shows when the file is closed.
        if serde_json::to_writer(&mut *file, &line).is_ok() {
            let _ = file.write_all(b"\n");
        }
    }

    pub(crate) fn finish(&self) -> Result<(), Error> {
        Ok(self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()?)
    }
}

/// Reads lines back, one by one: a long run's file is larger than what should be in memory.
pub(crate) fn read(path: &Path) -> Result<impl Iterator<Item = Result<Line, Error>>, Error> {
    let failed = |why: String| Error::Log { path: path.display().to_string(), why };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let path = path.display().to_string();
    Ok(BufReader::new(file).lines().zip(1..).map(move |(line, number): (_, u64)| {
        let parsed = line.map_err(|error| error.to_string()).and_then(|line| {
            serde_json::from_str(&line).map_err(|error| format!("line {number}: {error}"))
        });
        parsed.map_err(|why| Error::Log { path: path.clone(), why })
    }))
}
