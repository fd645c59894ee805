//! Chaos on real processes: starts a cluster, lets clients that behave like the real ones talk
//! through it, breaks it in every way it knows, and judges by what the clients saw.
//!
//! [`cluster`] is what is broken and [`faults`] how; [`client`] lives through it, [`bystanders`] only stay, and [`log`] keeps
//! what it saw; [`check`] judges that, and can be asked again later; [`mod@run`] puts them together.

mod bystanders;
mod check;
mod client;
mod cluster;
mod crowd;
mod faults;
mod log;
mod report;
mod rng;
mod run;
mod shared;

use std::path::Path;

pub(crate) use self::run::run;
use crate::Error;
use check::Checker;
use report::Report;

/// Judges the log of a run.
pub(crate) fn check_file(path: &Path) -> Result<Report, Error> {
    let mut checker = Checker::default();
    for line in log::read(path)? {
        checker.take(line?);
    }
    Ok(Report::new(checker.verdict()))
}
