//! Ports for servers that others must be able to find again after they were away.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::Error;

/// Below what systems give to connections (32768 and up on Linux), so that no client is given a
/// killed server's port.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on, and that was not given before.
pub(super) fn free() -> Result<u16, Error> {
    let range = LAST - FIRST;
    // Runs side by side start at different places.
    let offset = u16::try_from(u32::from(range).min(std::process::id() * 37 % u32::from(range)))
        .unwrap_or_default();
    for _ in 0..range {
        let port = FIRST + (offset + NEXT.fetch_add(1, Relaxed) % range) % range;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::Cluster("no free port".to_owned()))
}
