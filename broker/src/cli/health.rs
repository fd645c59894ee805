//! `health`: whether the node that these settings describe answers, for a container's health check.

use super::{Failure, local};
use crate::config::Config;

/// Asks `/health` of the node on this machine.
pub(super) async fn run(config: &Config) -> Result<String, Failure> {
    let address = local::address(config);
    let failed = |why: String| Failure::new(format!("no healthy broker at {address}: {why}"));
    match local::get(address, "/health").await.map_err(failed)? {
        (200, _) => Ok(format!("A broker answers at {address}\n")),
        (status, _) => Err(failed(format!("it answered {status}"))),
    }
}
