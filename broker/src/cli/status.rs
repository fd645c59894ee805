//! `status`: who is alive, who owns what, straight from Redis and the store; a node that is alone is
//! asked itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::ArgMatches;
use protocol::MeshId;
use router::membership::{Seen, State};
use router::ring::Ring;
use serde::{Deserialize, Serialize};

use super::{Failure, local};
use crate::app::credentials;
use crate::cluster::report::Report;
use crate::config::{Config, Secret};
use crate::model::Standing;
use crate::store::open;

/// Keys with which the ring is sampled: a share is right to about half a percent.
const SAMPLES: u32 = 20_000;

/// A node, as it is shown.
#[derive(Debug, Serialize)]
struct Node {
    id: String,
    region: String,
    version: String,
    state: State,
    /// `home`: it has a share of the ring; `edge`: it stands elsewhere and has none while a home node
    /// serves.
    role: &'static str,
    /// Of the ring, from 0 to 1.
    ring_share: f64,
    meshes: usize,
    connections: usize,
    last_heartbeat_ms: u64,
    /// Frames and rows in Redis that it refused, as nobody of its cluster has sealed them.
    refused: u64,
    #[serde(skip)]
    key: String,
}

/// A mesh, as it is shown.
#[expect(clippy::struct_field_names, reason = "as the output calls them")]
#[derive(Debug, Serialize)]
struct Mesh {
    mesh_id: String,
    /// The node that runs it, if one does.
    owner: Option<String>,
    epoch: u64,
    sessions: u64,
    in_grace: u64,
    pending: u64,
}

pub(super) async fn run(matches: &ArgMatches, config: &Config) -> Result<String, Failure> {
    let json = matches.get_flag("json");
    let (nodes, unreadable) = match &config.redis_url {
        Some(url) => cluster(config, url).await?,
        None => (Vec::new(), 0),
    };
    let Some(mesh) = matches.get_one::<String>("mesh") else {
        let nodes = if config.redis_url.is_none() { vec![the_only(config).await?] } else { nodes };
        return if json { to_json(&nodes) } else { Ok(table(&nodes, unreadable)) };
    };
    let store = open::open_store(config).await?;
    let id = MeshId::from(mesh.as_str());
    let Some(standing) = store.standing(&id).await? else {
        return Err(Failure::new(format!("there is no mesh {mesh}")));
    };
    let alone = config.redis_url.is_none() && store.claim(false).await?.is_none();
    let mesh = describe(mesh, &standing, &nodes, alone);
    if json { to_json(&mesh) } else { Ok(lines(&mesh)) }
}

/// The nodes of the cluster, and how many rows of others there are.
async fn cluster(config: &Config, url: &Secret) -> Result<(Vec<Node>, usize), Failure> {
    if config.cluster_secret.is_none() {
        let text = "what nodes say of themselves is sealed: set CLUSTER_SECRET as on the nodes";
        return Err(Failure::new(text));
    }
    let store = open::open_store(config).await?;
    let cluster = store.cluster().await?;
    let table = router::redis::nodes(url.expose(), &credentials(config, &cluster)).await;
    let table = table.map_err(|error| Failure::new(error.to_string()))?;
    let ttl = u64::try_from(config.node_ttl.as_millis()).unwrap_or(u64::MAX);
    Ok((shown(table.nodes, ttl), table.unreadable))
}

/// The node on this machine, as it says itself.
async fn the_only(config: &Config) -> Result<Node, Failure> {
    /// Of `/health/full`.
    #[derive(Deserialize)]
    struct Full {
        node: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        id: String,
        state: State,
        #[serde(flatten)]
        report: Report,
    }
    let address = local::address(config);
    let failed = |why: String| {
        Failure::new(format!(
            "no node answers at {address} ({why}). Without REDIS_URL there is at most one; \
             `status --mesh ID` reads the store"
        ))
    };
    let (_, body) = local::get(address, "/health/full").await.map_err(failed)?;
    let told: Full = serde_json::from_str(&body)
        .map_err(|_| failed("what is there is no broker of this version".to_owned()))?;
    let Told { id, state, report } = told.node;
    let Report { region, version, meshes, connections, refused } = report;
    Ok(Node {
        key: id.clone(),
        id,
        region,
        version,
        state,
        role: role(true),
        ring_share: 1.0,
        meshes,
        connections,
        last_heartbeat_ms: 0,
        refused,
    })
}

/// Those that live, with their shares of the ring.
fn shown(known: Vec<(Seen, impl AsRef<[u8]>)>, ttl_ms: u64) -> Vec<Node> {
    let alive: Vec<_> = known.into_iter().filter(|(seen, _)| seen.age_ms <= ttl_ms).collect();
    let serves = |seen: &Seen| seen.state == State::Serving;
    let at_home = alive.iter().any(|(seen, _)| serves(seen) && seen.home);
    let serving = alive.iter().filter(|(seen, _)| serves(seen) && (seen.home || !at_home));
    let ring = Ring::new(serving.map(|(seen, _)| (seen.key.id.clone(), seen.weight)));
    let mut keys: BTreeMap<&str, u32> = BTreeMap::new();
    let owners: Vec<_> = (0..SAMPLES).filter_map(|n| ring.owner(&n.to_string())).collect();
    for owner in &owners {
        *keys.entry(owner.as_str()).or_default() += 1;
    }
    let share = |id: &str| f64::from(keys.get(id).copied().unwrap_or(0)) / f64::from(SAMPLES);
    let mut nodes: Vec<_> = alive
        .iter()
        .map(|(seen, info)| {
            let report = Report::decode(info.as_ref());
            let Report { region, version, meshes, connections, refused } = report;
            Node {
                id: seen.key.id.to_string(),
                region,
                version,
                state: seen.state,
                role: role(seen.home),
                ring_share: share(seen.key.id.as_str()),
                meshes,
                connections,
                last_heartbeat_ms: seen.age_ms,
                refused,
                key: seen.key.to_string(),
            }
        })
        .collect();
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    nodes
}

fn role(home: bool) -> &'static str {
    if home { "home" } else { "edge" }
}

/// The store names the process that took a mesh last: it owns the mesh as long as it lives.
fn describe(mesh: &str, standing: &Standing, nodes: &[Node], alone: bool) -> Mesh {
    let name = standing.node.rsplit_once('/').map_or(standing.node.as_str(), |(id, _)| id);
    let lives = alone || nodes.iter().any(|node| node.key == standing.node);
    Mesh {
        mesh_id: mesh.to_owned(),
        owner: lives.then(|| name.to_owned()).filter(|name| !name.is_empty()),
        epoch: standing.epoch,
        sessions: standing.sessions,
        in_grace: standing.in_grace,
        pending: standing.pending,
    }
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Failure::new(error.to_string()))
}

fn table(nodes: &[Node], unreadable: usize) -> String {
    let others = match unreadable {
        0 => String::new(),
        n => format!("{n} rows in Redis do not open with this CLUSTER_SECRET\n"),
    };
    if nodes.is_empty() {
        return format!("no node is alive\n{others}");
    }
    let mut text = format!(
        "{:20} {:8} {:5} {:12} {:>6} {:>7} {:>11} {:>8}\n",
        "NODE", "REGION", "ROLE", "STATE", "SHARE", "MESHES", "CONNECTIONS", "REFUSED"
    );
    for node in nodes {
        let state = serde_json::to_value(node.state).ok();
        let state = state.as_ref().and_then(|word| word.as_str()).unwrap_or_default();
        let region = if node.region.is_empty() { "-" } else { &node.region };
        let share = format!("{:.1}%", node.ring_share * 100.0);
        let Node { id, role, meshes, connections, refused, .. } = node;
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "{id:20} {region:8} {role:5} {state:12} {share:>6} {meshes:>7} {connections:>11} {refused:>8}"
        );
    }
    text + &others
}

fn lines(mesh: &Mesh) -> String {
    let owner = mesh.owner.as_deref().unwrap_or("nobody");
    let Mesh { mesh_id, epoch, sessions, in_grace, pending, .. } = mesh;
    format!(
        "mesh {mesh_id}\n  owner     {owner}, epoch {epoch}\n  sessions  {sessions}, and \
         {in_grace} in grace\n  pending   {pending}\n"
    )
}

#[cfg(test)]
mod tests {
    use router::node::NodeKey;

    use super::*;

    fn seen(id: &str, incarnation: u64, state: State, age_ms: u64) -> (Seen, Vec<u8>) {
        let key = NodeKey { id: id.into(), incarnation };
        let report = Report { meshes: 3, ..Report::default() };
        (Seen { key, state, weight: 1, home: true, age_ms, listens: None }, report.encode())
    }

    #[test]
    fn the_dead_are_not_shown_and_own_nothing() {
        let nodes = shown(
            vec![
                seen("b", 2, State::Serving, 10),
                seen("a", 1, State::Serving, 10),
                seen("c", 3, State::Serving, 9_000),
                seen("d", 4, State::Draining, 10),
            ],
            3_000,
        );
        let ids: Vec<_> = nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "d"]);
        assert!((nodes[0].ring_share + nodes[1].ring_share - 1.0).abs() < 1e-9);
        assert!(nodes[2].ring_share.abs() < 1e-9);
        let standing = |node: &str| Standing {
            node: node.into(),
            epoch: 7,
            sessions: 1,
            in_grace: 0,
            pending: 2,
        };
        let owner = |node| describe("m", &standing(node), &nodes, false).owner;
        assert_eq!(owner("a/1").as_deref(), Some("a"));
        assert_eq!(owner("a/0"), None, "a life before");
        assert_eq!(owner("c/3"), None);
    }
}
