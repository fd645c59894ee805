//! Sessions that only stay: many sockets, in meshes of their own, that come back when they are closed.
//! Nobody among them ever leaves, so none may see another come or go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::client::{Failed, connect, greet, pause};
use super::cluster::Cluster;
use super::log::Kind;
use super::rng::Rng;
use super::shared::Shared;
use crate::Error;
use crate::identity::Identity;
use crate::pipe::Pipe;

/// Sessions of a mesh: what `MAX_CONNECTIONS_PER_MESH` allows by default.
const PER_MESH: u32 = 100;
/// Members of a mesh.
const MEMBERS: u32 = 10;
/// Sockets opened at once at the beginning.
const OPENED_AT_ONCE: usize = 20;

/// What all of them have seen.
#[derive(Default)]
struct Seen {
    connections: AtomicU64,
    /// By what was said.
    refused: Mutex<BTreeMap<String, u64>>,
    events: AtomicU64,
}

pub(super) struct Bystanders {
    seen: Arc<Seen>,
    sessions: u32,
    tasks: JoinSet<()>,
}

impl Bystanders {
    /// So many, all of them connected; each knows who was there before it.
    pub(super) async fn gather(
        cluster: &Cluster,
        sessions: u32,
        shared: &Arc<Shared>,
    ) -> Result<Self, Error> {
        let seen = Arc::new(Seen::default());
        let mut all = Vec::new();
        for number in 0..sessions.div_ceil(PER_MESH) {
            let mesh = cluster.mesh(&format!("bystanders-{number}"), MEMBERS).await?;
            for index in 0..PER_MESH.min(sessions - number * PER_MESH) {
                let identity = Identity::new(&mesh, index).map_err(|_| {
                    Error::Cluster("mesh create gave a key that is none".to_owned())
                })?;
                let rng = Rng::new(u64::from(number * PER_MESH + index));
                let (shared, seen) = (shared.clone(), seen.clone());
                all.push(Bystander { identity, shared, seen, rng });
            }
        }
        let (places, mut opening) = (Arc::new(Semaphore::new(OPENED_AT_ONCE)), JoinSet::new());
        for mut one in all {
            let places = places.clone();
            opening.spawn(async move {
                let _place = places.acquire_owned().await;
                let pipe = one.open().await;
                (one, pipe)
            });
        }
        let mut tasks = JoinSet::new();
        for (one, pipe) in opening.join_all().await {
            tasks.spawn(one.stay(pipe));
        }
        // Those who came first saw the others come.
        sleep(Duration::from_secs(u64::from(sessions > 0))).await;
        seen.events.store(0, Relaxed);
        Ok(Self { seen, sessions, tasks })
    }

    /// Ends them, and complains of what they have seen.
    pub(super) async fn judge(mut self, shared: &Shared) {
        self.tasks.shutdown().await;
        if self.sessions == 0 {
            return;
        }
        let Seen { connections, refused, events } = &*self.seen;
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        let events = events.load(Relaxed);
        let text = format!(
            "{} bystanders: {} connections, {} refused, {events} presence events",
            self.sessions,
            connections.load(Relaxed),
            refused.values().sum::<u64>()
        );
        if refused.is_empty() && events == 0 {
            eprintln!("chaos: {text}");
        } else {
            shared.complain(format!("{text}; {refused:?}"));
        }
    }
}

struct Bystander {
    identity: Identity,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    rng: Rng,
}

impl Bystander {
    async fn stay(mut self, mut pipe: Pipe) {
        let mut frames = Vec::new();
        loop {
            if pipe.receive(&mut frames).await.is_err() {
                sleep(pause(1, &mut self.rng)).await;
                pipe = self.open().await;
            }
            for text in frames.drain(..) {
                let is_event = ["peer_joined", "peer_left", "peer_returned"]
                    .iter()
                    .any(|name| text.contains(&format!(r#""event":"{name}""#)));
                self.seen.events.fetch_add(u64::from(is_event), Relaxed);
            }
        }
    }

    /// Tries until there is a connection.
    async fn open(&mut self) -> Pipe {
        let mut failures = 0;
        loop {
            match self.try_open().await {
                Ok(pipe) => {
                    self.seen.connections.fetch_add(1, Relaxed);
                    return pipe;
                }
                Err(Failed::Refused(why)) => {
                    let refused = self.seen.refused.lock();
                    let mut refused = refused.unwrap_or_else(PoisonError::into_inner);
                    *refused.entry(why).or_default() += 1;
                }
                Err(Failed::Hello(_)) => {}
            }
            failures += 1;
            sleep(pause(failures, &mut self.rng)).await;
        }
    }

    async fn try_open(&mut self) -> Result<Pipe, Failed> {
        let doors = self.shared.doors().clone();
        let port = self.shared.balancer();
        let port = port.or_else(|| self.rng.pick(&doors).map(|door| door.port)).unwrap_or_default();
        let (mut pipe, _) = connect(port).await?;
        greet(&mut pipe, Kind::Session, &self.identity).await?;
        Ok(pipe)
    }
}
