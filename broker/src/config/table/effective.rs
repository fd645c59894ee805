//! The settings that do something.

use super::{Default, Group, Secrecy, Setting};
use crate::config::parse::{choice, log_filter, millis, name, seconds, switch, url, whole};
use crate::config::reading::Known;
use crate::config::{NodeEnv, OfflineDirect, Secret};

/// What a text may hold at most, in MiB of bytes: frames of this size are held in memory whole.
const MAX_BYTES: u64 = 64 << 20;

/// What may wait at most, in bytes: a disk of 16 TiB.
const MAX_QUEUE_BYTES: u64 = 1 << 44;

/// Longer than any deploy: a day.
const DAY_SECONDS: u64 = 24 * 3600;

/// Fly.io waits this long for a stopping machine, at most.
const LONGEST_DRAIN_SECONDS: u64 = 300;

/// Fewer could be guessed.
const SECRET_CHARS: usize = 32;

fn secret(text: &str) -> Result<Secret, String> {
    let long = text.len() >= SECRET_CHARS;
    long.then(|| text.into())
        .ok_or_else(|| format!("a secret of at least {SECRET_CHARS} characters"))
}

const SETTING: Setting = Setting {
    name: "",
    default: Default::Unset,
    what: "",
    secrecy: Secrecy::Open,
    group: Group::Node,
    set: |_, _| Ok(()),
};

const STORE: Setting = Setting { group: Group::Store, ..SETTING };
const LISTEN: Setting = Setting { group: Group::Listen, ..SETTING };
const LIMIT: Setting = Setting { group: Group::Limits, ..SETTING };
const BEHAVIOUR: Setting = Setting { group: Group::Behaviour, ..SETTING };
const NODE: Setting = Setting { group: Group::Node, ..SETTING };

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "DATABASE_URL",
        what: "Postgres to keep everything in, `postgres://` or `postgresql://`; without it, \
               SQLite in `DATA_DIR`",
        secrecy: Secrecy::Url,
        set: |c, text| {
            let example = "postgres://user:password@host:5432/claudemesh";
            c.database_url = Some(url(text, &["postgres", "postgresql"], example)?);
            Ok(())
        },
        ..STORE
    },
    Setting {
        name: "DATA_DIR",
        default: Default::Is("./data"),
        what: "Directory of the SQLite file `claudemesh.sqlite`; made if missing",
        set: |c, text| {
            c.data_dir = std::path::Path::new(text).into();
            Ok(())
        },
        ..STORE
    },
    Setting {
        name: "BROKER_SKIP_MIGRATE",
        default: Default::Is("0"),
        what: "`1` leaves the tables as they are at start; then run `claudemesh-broker migrate` \
               yourself",
        set: |c, text| switch(text).map(|on| c.skip_migrate = on),
        ..STORE
    },
    Setting {
        name: "STORE_WAIT_SECONDS",
        default: Default::Is("30"),
        what: "Seconds that `serve` and `migrate` wait for a Postgres that is not there yet",
        set: |c, text| seconds(text, 0..=3600).map(|t| c.store_wait = t),
        ..STORE
    },
    Setting {
        name: "DB_CONNECTION_MAX_AGE_SECONDS",
        default: Default::Is("540"),
        what: "Seconds after which a connection to Postgres is replaced, between two commits: managed \
               proxies cut older ones; 0 keeps them",
        set: |c, text| seconds(text, 0..=DAY_SECONDS).map(|t| c.db_connection_max_age = t),
        ..STORE
    },
    Setting {
        name: "REDIS_URL",
        what: "Redis that the nodes of a cluster talk through, `redis://` or `rediss://`, for a Redis \
               Cluster `redis-cluster://` or `rediss-cluster://`; without it, one node runs alone",
        secrecy: Secrecy::Url,
        set: |c, text| {
            let example = "redis://:password@host:6379";
            let schemes = ["redis", "rediss", "redis-cluster", "rediss-cluster"];
            c.redis_url = Some(url(text, &schemes, example)?);
            Ok(())
        },
        ..STORE
    },
    Setting {
        name: "CLUSTER_SECRET",
        what: "With `REDIS_URL`: the same on all nodes, at least 32 characters; everything in Redis is \
               encrypted and authenticated with it. `openssl rand -hex 32` makes one",
        secrecy: Secrecy::Hidden,
        set: |c, text| secret(text).map(|secret| c.cluster_secret = Some(secret)),
        ..STORE
    },
    Setting {
        name: "CLUSTER_SECRET_PREVIOUS",
        what: "The `CLUSTER_SECRET` before, while it is being changed: nodes that have both speak with \
               those that have only one",
        secrecy: Secrecy::Hidden,
        set: |c, text| secret(text).map(|secret| c.cluster_secret_previous = Some(secret)),
        ..STORE
    },
    Setting {
        name: "BROKER_PORT",
        default: Default::Is("7900"),
        what: "TCP port for WebSockets and HTTP; 0 lets the system pick",
        set: |c, text| whole(text, 0..=65_535).map(|port| c.broker_port = port),
        ..LISTEN
    },
    Setting {
        name: "BIND_ADDR",
        default: Default::Is("0.0.0.0"),
        what: "IP address to listen on; `::` for IPv6, `127.0.0.1` for this machine only",
        set: |c, text| {
            c.bind_addr = text.parse().map_err(|_| "an IP address".to_owned())?;
            Ok(())
        },
        ..LISTEN
    },
    Setting {
        name: "BROKER_WS_URL",
        default: Default::Derived("`ws://127.0.0.1:<BROKER_PORT>/ws`", local_ws_url),
        what: "Where clients reach this broker, `ws://` or `wss://`; written into invites and \
               client configurations",
        set: |c, text| {
            let example = "wss://mesh.example.org/ws";
            c.broker_ws_url = url(text, &["ws", "wss"], example)?.expose().into();
            Ok(())
        },
        ..LISTEN
    },
    Setting {
        name: "MAX_CONNECTIONS_PER_MESH",
        default: Default::Is("100"),
        what: "Live connections in one mesh; a further one is closed with `capacity`",
        set: |c, text| whole(text, 1..=100_000).map(|n| c.max_connections_per_mesh = n),
        ..LIMIT
    },
    Setting {
        name: "MAX_SESSIONS_PER_MEMBER",
        default: Default::Derived("three quarters of `MAX_CONNECTIONS_PER_MESH`", member_share),
        what: "Connections of one member in a mesh with others; a further one is closed with \
               `capacity`",
        set: |c, text| whole(text, 1..=100_000).map(|n| c.max_sessions_per_member = n),
        ..LIMIT
    },
    Setting {
        name: "HELLO_RATE_PER_MINUTE",
        default: Default::Is("600"),
        what: "Hellos per minute one member may say, and as many at once as a mesh has places; 0 is \
               no limit",
        set: |c, text| whole(text, 0..=1_000_000).map(|n| c.hello_rate_per_minute = n),
        ..LIMIT
    },
    Setting {
        name: "MAX_MESSAGE_BYTES",
        default: Default::Is("65536"),
        what: "Bytes of one `send`: ciphertext, nonce and target together",
        set: |c, text| whole(text, 1..=MAX_BYTES).map(|n| c.max_message_bytes = n),
        ..LIMIT
    },
    Setting {
        name: "MAX_FRAME_BYTES",
        default: Default::Is("2097152"),
        what: "Bytes of one WebSocket frame of any verb; clients send files of 1.4 MiB in one",
        set: |c, text| whole(text, 1024..=MAX_BYTES).map(|n| c.max_frame_bytes = n),
        ..LIMIT
    },
    Setting {
        name: "SEND_RATE_PER_MINUTE",
        default: Default::Is("60"),
        what: "Sends per minute one member may go on with; 0 is no limit",
        set: |c, text| whole(text, 0..=1_000_000).map(|n| c.send_rate_per_minute = n),
        ..LIMIT
    },
    Setting {
        name: "SEND_BURST",
        default: Default::Is("10"),
        what: "Sends that may come at once before `SEND_RATE_PER_MINUTE` holds them back",
        set: |c, text| whole(text, 0..=1_000_000).map(|n| c.send_burst = n),
        ..LIMIT
    },
    Setting {
        name: "QUEUE_BYTES_PER_MESH",
        default: Default::Is("268435456"),
        what: "Bytes of messages that may wait in one mesh; beyond, sends are refused as \
               `queue_full`. A message that waits for several counts once",
        set: |c, text| whole(text, 1..=MAX_QUEUE_BYTES).map(|n| c.queue_bytes_per_mesh = n),
        ..LIMIT
    },
    Setting {
        name: "QUEUE_BYTES_PER_RECIPIENT",
        default: Default::Is("67108864"),
        what: "Bytes of messages that may wait for one recipient; beyond, it is `queue_full`, and \
               left out of what goes to many",
        set: |c, text| whole(text, 1..=MAX_QUEUE_BYTES).map(|n| c.queue_bytes_per_recipient = n),
        ..LIMIT
    },
    Setting {
        name: "HELLO_TIMEOUT_SECONDS",
        default: Default::Is("10"),
        what: "Seconds a socket may stay without a hello",
        set: |c, text| seconds(text, 1..=3600).map(|t| c.hello_timeout = t),
        ..LIMIT
    },
    Setting {
        name: "HALF_OPEN_PER_ADDRESS",
        default: Default::Is("512"),
        what: "Connections without an accepted hello, plain HTTP included, that one IP address \
               may hold; behind a proxy all clients share one, unless `CLIENT_ADDRESS_HEADER` is set",
        set: |c, text| whole(text, 1..=1_000_000).map(|n| c.half_open_per_address = n),
        ..LIMIT
    },
    Setting {
        name: "CLIENT_ADDRESS_HEADER",
        what: "Header in which the proxy in front names the client's address, such as \
               `Fly-Client-IP`; it is believed, so set it only behind a proxy that sets it",
        set: |c, text| {
            let name = text.parse().map_err(|_| "the name of an HTTP header".to_owned())?;
            c.client_address_header = Some(name);
            Ok(())
        },
        ..LIMIT
    },
    Setting {
        name: "LEASE_GRACE_SECONDS",
        default: Default::Is("90"),
        what: "Seconds a lost session keeps its presence; who returns within is not seen leaving",
        set: |c, text| seconds(text, 1..=DAY_SECONDS).map(|t| c.lease_grace = t),
        ..BEHAVIOUR
    },
    Setting {
        name: "OFFLINE_DIRECT",
        default: Default::Is("reject"),
        what: "A direct message to somebody who is not here: `reject` answers `no_recipient`, \
               `queue` keeps it for those the mesh knows",
        set: |c, text| {
            let words = [("reject", OfflineDirect::Reject), ("queue", OfflineDirect::Queue)];
            choice(text, &words).map(|what| c.offline_direct = what)
        },
        ..BEHAVIOUR
    },
    Setting {
        name: "STATUS_TTL_SECONDS",
        default: Default::Is("60"),
        what: "Seconds a `working` status holds that nobody repeats",
        set: |c, text| seconds(text, 1..=DAY_SECONDS).map(|t| c.status_ttl = t),
        ..BEHAVIOUR
    },
    Setting {
        name: "HOOK_FRESH_WINDOW_SECONDS",
        default: Default::Is("30"),
        what: "Seconds a status told by a hook holds and outranks others",
        set: |c, text| seconds(text, 1..=DAY_SECONDS).map(|t| c.hook_fresh = t),
        ..BEHAVIOUR
    },
    Setting {
        name: "HOOK_RATE_LIMIT_PER_MIN",
        default: Default::Is("30"),
        what: "Requests to `/hook/set-status` per minute and IP address, as many at once",
        set: |c, text| whole(text, 1..=1_000_000).map(|n| c.hook_rate_per_minute = n),
        ..LIMIT
    },
    Setting {
        name: "HOOK_TOKEN",
        what: "If set, `/hook/set-status` wants it as `Authorization: Bearer`",
        secrecy: Secrecy::Hidden,
        set: |c, text| {
            c.hook_token = Some(text.into());
            Ok(())
        },
        ..BEHAVIOUR
    },
    Setting {
        name: "KICK_COOLDOWN_SECONDS",
        default: Default::Is("10"),
        what: "Seconds a kicked connection without a proven key stays out; 0 lets it back at once",
        set: |c, text| seconds(text, 0..=DAY_SECONDS).map(|t| c.kick_cooldown = t),
        ..BEHAVIOUR
    },
    // Daemons try again for ever. A quarter of an hour is long enough for somebody to notice, and
    // the session's owner may start another at any time.
    Setting {
        name: "KICK_SESSION_SECONDS",
        default: Default::Is("900"),
        what: "Seconds a kicked session's key stays out, at every node and after restarts; \
               `unban` with its name or key lets it back",
        set: |c, text| seconds(text, 0..=DAY_SECONDS).map(|t| c.kick_session = t),
        ..BEHAVIOUR
    },
    // 8: `docker stop` kills after 10 s where nobody said otherwise, Kubernetes after 30. So the
    // default works out of the box and leaves 2 s for the last commits. Spread over it, the 100
    // connections of a full mesh come back at 12 a second instead of all at once.
    Setting {
        name: "DRAIN_SECONDS",
        default: Default::Is("8"),
        what: "Seconds over which a stopping node closes its sockets; the platform must wait a \
               little longer before it kills (docker stop: 10, Kubernetes: 30, Fly.io: 5 unless \
               `kill_timeout` is set)",
        set: |c, text| seconds(text, 0..=LONGEST_DRAIN_SECONDS).map(|t| c.drain = t),
        ..BEHAVIOUR
    },
    Setting {
        name: "DRAIN_ACCEPT_SECONDS",
        default: Default::Is("4"),
        what: "Seconds for which a stopping node of a cluster, unready already, still accepts new \
               sockets: two checks of the balancer in front",
        set: |c, text| seconds(text, 0..=LONGEST_DRAIN_SECONDS).map(|t| c.drain_accept = t),
        ..BEHAVIOUR
    },
    Setting {
        name: "FLY_MACHINE_ID",
        what: "As Fly.io sets it. With it, `REDIS_URL` and `FLY_REPLAY`, an upgrade at `/ws?mesh=ID` is replayed at the \
               node that runs the mesh, which spares its messages two hops",
        set: |c, text| name(text).map(|name| c.fly_machine_id = Some(name)),
        ..NODE
    },
    Setting {
        name: "NODE_ID",
        default: Default::Derived("`FLY_MACHINE_ID`, else the host's name", node_name),
        what: "This node's name, one per running node: a second with the same does not start",
        set: |c, text| name(text).map(|name| c.node_id = name),
        ..NODE
    },
    Setting {
        name: "REGION",
        default: Default::Derived("`FLY_REGION`", |known| {
            known.variable("FLY_REGION").unwrap_or_default().to_owned()
        }),
        what: "Where this node stands, as `status` shows it",
        set: |c, text| name(text).map(|region| c.region = Some(region)),
        ..NODE
    },
    Setting {
        name: "HOME_REGION",
        default: Default::Derived("`PRIMARY_REGION`", |known| {
            known.variable("PRIMARY_REGION").unwrap_or_default().to_owned()
        }),
        what: "The region of Postgres and Redis: nodes elsewhere run no mesh as long as one there serves. \
               Unset, all regions are alike",
        set: |c, text| name(text).map(|region| c.home_region = Some(region)),
        ..NODE
    },
    Setting {
        name: "FLY_REPLAY",
        default: Default::Is("off"),
        what: "`on`: a client that names its mesh (`/ws?mesh=ID`) is brought to the mesh's owner by \
               Fly.io's proxy",
        set: |c, text| switch(text).map(|on| c.fly_replay = on),
        ..NODE
    },
    Setting {
        name: "NODE_HEARTBEAT_MS",
        default: Default::Is("500"),
        what: "Milliseconds between two signs of life of a node",
        set: |c, text| millis(text, 50..=60_000).map(|t| c.node_heartbeat = t),
        ..NODE
    },
    Setting {
        name: "NODE_TTL_MS",
        default: Default::Is("3000"),
        what: "Milliseconds without a sign of life after which a node is gone; at least 3 × \
               `NODE_HEARTBEAT_MS`",
        set: |c, text| millis(text, 150..=600_000).map(|t| c.node_ttl = t),
        ..NODE
    },
    Setting {
        name: "NODE_ENV",
        default: Default::Is("development"),
        what: "`development`, `production` or `test`",
        set: |c, text| {
            let words = [
                ("development", NodeEnv::Development),
                ("production", NodeEnv::Production),
                ("test", NodeEnv::Test),
            ];
            choice(text, &words).map(|env| c.node_env = env)
        },
        ..NODE
    },
    Setting {
        name: "GIT_SHA",
        default: Default::Derived("the commit", |_| crate::build::COMMIT.to_owned()),
        what: "The build, as `/health` names it",
        set: |c, text| name(text).map(|sha| c.git_sha = Some(sha)),
        ..NODE
    },
    Setting {
        name: "LOG_LEVEL",
        default: Default::Is("info"),
        what: "What is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`, or levels \
               per module like `info,broker::mesh=debug`",
        set: |c, text| log_filter(text).map(|filter| c.log_level = filter),
        ..NODE
    },
];

fn local_ws_url(known: &Known) -> String {
    format!("ws://127.0.0.1:{}/ws", known.setting("BROKER_PORT"))
}

/// A mesh of one place belongs to one member.
fn member_share(known: &Known) -> String {
    let places: u64 = known.setting("MAX_CONNECTIONS_PER_MESH").parse().unwrap_or(1);
    (places * 3 / 4).max(1).to_string()
}

/// What Fly.io calls the machine, else what the host is called.
fn node_name(known: &Known) -> String {
    let machine = known.setting("FLY_MACHINE_ID");
    if machine.is_empty() { host_name(known) } else { machine.to_owned() }
}

/// `HOSTNAME`, as containers set it, else what the kernel says.
fn host_name(known: &Known) -> String {
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = known.variable("HOSTNAME").map(str::to_owned).or_else(kernel).unwrap_or_default();
    match name(host.trim()) {
        Ok(host) => host.to_string(),
        Err(_) => "local".to_owned(),
    }
}
