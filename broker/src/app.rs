//! Wires the rooms together; the only file that sees them all.

use std::error::Error;

use crate::config::Config;

/// Runs a node until it is told to stop.
#[expect(clippy::unused_async, reason = "a stub: the node is not wired yet")]
pub async fn serve(_config: Config) -> Result<(), Box<dyn Error + Send + Sync>> {
    Err("this build cannot serve yet".into())
}
