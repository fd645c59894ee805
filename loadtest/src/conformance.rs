//! `loadtest conformance`: what a broker must answer, one named check for each row of the wire
//! contract (protocol-core §§1–8), from outside.
//!
//! Checks run one after the other in a fixed order, each with members of its own from the mesh
//! file. An event is waited for with a deadline; that something does *not* come is shown by a
//! marker sent behind it. What a run cannot show is listed under the table, never passed.

mod absence;
mod bench;
mod expect;
mod peer;
mod persona;
mod report;
mod socket;
mod web;

mod audit;
mod bans;
mod dispatch;
mod events;
mod greeting;
mod hello;
mod hook;
mod hook_status;
mod http;
mod idempotency;
mod join;
mod leases;
mod moderation;
mod multicast;
mod peers;
mod presence;
mod push;
mod receipts;
mod restored;
mod send;
mod session_hello;
mod status;
mod topics;
mod transport;

use std::pin::Pin;

use tokio::time::{Duration, Instant, timeout};

use self::bench::Bench;
use self::expect::{Fault, Verdict};
use self::report::{Outcome, Report, Row};
use crate::Error;
use crate::cli::Conformance;

/// No check takes longer: a broker that hangs fails one, not all.
const CHECK_DEADLINE: Duration = Duration::from_secs(25);

type Running<'a> = Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// One row of the contract.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    name: &'static str,
    section: &'static str,
    differs: Option<Differs>,
    run: for<'a> fn(&'a Bench) -> Running<'a>,
}

/// Where our broker knowingly does not do as the reference did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Differs {
    /// Numbers in protocol-core §12; none where the contract was changed without a defect.
    defects: &'static [u8],
    why: &'static str,
}

/// A check from its function, whose name is the check's.
macro_rules! check {
    ($section:literal, $name:ident) => {
        $crate::conformance::Check {
            name: stringify!($name),
            section: $section,
            differs: None,
            run: |bench| Box::pin($name(bench)),
        }
    };
    ($section:literal, $name:ident, [$($defect:literal),*], $why:literal) => {
        $crate::conformance::Check {
            name: stringify!($name),
            section: $section,
            differs: Some($crate::conformance::Differs { defects: &[$($defect),*], why: $why }),
            run: |bench| Box::pin($name(bench)),
        }
    };
}
use check;

/// All checks, in their order: those that lock sessions out or use up a budget come last.
fn all() -> Vec<Check> {
    [
        transport::checks(),
        dispatch::checks(),
        hello::checks(),
        session_hello::checks(),
        greeting::checks(),
        events::checks(),
        leases::checks(),
        send::checks(),
        multicast::checks(),
        topics::checks(),
        idempotency::checks(),
        push::checks(),
        receipts::checks(),
        presence::checks(),
        status::checks(),
        peers::checks(),
        restored::checks(),
        hook::checks(),
        hook_status::checks(),
        audit::checks(),
        http::checks(),
        join::checks(),
        bans::checks(),
        moderation::checks(),
        send::late_checks(),
        transport::late_checks(),
        hook::late_checks(),
    ]
    .concat()
}

/// Runs the checks whose name contains `--only`.
pub(crate) async fn run(args: &Conformance) -> Result<Report, Error> {
    let only = args.only.as_deref().unwrap_or_default();
    let chosen: Vec<_> = all().into_iter().filter(|check| check.name.contains(only)).collect();
    if chosen.is_empty() {
        return Err(Error::Options("--only names no check"));
    }
    let bench = Bench::new(args).await?;
    let start = Instant::now();
    let mut rows = Vec::with_capacity(chosen.len());
    for check in &chosen {
        let began = Instant::now();
        let verdict = timeout(CHECK_DEADLINE, (check.run)(&bench)).await;
        let verdict = verdict.unwrap_or_else(|_| Err(Fault::failed("the check did not end")));
        bench.bury().await;
        rows.push(row(check, verdict, began.elapsed()));
    }
    bench.leave().await;
    Ok(Report::new(rows, start.elapsed(), only.is_empty()))
}

fn row(check: &Check, verdict: Verdict, took: Duration) -> Row {
    let (outcome, detail) = match verdict {
        Ok(()) => (Outcome::Pass, None),
        Err(Fault::Failed(why)) => (Outcome::Fail, Some(why)),
        Err(Fault::Skipped(why)) => (Outcome::Skip, Some(why)),
    };
    Row {
        name: check.name,
        section: check.section,
        outcome,
        defects: check.differs.map(|differs| differs.defects),
        differs: check.differs.map(|differs| differs.why),
        detail,
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_defects_exist() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), all.len());
        for check in all {
            let defects = check.differs.map_or(&[][..], |differs| differs.defects);
            assert!(defects.iter().all(|defect| (1..=43).contains(defect)), "{}", check.name);
        }
    }
}
