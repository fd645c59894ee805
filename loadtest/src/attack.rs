//! A member that means no good, with all the sessions it may have, for as long as it is to last: what another mesh notices of it is measured
//! by `pace` beside, see `attacks.sh`.
//!
//! Each attack goes as fast as the broker lets it. A closed connection is opened again at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use crate::Error;
use crate::cli::Attack;
use crate::clock::wall_ms;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::pipe::Pipe;

/// Frames that one attacker has under way before it reads.
const BATCH: u64 = 64;
/// Between two attempts to come back.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a message that is never finished: what a socket may hold is 1 MiB.
const UNFINISHED_BYTES: usize = 700 * 1024;
/// Old sockets that a flapping session leaves half-open.
const HALF_OPEN: usize = 14;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One key reconnects all the time and leaves its old sockets open.
    Flap,
    /// Hello and goodbye, with a new key each time.
    Hellos,
    /// Hellos with new keys on one socket.
    SecondHellos,
    /// Lists of peers asked for, and not read.
    UnreadLists,
    /// Every question there is, answers read.
    Questions,
    /// Hidden, visible, hidden.
    Visible,
    /// Sends that are refused.
    RefusedSends,
    /// Confirmations of what never came.
    Acks,
    /// Pings.
    Pings,
    /// Messages that are never finished.
    Unfinished,
}

impl Kind {
    /// Attackers at once.
    fn sockets(self) -> u32 {
        match self {
            Self::Flap => 1,
            Self::Questions | Self::Hellos | Self::SecondHellos => 4,
            Self::UnreadLists | Self::RefusedSends | Self::Acks | Self::Pings => 10,
            Self::Visible | Self::Unfinished => 60,
        }
    }

    /// The next frame, if this is an attack by frames.
    fn frame(self, number: u64, mesh: &Mesh) -> Option<String> {
        let whom = &mesh.members[0].pubkey;
        Some(match self {
            Self::UnreadLists => r#"{"type":"list_peers","_reqId":"r"}"#.to_owned(),
            Self::Questions => match number % 4 {
                0 => r#"{"type":"list_peers","_reqId":"r"}"#.to_owned(),
                1 => r#"{"type":"audit_query","limit":200,"_reqId":"r"}"#.to_owned(),
                2 => r#"{"type":"message_status","messageId":"0000001A003pQoS8","_reqId":"r"}"#
                    .to_owned(),
                _ => r#"{"type":"audit_verify","_reqId":"r"}"#.to_owned(),
            },
            Self::Visible => format!(r#"{{"type":"set_visible","visible":{}}}"#, number % 2 == 1),
            Self::RefusedSends => {
                // A key that nobody has.
                let nobody = format!("{number:016x}{}", &whom[16..]);
                format!(
                    r#"{{"type":"send","id":"x{number}","targetSpec":"{nobody}","priority":"now","nonce":"bm9uY2U=","ciphertext":"Ym9keQ=="}}"#
                )
            }
            Self::Acks => {
                format!(r#"{{"type":"client_ack","brokerMessageId":"{number:020}abcdef"}}"#)
            }
            Self::Flap | Self::Hellos | Self::SecondHellos | Self::Pings | Self::Unfinished => {
                return None;
            }
        })
    }
}

/// One of them.
struct Attacker {
    kind: Kind,
    index: u32,
    url: String,
    mesh: Arc<Mesh>,
    ends: Instant,
    done: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
}

/// Attacks until the time is over, and says how often.
pub(crate) async fn run(options: &Attack) -> Result<(), Error> {
    let mut mesh = Mesh::read(&options.mesh)?;
    // One member, who is no admin.
    mesh.members = mesh.members.split_off(mesh.members.len() - 1);
    let mesh = Arc::new(mesh);
    let ends = Instant::now() + Duration::from_secs(options.seconds);
    let (done, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for index in 0..options.kind.sockets() {
        let (url, mesh) = (options.url.clone(), mesh.clone());
        let (done, closed) = (done.clone(), closed.clone());
        let attacker = Attacker { kind: options.kind, index, url, mesh, ends, done, closed };
        tasks.spawn(attacker.attack());
    }
    while tasks.join_next().await.is_some() {}
    let (done, closed) = (done.load(Relaxed), closed.load(Relaxed));
    println!("{:?}: {done} times, {closed} sockets refused or closed by the broker", options.kind);
    Ok(())
}

impl Attacker {
    async fn attack(self) {
        let mut keys = self.index;
        let mut half_open = VecDeque::new();
        while Instant::now() < self.ends {
            // A broker that stops answering does not prolong the run.
            let once = timeout_at(self.ends, self.once(&mut keys, &mut half_open)).await;
            if let Ok(Err(_)) = once {
                self.closed.fetch_add(1, Relaxed);
                sleep(PAUSE).await;
            }
        }
    }

    /// Until the socket ends, or something else must be opened.
    async fn once(&self, keys: &mut u32, half_open: &mut VecDeque<Pipe>) -> Result<(), Error> {
        match self.kind {
            Kind::Flap => {
                half_open.push_back(Pipe::open(&self.url, self.hello(self.index)?).await?);
                if half_open.len() > HALF_OPEN {
                    half_open.pop_front();
                }
                self.done.fetch_add(1, Relaxed);
            }
            Kind::Hellos => {
                *keys += self.kind.sockets();
                let pipe = Pipe::open(&self.url, self.hello(*keys)?).await?;
                pipe.close().await;
                self.done.fetch_add(1, Relaxed);
            }
            Kind::SecondHellos => {
                let (mut pipe, _) = Pipe::connect(&self.url).await?;
                loop {
                    *keys += self.kind.sockets();
                    pipe.greet(self.hello(*keys)?).await?;
                    self.done.fetch_add(1, Relaxed);
                }
            }
            Kind::Pings => {
                let mut pipe = Pipe::open(&self.url, self.hello(self.index)?).await?;
                loop {
                    for _ in 0..BATCH {
                        pipe.ping().await?;
                    }
                    self.done.fetch_add(BATCH, Relaxed);
                    tokio::task::yield_now().await;
                }
            }
            Kind::Unfinished => {
                let mut pipe = Pipe::open(&self.url, self.hello(self.index)?).await?;
                pipe.begin_message(UNFINISHED_BYTES).await?;
                self.done.fetch_add(1, Relaxed);
                let mut frames = Vec::new();
                loop {
                    pipe.receive(&mut frames).await?;
                    frames.clear();
                }
            }
            _ => self.by_frames().await?,
        }
        Ok(())
    }

    async fn by_frames(&self) -> Result<(), Error> {
        let mut pipe = Pipe::open(&self.url, self.hello(self.index)?).await?;
        let reads = self.kind != Kind::UnreadLists;
        let (mut number, mut frames) = (u64::from(self.index) << 32, Vec::new());
        loop {
            for _ in 0..BATCH {
                number += 1;
                pipe.queue(self.kind.frame(number, &self.mesh).unwrap_or_default());
            }
            pipe.flush().await?;
            self.done.fetch_add(BATCH, Relaxed);
            if reads {
                // What is there; nothing may be.
                let _ = timeout_at(Instant::now() + PAUSE, pipe.receive(&mut frames)).await.ok();
                frames.clear();
            }
        }
    }

    /// One of its sessions.
    fn hello(&self, index: u32) -> Result<String, Error> {
        let identity = Identity::new(&self.mesh, index)
            .map_err(|_| Error::Options("a member's secret_key is malformed"))?;
        Ok(identity.session_hello(wall_ms()))
    }
}
