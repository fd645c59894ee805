//! Who talks: in each mesh eight sessions of eight members, the daemons of two of them, and two that
//! never confirm. Two sessions come and go, one of them for good.

use std::sync::Arc;

use super::client::{Client, Habits, Leaving};
use super::log::{Kind, What};
use super::rng::Rng;
use super::shared::Shared;
use crate::Error;
use crate::identity::Identity;
use crate::mesh::Mesh;

/// Clients of a mesh.
pub(crate) const CLIENTS: u32 = 12;
/// Members of a mesh: the last two clients are the daemons of the first two.
pub(crate) const MEMBERS: u32 = 10;

/// Between sends unanswered and the next node. The patient live through a frozen node.
const IMPATIENT_MS: u64 = 4_000;
const PATIENT_MS: u64 = 20_000;

/// How all of them behave.
pub(crate) struct Manners {
    pub(crate) run: u32,
    /// Messages per second of everybody together.
    pub(crate) rate: u64,
    pub(crate) grace_ms: u64,
    pub(crate) seed: u64,
}

/// Everybody, introduced in the log.
pub(crate) fn gather(
    meshes: &[Mesh],
    manners: &Manners,
    shared: &Arc<Shared>,
) -> Result<Vec<Client>, Error> {
    let all = u32::try_from(meshes.len()).unwrap_or(1) * CLIENTS;
    let interval_ms = (u64::from(all) * 1_000 / manners.rate.max(1)).max(1);
    let mut clients = Vec::new();
    for (mesh, first) in meshes.iter().zip((0..).step_by(CLIENTS as usize)) {
        let identity = |index: u32| {
            Identity::new(mesh, index)
                .map_err(|_| Error::Cluster("mesh create gave a key that is none".to_owned()))
        };
        let ids = (0..CLIENTS).map(identity).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<_> =
            ids.iter().zip(0..).map(|(identity, index)| address(identity, kind(index))).collect();
        for (identity, index) in ids.into_iter().zip(0..) {
            let me = first + index;
            let kind = kind(index);
            let key = addresses[index as usize].clone();
            let member = identity.member_address().to_owned();
            shared
                .log
                .add(me, What::Client { mesh: mesh.id.clone(), member: member.clone(), kind, key });
            let peers = addresses.iter().zip(first..);
            // Nobody writes to itself, and what goes to one's own member goes to a sibling.
            let peers = peers.filter(|(target, to)| *to != me && **target != member);
            clients.push(Client {
                me,
                run: manners.run,
                kind,
                peers: peers.map(|(target, to)| (to, target.clone())).collect(),
                identity,
                habits: habits(index, interval_ms, manners.grace_ms),
                rng: Rng::new(manners.seed ^ (u64::from(me) << 32)),
                shared: Arc::clone(shared),
            });
        }
    }
    Ok(clients)
}

fn kind(index: u32) -> Kind {
    match index {
        0..8 => Kind::Session,
        8..10 => Kind::Silent,
        _ => Kind::Daemon,
    }
}

fn address(identity: &Identity, kind: Kind) -> String {
    match kind {
        Kind::Daemon => identity.member_address().to_owned(),
        Kind::Session | Kind::Silent => identity.address(),
    }
}

fn habits(index: u32, interval_ms: u64, grace_ms: u64) -> Habits {
    // Away for so long that everybody must be told, though faults take most of the time.
    let (stay_ms, away_ms) = (20_000, 3 * grace_ms + 25_000);
    let leaving = match index {
        6 => Leaving::Returns { stay_ms, away_ms },
        7 => Leaving::ForGood { stay_ms, away_ms },
        _ => Leaving::Never,
    };
    let patience_ms = if index.is_multiple_of(2) { IMPATIENT_MS } else { PATIENT_MS };
    Habits { interval_ms, patience_ms, leaving }
}
