//! The clock of this process: a monotonic one for deadlines, and the store's for everything that is
//! compared with other nodes, with clients or with what is stored. So a node whose own clock is wrong,
//! or is set while it runs, neither refuses honest hellos nor accepts old ones.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::mesh::io::{Ms, Now};

/// Time since a moment at start, and the store's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// What the store's clock shows above this one, in milliseconds. One for each start of a node, and
    /// never freed, so that a clock is cheap to hand on.
    ahead: &'static AtomicI64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), ahead: Box::leak(Box::new(AtomicI64::new(wall_ms()))) }
    }

    /// The store's clock shows this now, in milliseconds since the Unix epoch.
    pub fn follow(&self, store: i64) {
        let mono = i64::try_from(self.mono()).unwrap_or(i64::MAX);
        self.ahead.store(store.saturating_sub(mono), Ordering::Relaxed);
    }

    fn mono(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(Ms::MAX)
    }

    /// The time.
    pub fn now(&self) -> Now {
        let mono = self.mono();
        let since = i64::try_from(mono).unwrap_or(i64::MAX);
        Now { mono, wall: self.ahead.load(Ordering::Relaxed).saturating_add(since) }
    }

    /// When this clock shows `at`.
    pub fn instant(&self, at: Ms) -> Instant {
        // A deadline further than a year away may as well be a year away.
        const YEAR_MS: Ms = 365 * 24 * 3600 * 1000;
        let elapsed = self.now().mono;
        self.start + Duration::from_millis(at.min(elapsed + YEAR_MS))
    }
}

/// Milliseconds since the Unix epoch, by the machine's own clock.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
