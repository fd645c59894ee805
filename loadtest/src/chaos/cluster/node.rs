//! One place and the process in it.

use std::path::Path;

use tokio::time::{Duration, Instant, sleep};

use super::child::{Child, Program};
use super::proxy::Proxy;
use super::{Cluster, Postgres, http_ok, ports};
use crate::Error;
use crate::chaos::log::What;

/// What the nodes of a run share.
pub(super) const SECRET: &str = "a-secret-for-the-nodes-of-one-chaos-run";

/// Until a node is ready. A second process on one store waits up to the grace for the first to go.
const READY: Duration = Duration::from_mins(1);
/// Over which a stopping node closes its sockets, and then some.
const DRAIN_SECONDS: u64 = 4;
const DRAINED: Duration = Duration::from_secs(DRAIN_SECONDS + 16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Working,
    Frozen,
}

pub(super) struct Place {
    /// Its `NODE_ID`.
    pub(super) name: String,
    /// What the log calls it: two processes may claim one name.
    pub(super) label: String,
    pub(super) port: u16,
    pub(super) to_postgres: Proxy,
    pub(super) to_redis: Option<Proxy>,
    child: Option<Child>,
    state: State,
}

impl Place {
    pub(super) fn is_alive(&self) -> bool {
        self.state != State::Empty
    }

    pub(super) fn is_working(&self) -> bool {
        self.state == State::Working
    }

    async fn answers_ready(&self) -> bool {
        http_ok(self.port, "/health/ready").await
    }
}

impl Cluster {
    /// A new place, without a process.
    pub(crate) async fn add_place(&mut self) -> Result<usize, Error> {
        let to_postgres = Proxy::start(self.postgres.port).await?;
        let to_redis = match &self.redis {
            Some(redis) => Some(Proxy::start(redis.port).await?),
            None => None,
        };
        let place = Place {
            name: String::new(),
            label: String::new(),
            port: ports::free()?,
            to_postgres,
            to_redis,
            child: None,
            state: State::Empty,
        };
        self.places.push(place);
        Ok(self.places.len() - 1)
    }

    /// Starts a process under a new name in an empty place.
    pub(crate) fn launch(&mut self, at: usize) -> Result<(), Error> {
        self.names += 1;
        let name = format!("node-{}", self.names);
        self.launch_as(at, name.clone(), name)
    }

    /// Starts one that claims the name of another.
    pub(crate) fn launch_twin(&mut self, at: usize, of: usize) -> Result<(), Error> {
        let name = self.places[of].name.clone();
        self.names += 1;
        self.launch_as(at, name.clone(), format!("{name}-twin-{}", self.names))
    }

    fn launch_as(&mut self, at: usize, name: String, label: String) -> Result<(), Error> {
        let place = &mut self.places[at];
        if place.is_alive() {
            return Ok(());
        }
        let mut broker = Program::new(&self.settings.broker);
        broker.command.arg("serve").current_dir(&self.settings.out);
        broker.command.envs([
            ("DATABASE_URL", Postgres::url(place.to_postgres.port)),
            ("NODE_ID", name.clone()),
            ("BIND_ADDR", "127.0.0.1".to_owned()),
            ("BROKER_PORT", place.port.to_string()),
            ("NODE_HEARTBEAT_MS", "500".to_owned()),
            ("NODE_TTL_MS", "3000".to_owned()),
            ("LEASE_GRACE_SECONDS", self.settings.grace_seconds.to_string()),
            ("SEND_RATE_PER_MINUTE", "0".to_owned()),
            ("DRAIN_SECONDS", DRAIN_SECONDS.to_string()),
            ("NODE_ENV", "test".to_owned()),
        ]);
        if let Some(proxy) = &place.to_redis {
            broker.command.env("REDIS_URL", format!("redis://127.0.0.1:{}", proxy.port));
            broker.command.env("CLUSTER_SECRET", SECRET);
        }
        let log = self.settings.out.join(format!("{label}.log"));
        place.child = Some(broker.start(Path::new(&log))?);
        (place.name, place.label, place.state) = (name, label, State::Working);
        Ok(())
    }

    /// Waits until it serves, and lets clients in.
    pub(crate) async fn ready(&mut self, at: usize) -> Result<(), Error> {
        let deadline = Instant::now() + READY;
        while !self.places[at].answers_ready().await {
            let place = &mut self.places[at];
            let ended = place.child.as_mut().and_then(Child::ended);
            if ended.is_some() || Instant::now() >= deadline {
                let name = &place.label;
                return Err(Error::Cluster(format!("{name} is not ready (ended: {ended:?})")));
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.open_door(at);
        Ok(())
    }

    /// Waits until it serves or ends, for so long; whether it serves.
    pub(crate) async fn serves_within(&mut self, at: usize, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.has_ended(at) {
            if self.places[at].answers_ready().await {
                self.open_door(at);
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Notices that a process has ended by itself, which it may.
    pub(crate) fn bury(&mut self, at: usize) {
        if self.places[at].is_alive() && self.has_ended(at) {
            let place = &mut self.places[at];
            (place.child, place.state) = (None, State::Empty);
            self.shared.note(What::NodeLost { node: self.label(at) });
        }
    }

    /// Waits until one of two with the same name has ended; the other keeps the name.
    pub(crate) async fn one_gives_way(&mut self, twin: usize, original: usize) {
        let deadline = Instant::now() + DRAINED;
        while Instant::now() < deadline {
            for at in [original, twin] {
                if self.has_ended(at) {
                    self.bury(at);
                    return self.close_door(at);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.shared.complain(format!("{} runs beside its twin", self.label(original)));
        self.remove(twin).await;
    }

    /// Whether its process has ended by itself.
    pub(crate) fn has_ended(&mut self, at: usize) -> bool {
        self.places[at].child.as_mut().is_none_or(|child| child.ended().is_some())
    }

    /// Ends it without warning.
    pub(crate) async fn kill(&mut self, at: usize) {
        let Some(mut child) = self.places[at].child.take() else { return };
        child.signal("KILL");
        let node = self.label(at);
        self.shared.note(What::NodeLost { node });
        child.end(DRAINED).await;
        self.places[at].state = State::Empty;
        // Its door stays: clients may well try it.
    }

    /// Ends a process and gives its place up.
    pub(crate) async fn remove(&mut self, at: usize) {
        self.kill(at).await;
        self.close_door(at);
    }

    /// Stops it where it stands.
    pub(crate) fn freeze(&mut self, at: usize) {
        let place = &mut self.places[at];
        if let Some(child) = place.child.as_ref().filter(|_| place.state == State::Working) {
            child.signal("STOP");
            place.state = State::Frozen;
            self.shared.note(What::NodeLost { node: place.label.clone() });
        }
    }

    pub(crate) fn thaw(&mut self, at: usize) {
        let place = &mut self.places[at];
        if let Some(child) = place.child.as_ref().filter(|_| place.state == State::Frozen) {
            child.signal("CONT");
            place.state = State::Working;
            self.shared.note(What::NodeBack { node: place.label.clone() });
        }
    }

    /// Asks it to go, and waits until it has gone with exit code 0.
    pub(crate) async fn drain(&mut self, at: usize) {
        let Some(mut child) = self.places[at].child.take() else { return };
        child.signal("TERM");
        let code = child.end(DRAINED).await;
        if code != Some(0) {
            let name = self.label(at);
            self.shared.complain(format!("{name} was asked to stop and ended with {code:?}"));
        }
        drop(child);
        self.places[at].state = State::Empty;
        // From here on others must not wait for what it held.
        self.shared.note(What::NodeLost { node: self.label(at) });
        self.close_door(at);
    }

    /// Asks every node to go at the same time.
    pub(crate) async fn drain_all(&mut self) {
        for place in &self.places {
            if let Some(child) = &place.child {
                child.signal("TERM");
            }
        }
        for at in 0..self.places.len() {
            self.drain(at).await;
        }
    }

    /// Processes that died though nobody killed them; they are started again.
    pub(crate) async fn tend(&mut self) -> Result<(), Error> {
        for at in 0..self.places.len() {
            if self.places[at].is_alive() && self.has_ended(at) {
                let place = &mut self.places[at];
                let code = place.child.take().and_then(|mut child| child.ended());
                place.state = State::Empty;
                let name = place.label.clone();
                self.shared.note(What::NodeLost { node: name.clone() });
                self.shared.complain(format!("{name} has ended by itself, with {code:?}"));
                self.launch(at)?;
                self.ready(at).await?;
            }
        }
        Ok(())
    }
}
