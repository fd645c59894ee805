//! Who may import whom. ARCHITECTURE.md draws the rooms; this keeps the walls between them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod paths;

use std::fs;
use std::path::{Path, PathBuf};

use paths::paths;

/// What some files must not name.
struct Wall {
    /// These: a file, or a folder together with the file of the same name, `mesh/` and `mesh.rs`;
    /// with a slash at its end the folder alone.
    of: &'static [&'static str],
    /// Except these.
    but: &'static [&'static str],
    /// Of what is listed in [`KNOWN`], only this. Empty: anything that is not forbidden below.
    only: &'static [&'static str],
    never: &'static [&'static str],
    why: &'static str,
}

/// What `only` decides about: our crates, and those of others that do I/O or bring a runtime.
const KNOWN: [&str; 17] = [
    "protocol",
    "router",
    "broker",
    "loadtest",
    "tokio",
    "tokio_util",
    "tokio_tungstenite",
    "axum",
    "fred",
    "sqlx",
    "futures_util",
    "clap",
    "tracing",
    "opentelemetry",
    "prometheus",
    "getrandom",
    "bytes",
];

const WALLS: &[Wall] = &[
    Wall {
        of: &["protocol/src"],
        but: &[],
        only: &["protocol", "bytes"],
        never: &[],
        why: "the wire has no I/O, and knows neither how it is carried nor who speaks it",
    },
    Wall {
        of: &["router/src"],
        but: &["router/src/link/local.rs", "router/src/redis"],
        only: &["router"],
        never: &["router::redis"],
        why: "the router knows nothing of messaging, and its rules nothing of I/O",
    },
    Wall {
        of: &["router/src/link/local.rs"],
        but: &[],
        only: &["router", "tokio"],
        never: &[],
        why: "a carrier knows nothing of messaging",
    },
    Wall {
        of: &["router/src/redis"],
        but: &[],
        only: &["router", "fred", "tokio", "tokio_util", "tracing", "bytes"],
        never: &[],
        why: "a carrier knows nothing of messaging",
    },
    Wall {
        of: &["router/src/redis/frame.rs", "router/src/redis/lanes.rs", "router/src/redis/keys.rs"],
        but: &[],
        only: &["router", "bytes"],
        never: &[],
        why: "what is sent, and when, is decided without I/O",
    },
    Wall {
        of: &["broker/src/model"],
        but: &[],
        only: &["protocol", "broker::model"],
        never: &[],
        why: "the words that rooms share belong to none of them",
    },
    Wall {
        of: &["broker/src/mesh"],
        but: &[],
        only: &["protocol", "router::link", "broker::model", "broker::mesh"],
        never: &["router::link::local", "std::time", "std::net", "std::fs", "std::env"],
        why: "the rules run in the simulator as they run in production",
    },
    Wall {
        of: &[
            "broker/src/seat/io.rs",
            "broker/src/seat/item.rs",
            "broker/src/seat/nodes.rs",
            "broker/src/seat/owner.rs",
            "broker/src/seat/ownership.rs",
            "broker/src/seat/relay.rs",
            "broker/src/seat/running.rs",
            "broker/src/seat/state.rs",
        ],
        but: &[],
        only: &[
            "protocol",
            "router::link",
            "router::membership",
            "router::node",
            "broker::model",
            "broker::mesh",
            "broker::seat",
        ],
        never: &[
            "router::link::local",
            "broker::seat::actor",
            "broker::seat::handle",
            "broker::seat::cluster",
            "std::time",
            "std::net",
            "std::fs",
            "std::env",
        ],
        why: "where a mesh runs is decided by rules alone, and the actor runs them",
    },
    Wall {
        of: &["broker/src/seat"],
        but: &[],
        only: &[],
        never: &[
            "axum",
            "fred",
            "broker::cluster",
            "broker::edge",
            "broker::cli",
            "broker::store::postgres",
            "broker::store::sqlite",
            "broker::store::open",
        ],
        why: "a mesh is reached through its door, and keeps things through the trait",
    },
    Wall {
        of: &["broker/src/edge"],
        but: &[],
        only: &[],
        never: &[
            "fred",
            "broker::store::postgres",
            "broker::store::sqlite",
            "broker::store::open",
            "broker::cli",
            "broker::mesh::state",
        ],
        why: "the edge holds nothing that lasts",
    },
    Wall {
        of: &[
            "broker/src/edge/session",
            "broker/src/edge/session.rs",
            "broker/src/edge/auth.rs",
            "broker/src/edge/wire.rs",
        ],
        but: &[],
        only: &["protocol", "router::link", "broker::edge", "broker::mesh", "broker::model"],
        never: &["router::link::local", "broker::seat"],
        why: "a connection's rules run in the simulator too",
    },
    Wall {
        of: &["broker/src/store"],
        but: &[],
        only: &[],
        never: &["broker::mesh", "broker::edge", "broker::cli", "router", "axum", "fred"],
        why: "the store speaks in the model's words; lease bodies are opaque to it",
    },
    Wall {
        of: &["broker/src"],
        but: &[
            "broker/src/store/postgres",
            "broker/src/store/sqlite",
            "broker/src/store/migrations.rs",
        ],
        only: &[],
        never: &["sqlx"],
        why: "SQL stays in the backends",
    },
    Wall {
        of: &["broker/src"],
        but: &["broker/src/app", "broker/src/cli", "broker/src/main.rs"],
        only: &[],
        never: &["broker::app"],
        why: "app sees all rooms, so that no room has to see app",
    },
    Wall {
        of: &["loadtest/src"],
        // It starts the servers, so it may look into them: epochs tell how often a mesh has moved. And
        // the signer is a server of its own.
        but: &["loadtest/src/chaos/cluster", "loadtest/src/signer.rs"],
        only: &[],
        never: &["broker", "router", "sqlx", "axum"],
        why: "the generator is a stranger to what it measures",
    },
];

impl Wall {
    fn holds_for(&self, file: &str) -> bool {
        let among = |rooms: &[&str]| rooms.iter().any(|room| belongs(file, room));
        among(self.of) && !among(self.but)
    }

    fn forbids(&self, path: &str) -> bool {
        let among = |list: &[&str]| list.iter().any(|prefix| leads_to(prefix, path));
        let stranger = !self.only.is_empty() && among(&KNOWN) && !among(self.only);
        stranger || among(self.never)
    }
}

fn belongs(file: &str, room: &str) -> bool {
    file.strip_prefix(room).is_some_and(|rest| {
        room.ends_with('/') || matches!(rest, "" | ".rs") || rest.starts_with('/')
    })
}

/// Whether `path` is `prefix` or something in it.
fn leads_to(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What in `source`, the file at `file`, breaks a wall.
fn breaches(file: &str, source: &str) -> Vec<String> {
    let walls: Vec<_> = WALLS.iter().filter(|wall| wall.holds_for(file)).collect();
    let mut found = Vec::new();
    for named in paths(source, &module(file)) {
        for wall in walls.iter().filter(|wall| wall.forbids(&named.path)) {
            found.push(format!("{file}:{}: {}: {}", named.line, named.path, wall.why));
        }
    }
    found
}

/// `broker/src/mesh/state.rs` is `broker::mesh::state`.
fn module(file: &str) -> Vec<&str> {
    let parts = file.trim_end_matches(".rs").split('/');
    parts.filter(|part| !matches!(*part, "src" | "lib" | "main")).collect()
}

/// Every source file, as it is called from the workspace's root, and what it says.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut folders: Vec<PathBuf> =
        ["protocol", "router", "broker", "loadtest"].map(|name| root.join(name).join("src")).into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let file = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((file, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn no_file_reaches_through_a_wall() {
    let sources = sources();
    assert!(sources.len() > 80, "only {} files found", sources.len());
    let found: Vec<_> = sources.iter().flat_map(|(file, text)| breaches(file, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_room_is_there() {
    let sources = sources();
    for room in WALLS.iter().flat_map(|wall| wall.of.iter().chain(wall.but)) {
        assert!(sources.iter().any(|(file, _)| belongs(file, room)), "{room} is nowhere");
    }
}

#[test]
fn a_breach_is_found_however_it_is_written() {
    let state = |source| breaches("broker/src/mesh/state.rs", source);
    for breach in [
        "use tokio::sync::mpsc;",
        "use {std::fmt, tokio as runtime};",
        "fn f() { tokio::spawn(async {}); }",
        "#[tokio::test] async fn f() {}",
        "use crate::store::Store;",
        "use crate::{model::Seq, store::{self, Store}};",
        "use super::super::edge::session;",
        "use crate::seat::{item, actor::Actor};",
        "fn f(store: &dyn crate::store::Store) {}",
        "mod tests { use super::super::super::edge::Edge; }",
        "use router::link::local::Outbox;",
        "use ::sqlx;",
        "fn f<'a>(x: &'a str) -> char { 'a' } use axum::Router;",
        "const A: &str = r#\"\"#; use axum::Router;",
        "const A: &str = \"\\\"\"; use axum::Router;",
        "pub(crate) use crate::app;",
    ] {
        assert!(!state(breach).is_empty(), "{breach}");
    }
}

#[test]
fn what_is_allowed_said_or_commented_is_no_breach() {
    for fine in [
        "use crate::model::Seq; use super::io::Ms; use std::sync::Arc;",
        "// use tokio::sync::mpsc;\n/* tokio::spawn */",
        "/// See [`tokio::spawn`].\nconst A: &str = \"tokio::spawn\";",
        "const A: &str = r#\"use \"tokio\"::x\"#; const B: char = '\"';",
        "use router::link::{Inbound, Verdict};",
        "mod tests { use super::super::io::Ms; }",
        "fn f(tokio: u8) -> u8 { tokio }",
    ] {
        assert_eq!(breaches("broker/src/mesh/state.rs", fine), [""; 0], "{fine}");
    }
    assert_eq!(breaches("broker/src/store/sqlite/file.rs", "use sqlx::Row;"), [""; 0]);
    assert_eq!(breaches("router/src/link/local.rs", "use tokio::sync::Notify;"), [""; 0]);
    assert_eq!(breaches("broker/src/store/open.rs", "use sqlx::Row;").len(), 1);
    assert_eq!(breaches("router/src/link.rs", "use tokio::sync::Notify;").len(), 1);
    assert_eq!(breaches("router/src/redis/ears.rs", "use fred::types::Message;"), [""; 0]);
    assert_eq!(breaches("router/src/link.rs", "use crate::redis::Redis;").len(), 1);
}

#[test]
fn a_breach_is_told_with_its_place_and_reason() {
    let found = breaches("broker/src/model.rs", "//! Words.\n\nuse crate::mesh::io;\n");
    assert_eq!(
        found,
        ["broker/src/model.rs:3: broker::mesh::io: \
          the words that rooms share belong to none of them"]
    );
}
