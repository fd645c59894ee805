//! What each fault does, and how it is undone.

use tokio::time::Duration;

use super::Fault;
use crate::Error;
use crate::chaos::cluster::{Cluster, Line, Server};
use crate::chaos::rng::Rng;

/// What is to be undone, in this order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Undo {
    /// A process is to be started where one was killed.
    Replace(usize),
    Thaw(usize),
    Mend(usize, Server),
    RedisBack,
    RedisOn,
    PostgresBack,
    /// A second time: the subscribers that came back at once.
    DropSubscribers,
    /// A guest is asked to go.
    Dismiss(usize),
    /// One of two with the same name must have gone; the other stays.
    Separate {
        twin: usize,
        original: usize,
    },
}

impl Undo {
    /// Whether it starts something that needs Redis and Postgres.
    pub(crate) fn needs_servers(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::Dismiss(_) | Self::Separate { .. })
    }
}

/// Where a fault strikes.
pub(crate) struct Stage {
    /// The mesh whose owner is meant.
    pub(crate) mesh: String,
    /// The owner's place, and another one.
    pub(crate) owner: usize,
    pub(crate) edge: usize,
}

impl Stage {
    /// Any mesh, its owner, and any other node that works.
    pub(crate) async fn choose(
        cluster: &Cluster,
        meshes: &[String],
        rng: &mut Rng,
    ) -> Option<Self> {
        let mesh = rng.pick(meshes)?.clone();
        let working = cluster.working();
        let owner = cluster.owner(&mesh).await.or_else(|| working.first().copied())?;
        let others: Vec<_> = working.into_iter().filter(|at| *at != owner).collect();
        let edge = rng.pick(&others).copied().unwrap_or(owner);
        Some(Self { mesh, owner, edge })
    }
}

/// For a node that may not come to serve.
const JOINS: Duration = Duration::from_secs(5);

const NO_WAY: Line = Line { there: false, back: false };
const NOT_THERE: Line = Line { there: false, back: true };
const NOT_BACK: Line = Line { there: true, back: false };

/// Begins it. What takes no time to hold is all done here.
pub(crate) async fn begin(
    fault: Fault,
    cluster: &mut Cluster,
    stage: &Stage,
) -> Result<Vec<Undo>, Error> {
    use Fault as F;
    let owner = stage.owner;
    Ok(match fault {
        F::KillOwner => kill(cluster, &[owner]).await,
        F::KillEdge => kill(cluster, &[stage.edge]).await,
        F::KillOwnerAndEdge => kill(cluster, &[owner, stage.edge]).await,
        F::WholeCrash => {
            let all = cluster.working();
            kill(cluster, &all).await
        }
        F::FreezeOwner | F::FreezeOwnerPastGrace => {
            cluster.freeze(owner);
            vec![Undo::Thaw(owner)]
        }
        F::RedisKilled => {
            cluster.kill_redis().await;
            vec![Undo::RedisBack]
        }
        F::RedisPaused | F::RedisPausedLong => {
            cluster.signal_redis("STOP");
            vec![Undo::RedisOn]
        }
        F::PostgresStopped | F::PostgresStoppedLong | F::PostgresCrashed => {
            cluster.stop_postgres(fault == F::PostgresCrashed).await;
            vec![Undo::PostgresBack]
        }
        F::CutRedis | F::CutRedisLong => cut(cluster, owner, Server::Redis, NO_WAY),
        F::CutRedisThere => cut(cluster, owner, Server::Redis, NOT_THERE),
        F::CutRedisBack => cut(cluster, owner, Server::Redis, NOT_BACK),
        F::CutPostgres => cut(cluster, owner, Server::Postgres, NO_WAY),
        F::CutPostgresThere => cut(cluster, owner, Server::Postgres, NOT_THERE),
        F::CutPostgresBack => cut(cluster, owner, Server::Postgres, NOT_BACK),
        F::DropSubscribers => {
            cluster.drop_subscribers().await;
            vec![Undo::DropSubscribers]
        }
        F::Rolling => {
            for at in cluster.working() {
                replace(cluster, at).await?;
            }
            Vec::new()
        }
        F::PlannedMove => {
            replace(cluster, owner).await?;
            Vec::new()
        }
        F::WholeRestart => {
            restart_all(cluster).await?;
            Vec::new()
        }
        F::Join => vec![join(cluster).await?],
        F::DuplicateName => twin(cluster, stage.edge).await?,
    })
}

/// Ends it.
pub(crate) async fn undo(undo: Undo, cluster: &mut Cluster) -> Result<(), Error> {
    match undo {
        Undo::Replace(at) => {
            cluster.launch(at)?;
            cluster.ready(at).await
        }
        Undo::Thaw(at) => {
            cluster.thaw(at);
            Ok(())
        }
        Undo::Mend(at, server) => {
            cluster.mend(at, server);
            Ok(())
        }
        Undo::RedisBack => cluster.resume_redis().await,
        Undo::RedisOn => {
            cluster.signal_redis("CONT");
            Ok(())
        }
        Undo::PostgresBack => cluster.resume_postgres().await,
        Undo::DropSubscribers => {
            cluster.drop_subscribers().await;
            Ok(())
        }
        Undo::Dismiss(at) => {
            // A platform starts again what could not start.
            cluster.bury(at);
            cluster.launch(at)?;
            cluster.ready(at).await?;
            cluster.drain(at).await;
            Ok(())
        }
        Undo::Separate { twin, original } => {
            cluster.one_gives_way(twin, original).await;
            for at in cluster.working() {
                cluster.ready(at).await?;
            }
            Ok(())
        }
    }
}

async fn kill(cluster: &mut Cluster, places: &[usize]) -> Vec<Undo> {
    for at in places {
        cluster.kill(*at).await;
    }
    places.iter().map(|at| Undo::Replace(*at)).collect()
}

fn cut(cluster: &Cluster, at: usize, server: Server, line: Line) -> Vec<Undo> {
    cluster.cut(at, server, line);
    vec![Undo::Mend(at, server)]
}

/// A new node beside an old one, which then goes; without Redis the old one goes first.
async fn replace(cluster: &mut Cluster, old: usize) -> Result<(), Error> {
    if !cluster.has_redis() {
        cluster.drain(old).await;
        cluster.launch(old)?;
        return cluster.ready(old).await;
    }
    let new = cluster.empty_place().await?;
    cluster.launch(new)?;
    cluster.ready(new).await?;
    cluster.drain(old).await;
    Ok(())
}

async fn restart_all(cluster: &mut Cluster) -> Result<(), Error> {
    let all = cluster.working();
    cluster.drain_all().await;
    for at in all {
        cluster.launch(at)?;
        cluster.ready(at).await?;
    }
    Ok(())
}

async fn join(cluster: &mut Cluster) -> Result<Undo, Error> {
    let guest = cluster.empty_place().await?;
    cluster.launch(guest)?;
    // Beside another fault it may have to wait for what that one broke.
    cluster.serves_within(guest, JOINS).await;
    Ok(Undo::Dismiss(guest))
}

/// Either of the two must give way; nothing else may come of it.
async fn twin(cluster: &mut Cluster, original: usize) -> Result<Vec<Undo>, Error> {
    let twin = cluster.empty_place().await?;
    cluster.launch_twin(twin, original)?;
    cluster.serves_within(twin, JOINS).await;
    Ok(vec![Undo::Separate { twin, original }])
}
