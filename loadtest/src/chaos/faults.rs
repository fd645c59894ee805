//! The ways to break a cluster: each fault's name, what it does, how long it lasts.
//!
//! A fault begins, holds, and is undone; what must be undone is handed from the first to the last.
//! [`plan`] puts them into an order.

mod act;
mod plan;

use tokio::time::Duration;

pub(crate) use act::{Stage, Undo, begin, undo};
pub(crate) use plan::{Step, figures, full, only, short};

/// What a fault works on: two of a pair must not share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Owner,
    Edge,
    Redis,
    Postgres,
    All,
}

/// What a fault is.
pub(crate) struct About {
    pub(crate) fault: Fault,
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Between its beginning and its undoing, in milliseconds.
    hold_ms: u64,
    pub(crate) target: Target,
    /// Only a cluster has what it breaks.
    pub(crate) needs_cluster: bool,
    /// Combined with others in pairs.
    pub(crate) pairs: bool,
}

enum Needs {
    Anything,
    Cluster,
}

impl Needs {
    const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster)
    }
}

enum Pairs {
    Yes,
    No,
}

impl Pairs {
    const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// One row a fault: for how long, on what, where it can be tried, its name and what it does.
macro_rules! faults {
    ($($fault:ident $hold:literal $target:ident $needs:ident $pairs:ident $name:literal $what:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault { $($fault),* }

        pub(crate) const FAULTS: &[About] = &[$(About {
            fault: Fault::$fault,
            name: $name,
            what: $what,
            hold_ms: $hold,
            target: Target::$target,
            needs_cluster: Needs::$needs.is_cluster(),
            pairs: Pairs::$pairs.is_yes(),
        }),*];
    };
}

faults! {
    KillOwner            6_000 Owner    Anything Yes "kill-owner"              "SIGKILL of a mesh's owner; replaced";
    KillEdge             6_000 Edge     Cluster  Yes "kill-edge"               "SIGKILL of a node that is not its owner; replaced";
    KillOwnerAndEdge     6_000 All      Cluster  No  "kill-owner-and-edge"     "both at once";
    FreezeOwner          9_000 Owner    Anything Yes "freeze-owner"            "SIGSTOP of the owner for 3 × TTL";
    FreezeOwnerPastGrace     0 Owner    Cluster  No  "freeze-owner-past-grace" "SIGSTOP of the owner for longer than the grace";
    RedisKilled          3_000 Redis    Cluster  Yes "redis-killed"            "Redis killed, and back empty";
    RedisPaused         10_000 Redis    Cluster  Yes "redis-paused"            "Redis stopped for 10 s";
    RedisPausedLong     30_000 Redis    Cluster  No  "redis-paused-30s"        "Redis stopped for 30 s";
    PostgresStopped      5_000 Postgres Anything Yes "postgres-stopped"        "Postgres stopped in order, and back";
    PostgresStoppedLong 30_000 Postgres Anything No  "postgres-stopped-30s"    "Postgres stopped in order, and back after 30 s";
    PostgresCrashed      1_000 Postgres Anything No  "postgres-crashed"        "Postgres ended at once, and back";
    CutRedis             8_000 Owner    Cluster  Yes "cut-redis"               "one node cut off from Redis, both ways";
    CutRedisThere        8_000 Owner    Cluster  No  "cut-redis-there"         "what one node says to Redis does not arrive";
    CutRedisBack         8_000 Owner    Cluster  No  "cut-redis-back"          "what Redis says to one node does not arrive";
    CutRedisLong        20_000 Owner    Cluster  No  "cut-redis-20s"           "one node cut off from Redis for 20 s";
    CutPostgres          8_000 Owner    Anything Yes "cut-postgres"            "one node cut off from Postgres, both ways";
    CutPostgresThere     8_000 Owner    Anything No  "cut-postgres-there"      "what one node says to Postgres does not arrive";
    CutPostgresBack      8_000 Owner    Anything No  "cut-postgres-back"       "what Postgres says to one node does not arrive";
    DropSubscribers      1_000 Redis    Cluster  Yes "drop-subscribers"        "CLIENT KILL TYPE pubsub, twice";
    Rolling                  0 All      Anything No  "rolling"                 "every node replaced, one after the other";
    WholeRestart             0 All      Anything No  "whole-restart"           "every node asked to stop, then started";
    WholeCrash           2_000 All      Anything No  "whole-crash"             "every node killed, then started";
    Join                 5_000 Edge     Cluster  Yes "join"                    "a node joins, and leaves again";
    PlannedMove              0 Owner    Cluster  No  "planned-move"            "SIGTERM of a mesh's owner; replaced";
    DuplicateName        6_000 Edge     Cluster  No  "duplicate-name"          "a second process under a node's NODE_ID";
}

impl Fault {
    pub(crate) fn about(self) -> &'static About {
        // The table has each of them; a test says so.
        FAULTS.iter().find(|about| about.fault == self).unwrap_or(&FAULTS[0])
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        FAULTS.iter().find(|about| about.name == name).map(|about| about.fault)
    }

    pub(crate) fn hold(self, grace_ms: u64) -> Duration {
        let past_grace = self == Self::FreezeOwnerPastGrace;
        Duration::from_millis(if past_grace { grace_ms + 3_000 } else { self.about().hold_ms })
    }

    /// What all nodes suffer alike, or leave in order for: a balancer always has a node to give a
    /// connection to.
    pub(crate) fn leaves_nodes_ready(self) -> bool {
        use Fault as F;
        matches!(
            self,
            F::RedisKilled
                | F::RedisPaused
                | F::RedisPausedLong
                | F::PostgresStopped
                | F::PostgresStoppedLong
                | F::PostgresCrashed
                | F::DropSubscribers
                | F::Rolling
                | F::PlannedMove
                | F::Join
        )
    }

    /// Owners end by it, or Redis' memory does: together they may forget graces.
    pub(crate) fn loses_owner(self) -> bool {
        use Fault as F;
        matches!(
            self,
            F::KillOwner
                | F::KillEdge
                | F::KillOwnerAndEdge
                | F::FreezeOwner
                | F::FreezeOwnerPastGrace
                | F::WholeCrash
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_in_the_table_under_a_name_of_its_own() {
        let mut names: Vec<_> = FAULTS.iter().map(|about| about.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAULTS.len());
        for about in FAULTS {
            assert_eq!(Fault::named(about.name), Some(about.fault));
            assert_eq!(about.fault.about().name, about.name);
        }
    }
}
