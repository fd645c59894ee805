//! What has happened, in numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// Why something that was sent did not arrive at whoever was to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// An item: too much waits for its destination already.
    LaneFull,
    /// A frame: Redis refused it, or did not answer.
    Unsent,
    /// A frame: nobody listened.
    Unheard,
    /// A frame: more arrived than this process looked at in time.
    Lagged,
    /// A frame: whoever is to take it lags behind.
    InboxFull,
    /// A frame or a row of a version that is not ours.
    Version,
    /// A frame or a row that none of us has sealed, or that was sealed as something else.
    Forged,
    /// A frame or a row sealed with a secret that this node does not know.
    Foreign,
    /// A row that its node has replaced since.
    Replayed,
    /// What makes no sense although one of us has sealed it, or is too short or too large for that.
    Malformed,
    /// A frame meant for another node, or for another process of this one's name.
    Misdirected,
    /// A frame from another process of this node's name.
    Namesake,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::LaneFull,
        Self::Unsent,
        Self::Unheard,
        Self::Lagged,
        Self::InboxFull,
        Self::Version,
        Self::Forged,
        Self::Foreign,
        Self::Replayed,
        Self::Malformed,
        Self::Misdirected,
        Self::Namesake,
    ];

    /// Its name as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::LaneFull => "lane_full",
            Self::Unsent => "unsent",
            Self::Unheard => "unheard",
            Self::Lagged => "lagged",
            Self::InboxFull => "inbox_full",
            Self::Version => "version",
            Self::Forged => "forged",
            Self::Foreign => "foreign",
            Self::Replayed => "replayed",
            Self::Malformed => "malformed",
            Self::Misdirected => "misdirected",
            Self::Namesake => "namesake",
        }
    }
}

/// Between complaints in the log about one kind of thing that was dropped.
const COMPLAINTS: Duration = Duration::from_mins(1);

/// Says in the log what is dropped, once a minute for each reason.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<[(u64, Option<Instant>); Dropped::ALL.len()]>);

impl Complaints {
    pub(super) fn about(&self, why: Dropped, count: usize) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (held_back, said_at) = &mut all[why as usize];
        *held_back += count as u64;
        if said_at.is_none_or(|said| said.elapsed() >= COMPLAINTS) {
            *said_at = Some(Instant::now());
            let count = std::mem::take(held_back);
            tracing::warn!(reason = why.name(), count, "what came through Redis was dropped");
        }
    }
}

/// What one node has done with Redis.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commands sent, publishes among them.
    pub commands: Count,
    /// Commands that Redis refused or did not answer in time.
    pub failures: Count,
    /// Frames published, heard or not; the canary's are not counted.
    pub frames_out: Count,
    /// Items in them.
    pub items_out: Count,
    /// Bytes of them.
    pub bytes_out: Count,
    /// Frames accepted.
    pub frames_in: Count,
    /// Items in them.
    pub items_in: Count,
    /// Bytes of them.
    pub bytes_in: Count,
    /// Times the channels were subscribed to, the first included.
    pub subscriptions: Count,
    dropped: [Count; Dropped::ALL.len()],
}

impl Counters {
    /// What came through Redis and was none of this cluster's.
    pub fn refused(&self) -> u64 {
        use Dropped::{Foreign, Forged, Malformed, Misdirected, Replayed, Version};
        let all = [Forged, Foreign, Replayed, Malformed, Misdirected, Version];
        all.iter().map(|why| self.dropped(*why)).sum()
    }

    /// How many items, frames or rows were dropped for this reason.
    pub fn dropped(&self, why: Dropped) -> u64 {
        self.dropped[why as usize].get()
    }

    pub(super) fn drop(&self, why: Dropped, more: usize) {
        self.dropped[why as usize].add(more);
    }
}
