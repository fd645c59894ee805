//! Which faults, in which order.

use super::{FAULTS, Fault, Target};
use crate::chaos::rng::Rng;

/// One fault, or two that overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) faults: Vec<Fault>,
}

impl Step {
    fn of(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }

    pub(crate) fn name(&self) -> String {
        let names: Vec<_> = self.faults.iter().map(|fault| fault.about().name).collect();
        names.join(" + ")
    }

    /// Redis forgets while an owner is lost: P5 excuses that.
    pub(crate) fn forgets(&self) -> bool {
        self.faults.contains(&Fault::RedisKilled)
            && self.faults.iter().any(|fault| fault.loses_owner())
    }

    /// See [`Fault::leaves_nodes_ready`].
    pub(crate) fn leaves_nodes_ready(&self) -> bool {
        self.faults.iter().all(|fault| fault.leaves_nodes_ready())
    }

    fn fits(&self, nodes: usize) -> bool {
        self.faults.iter().all(|fault| nodes > 1 || !fault.about().needs_cluster)
    }
}

/// One of each kind that matters most: some five minutes with the default grace. Behind a balancer
/// what all nodes suffer lasts for longer than its checks take.
pub(crate) fn short(nodes: usize, balancer: bool) -> Vec<Step> {
    use Fault as F;
    let (postgres, redis) = if balancer {
        (F::PostgresStoppedLong, F::RedisPausedLong)
    } else {
        (F::PostgresStopped, F::RedisPaused)
    };
    let faults = [
        F::KillOwner,
        F::KillEdge,
        F::KillOwnerAndEdge,
        F::RedisKilled,
        F::FreezeOwner,
        postgres,
        F::CutRedis,
        F::DropSubscribers,
        redis,
        F::Rolling,
        F::CutPostgres,
        F::Join,
        F::FreezeOwnerPastGrace,
        F::WholeRestart,
    ];
    chosen(faults.into_iter().map(Step::of), nodes)
}

/// Every fault, then every pair of those that pair.
pub(crate) fn full(nodes: usize, rng: &mut Rng) -> Vec<Step> {
    let mut steps: Vec<_> = FAULTS.iter().map(|about| Step::of(about.fault)).collect();
    shuffle(&mut steps, rng);
    let mut pairs = Vec::new();
    for (at, first) in FAULTS.iter().enumerate().filter(|(_, about)| about.pairs) {
        for second in FAULTS[at + 1..].iter().filter(|about| about.pairs) {
            if first.target != second.target && first.target != Target::All {
                let mut faults = vec![first.fault, second.fault];
                if rng.chance(50) {
                    faults.reverse();
                }
                pairs.push(Step { faults });
            }
        }
    }
    shuffle(&mut pairs, rng);
    steps.append(&mut pairs);
    chosen(steps.into_iter(), nodes)
}

/// What the figures are taken from.
pub(crate) fn figures(nodes: usize) -> Vec<Step> {
    use Fault as F;
    let repeated = [
        (F::KillOwner, 12),
        (F::PlannedMove, 10),
        (F::Rolling, 3),
        (F::RedisKilled, 5),
        (F::CutRedisLong, 5),
    ];
    let steps =
        repeated.into_iter().flat_map(|(fault, times)| std::iter::repeat_n(Step::of(fault), times));
    chosen(steps, nodes)
}

/// These, by name; two joined by `+` overlap.
pub(crate) fn only(names: &[String]) -> Result<Vec<Step>, String> {
    let step = |names: &String| {
        let faults = names.split('+').map(|name| {
            let name = name.trim();
            Fault::named(name).ok_or_else(|| {
                let rows =
                    FAULTS.iter().map(|about| format!("  {:<24} {}", about.name, about.what));
                let rows: Vec<_> = rows.collect();
                format!("there is no fault \"{name}\", but there are\n{}", rows.join("\n"))
            })
        });
        Ok(Step { faults: faults.collect::<Result<_, String>>()? })
    };
    names.iter().map(step).collect()
}

fn chosen(steps: impl Iterator<Item = Step>, nodes: usize) -> Vec<Step> {
    steps.filter(|step| step.fits(nodes)).collect()
}

fn shuffle(steps: &mut [Step], rng: &mut Rng) {
    for at in (1..steps.len()).rev() {
        let other = rng.below(at as u64 + 1);
        steps.swap(at, usize::try_from(other).unwrap_or(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_plan_has_what_it_must() {
        assert!(short(3, false).len() >= 8);
        assert!(short(3, true).contains(&Step::of(Fault::Rolling)));
    }

    #[test]
    fn the_full_plan_has_each_fault_alone_and_pairs_on_different_targets() {
        let steps = full(3, &mut Rng::new(7));
        for about in FAULTS {
            assert!(steps.contains(&Step::of(about.fault)), "{}", about.name);
        }
        let pairs: Vec<_> = steps.iter().filter(|step| step.faults.len() == 2).collect();
        assert!(pairs.len() > 20, "{}", pairs.len());
        for pair in pairs {
            let [a, b] = [pair.faults[0].about(), pair.faults[1].about()];
            assert!(a.target != b.target, "{}", pair.name());
        }
    }

    #[test]
    fn a_single_node_has_faults_too() {
        let steps = full(1, &mut Rng::new(7));
        assert!(steps.len() > 5);
        assert!(steps.iter().flat_map(|step| &step.faults).all(|f| !f.about().needs_cluster));
    }

    #[test]
    fn steps_are_found_by_name() {
        let names = ["kill-owner + redis-killed".to_owned(), "join".to_owned()];
        let steps = only(&names).unwrap();
        assert_eq!(steps[0].faults, [Fault::KillOwner, Fault::RedisKilled]);
        assert!(steps[0].forgets() && !steps[1].forgets());
        assert!(only(&["earthquake".to_owned()]).unwrap_err().contains("kill-owner"));
    }
}
