//! The clock of this process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::mesh::io::{Ms, Now};

/// Time since a moment at start, and the wall's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(Ms::MAX);
        Now { mono, wall: wall_ms() }
    }

    /// When this clock shows `at`.
    pub fn instant(&self, at: Ms) -> Instant {
        // A deadline further than a year away may as well be a year away.
        const YEAR_MS: Ms = 365 * 24 * 3600 * 1000;
        let elapsed = self.now().mono;
        self.start + Duration::from_millis(at.min(elapsed + YEAR_MS))
    }
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
