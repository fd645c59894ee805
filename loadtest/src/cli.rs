//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Load generator and probes for brokers that speak the claudemesh protocol")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every peer sends its messages as fast as the window of unacked ones lets it.
    Burst {
        /// Messages each peer sends.
        #[arg(long, default_value_t = 1000)]
        messages: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// All peers together send at a fixed rate, whatever comes back.
    Pace {
        /// Messages per second, of all peers together.
        #[arg(long, default_value_t = 2000)]
        rate: u32,
        /// For how long.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
        #[command(flatten)]
        traffic: Traffic,
    },
    /// Opens sessions that do nothing and weighs the broker.
    Idle(Idle),
    /// Asks for everything the wire contract promises, check by check.
    Conformance(Conformance),
    /// Starts a cluster of its own, breaks it in every way it knows, and judges what clients saw.
    Chaos(Chaos),
    /// A member that means no good: one kind of attack, for a while.
    Attack(Attack),
    /// Signs hellos for k6, on this machine alone, until it is ended.
    Signer(Signer),
    /// Judges the log of an earlier run of `chaos`.
    ChaosCheck {
        /// The run's `log.jsonl`.
        file: PathBuf,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Traffic {
    /// What `claudemesh-broker mesh create … --json` wrote.
    #[arg(long)]
    pub(crate) mesh: PathBuf,
    /// The broker; given several times, peers take turns.
    #[arg(long, required = true)]
    pub(crate) url: Vec<String>,
    /// Connections, spread over the members of the mesh.
    #[arg(long, default_value_t = 100)]
    pub(crate) peers: u32,
    /// Characters of ciphertext in a message.
    #[arg(long, default_value_t = 512)]
    pub(crate) payload: usize,
    /// Sends of one peer that may wait for their ack.
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Connect with `hello` and an unproven session key instead of `session_hello`.
    #[arg(long)]
    pub(crate) hello: bool,
    /// Do not confirm what is received with `client_ack`.
    #[arg(long)]
    pub(crate) no_ack: bool,
    /// Send again, under the same id, what was not acked; reconnect when the socket ends.
    #[arg(long)]
    pub(crate) retry: bool,
    /// Seconds after which what has not arrived counts as missing (after the last send is due).
    #[arg(long, default_value_t = 120)]
    pub(crate) deadline: u64,
    /// The broker's process, to measure its processor time and memory; several are added up.
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Idle {
    /// As for `burst`; given several times, sessions take turns.
    #[arg(long, required = true)]
    pub(crate) mesh: Vec<PathBuf>,
    /// The broker; given several times, sessions take turns.
    #[arg(long, required = true)]
    pub(crate) url: Vec<String>,
    /// Sessions to open.
    #[arg(long, default_value_t = 1000)]
    pub(crate) sessions: u32,
    /// Rest before weighing.
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u64,
    /// The broker's process; several are added up.
    #[arg(long, required = true)]
    pub(crate) pid: Vec<u32>,
    /// Seconds that opening all of them may take.
    #[arg(long, default_value_t = 120)]
    pub(crate) deadline: u64,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Signer {
    /// As for `burst`.
    #[arg(long)]
    pub(crate) mesh: PathBuf,
    /// Where to listen: an address of this machine's own.
    #[arg(long, default_value = "127.0.0.1:7999")]
    pub(crate) listen: SocketAddr,
    /// What whoever asks must show, as `Authorization: Bearer TOKEN`.
    #[arg(long)]
    pub(crate) token: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Conformance {
    /// As for `burst`; twelve members at the least.
    #[arg(long)]
    pub(crate) mesh: PathBuf,
    /// The broker: `http://host:port` or `ws://host:port/ws`.
    #[arg(long)]
    pub(crate) url: String,
    /// Only checks whose name contains this.
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// The broker's `HOOK_TOKEN`, if it has one.
    #[arg(long)]
    pub(crate) hook_token: Option<String>,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Chaos {
    /// The broker's program; beside this one if not given.
    #[arg(long)]
    pub(crate) broker: Option<PathBuf>,
    /// Where logs go; made if missing.
    #[arg(long, default_value = "target/chaos")]
    pub(crate) out: PathBuf,
    /// Nodes; a single one runs without Redis.
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: u32,
    /// Meshes of twelve clients each.
    #[arg(long, default_value_t = 4)]
    pub(crate) meshes: u32,
    /// Messages per second, of all clients together.
    #[arg(long, default_value_t = 300)]
    pub(crate) rate: u64,
    /// `LEASE_GRACE_SECONDS` of the nodes.
    #[arg(long, default_value_t = 20)]
    pub(crate) grace: u64,
    /// Chooses victims, pairs and pauses.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A choice of faults that takes less than eight minutes.
    #[arg(long, conflicts_with = "figures")]
    pub(crate) short: bool,
    /// Few faults, again and again, for their times.
    #[arg(long)]
    pub(crate) figures: bool,
    /// Puts haproxy in front of the nodes, as `deploy/haproxy.cfg` has it: clients know one address,
    /// and while the nodes can take connections none may be refused.
    #[arg(long)]
    pub(crate) balancer: bool,
    /// So many sessions more, in meshes of their own, that only stay: none may be refused, and none
    /// may see another come or go.
    #[arg(long, default_value_t = 0)]
    pub(crate) bystanders: u32,
    /// Only these faults, in this order; `help` lists them.
    #[arg(long, conflicts_with_all = ["short", "figures"])]
    pub(crate) only: Vec<String>,
    /// Report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Attack {
    /// What they do.
    #[arg(value_enum)]
    pub(crate) kind: crate::attack::Kind,
    /// As for `burst`: whose last member attacks.
    #[arg(long)]
    pub(crate) mesh: PathBuf,
    /// The broker.
    #[arg(long)]
    pub(crate) url: String,
    /// For how long.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}
