//! What an operator can set: the only reader of the environment.
//!
//! One table ([`SETTINGS`]) names every setting with its default, its meaning and its parser. Each
//! is an environment variable and a flag; a flag wins over the environment, which wins over the
//! default. An empty value means "not set".
//!
//! Guarantees: everything is read before anything fails, and all mistakes are told at once, each
//! with its mend; a name one typo away from a setting is refused instead of ignored; passwords,
//! keys and tokens never reach an error, a log or a `Debug`. Left to others: what the values do.

mod checks;
mod mistake;
mod parse;
mod reading;
mod readme;
mod secret;
mod table;
mod typos;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;

pub use mistake::{Mistake, Mistakes};
pub use reading::{Purpose, Reading, Source, Value};
pub use readme::markdown;
pub use secret::Secret;
pub use table::{Group, SETTINGS, Secrecy, Setting};

/// The settings that have an effect, as the rest of the node uses them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Config {
    /// Postgres, if that is the store; else SQLite under [`data_dir`](Self::data_dir).
    pub database_url: Option<Secret>,
    /// Redis, through which the nodes of a cluster talk.
    pub redis_url: Option<Secret>,
    /// With which they prove to each other that they belong to one cluster.
    pub cluster_secret: Option<Secret>,
    /// The one before it, while it is being changed.
    pub cluster_secret_previous: Option<Secret>,
    /// Where the SQLite file lives.
    pub data_dir: Arc<Path>,
    /// Whether tables are left as they are at start.
    pub skip_migrate: bool,
    /// How long a node that starts waits for a store that is not there yet.
    pub store_wait: Duration,
    /// How old a connection to Postgres may grow; zero is without bound.
    pub db_connection_max_age: Duration,
    /// The address to listen on.
    pub bind_addr: IpAddr,
    /// The port to listen on; 0 lets the system pick.
    pub broker_port: u16,
    /// Where clients connect, as invites and client configurations say it.
    pub broker_ws_url: Arc<str>,
    /// Live connections one mesh may have.
    pub max_connections_per_mesh: usize,
    /// Presences one member may have in a mesh where there are others.
    pub max_sessions_per_member: usize,
    /// Hellos per minute and member; 0 is no limit.
    pub hello_rate_per_minute: u32,
    /// The largest `send`: ciphertext, nonce and target together.
    pub max_message_bytes: usize,
    /// The largest WebSocket frame of any verb.
    pub max_frame_bytes: usize,
    /// Sends per minute and member; 0 is no limit.
    pub send_rate_per_minute: u32,
    /// Sends that may come at once before the rate applies.
    pub send_burst: u32,
    /// How long a socket may stay without a hello.
    pub hello_timeout: Duration,
    /// Sockets without a hello that one address may hold.
    pub half_open_per_address: usize,
    /// The header in which a proxy names the client's address.
    pub client_address_header: Option<HeaderName>,
    /// What becomes of a direct message to somebody who is not here.
    pub offline_direct: OfflineDirect,
    /// How long a `working` status holds that nobody repeats.
    pub status_ttl: Duration,
    /// How long a hook's status counts as fresh.
    pub hook_fresh: Duration,
    /// Hook requests per minute and address.
    pub hook_rate_per_minute: u32,
    /// What hooks must show, if anything.
    pub hook_token: Option<Secret>,
    /// How long a kicked connection without a proven key stays out.
    pub kick_cooldown: Duration,
    /// How long a kicked session's proven key stays out.
    pub kick_session: Duration,
    /// Bytes of messages that may wait in one mesh.
    pub queue_bytes_per_mesh: u64,
    /// Bytes of messages that may wait for one recipient.
    pub queue_bytes_per_recipient: u64,
    /// How long a lost session keeps its presence.
    pub lease_grace: Duration,
    /// Over how long a stopping node spreads the closing of its sockets.
    pub drain: Duration,
    /// How long a draining node of a cluster still accepts sockets.
    pub drain_accept: Duration,
    /// This node's name.
    pub node_id: Arc<str>,
    /// What Fly.io calls the machine it runs on.
    pub fly_machine_id: Option<Arc<str>>,
    /// Whether Fly.io's proxy is asked to bring an upgrade that names its mesh to the mesh's owner.
    pub fly_replay: bool,
    /// Where it stands.
    pub region: Option<Arc<str>>,
    /// Where the stores are; unset, all regions are alike.
    pub home_region: Option<Arc<str>>,
    /// How often a node says that it lives.
    pub node_heartbeat: Duration,
    /// After how long without a heartbeat a node counts as gone.
    pub node_ttl: Duration,
    /// Where the node runs.
    pub node_env: NodeEnv,
    /// The build, as `/health` names it.
    pub git_sha: Option<Arc<str>>,
    /// What is logged: a level, or levels per module.
    pub log_level: Arc<str>,
}

/// See [`Config::offline_direct`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfflineDirect {
    /// Refuse it with `no_recipient`, as the reference does.
    Reject,
    /// Keep it until they come, if the mesh knows them.
    Queue,
}

/// See [`Config::node_env`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEnv {
    /// On somebody's desk.
    Development,
    /// For users.
    Production,
    /// Under test.
    Test,
}

impl Config {
    /// Whether this node stands where the stores are.
    pub fn is_home(&self) -> bool {
        self.home_region.is_none() || self.home_region == self.region
    }

    /// The configuration to serve with, or every mistake in it.
    pub fn from(
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        Reading::of(env, flags).config(Purpose::Serve)
    }

    /// The defaults, on a free port of the loopback, with the data in `data_dir`.
    pub fn for_tests(data_dir: &Path) -> Self {
        let mut config = Reading::of([], []).into_draft();
        config.data_dir = data_dir.into();
        config.bind_addr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        config.broker_port = 0;
        config.node_id = "test".into();
        config
    }

    /// What the parsers fill in. Every field is overwritten from the table or stays unset.
    fn blank() -> Self {
        Self {
            database_url: None,
            redis_url: None,
            cluster_secret: None,
            cluster_secret_previous: None,
            data_dir: Path::new("").into(),
            skip_migrate: false,
            store_wait: Duration::ZERO,
            db_connection_max_age: Duration::ZERO,
            bind_addr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            broker_port: 0,
            broker_ws_url: "".into(),
            max_connections_per_mesh: 0,
            max_sessions_per_member: 0,
            hello_rate_per_minute: 0,
            max_message_bytes: 0,
            max_frame_bytes: 0,
            send_rate_per_minute: 0,
            send_burst: 0,
            hello_timeout: Duration::ZERO,
            half_open_per_address: 0,
            status_ttl: Duration::ZERO,
            hook_fresh: Duration::ZERO,
            hook_rate_per_minute: 0,
            hook_token: None,
            kick_cooldown: Duration::ZERO,
            kick_session: Duration::ZERO,
            queue_bytes_per_mesh: 0,
            queue_bytes_per_recipient: 0,
            client_address_header: None,
            offline_direct: OfflineDirect::Reject,
            lease_grace: Duration::ZERO,
            drain: Duration::ZERO,
            drain_accept: Duration::ZERO,
            node_id: "".into(),
            fly_machine_id: None,
            fly_replay: false,
            region: None,
            home_region: None,
            node_heartbeat: Duration::ZERO,
            node_ttl: Duration::ZERO,
            node_env: NodeEnv::Development,
            git_sha: None,
            log_level: "".into(),
        }
    }
}

/// The process's environment. Names and values that are not Unicode are read as well as they go:
/// a setting of ours with such a value then fails its parser, everybody else's is not our business.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
}

#[cfg(test)]
mod tests;
