//! Whether a peer may be disturbed: who said so last, and for how long that holds
//! (protocol-core §5.2). There are no transcripts here to infer a status from.

use std::collections::{BTreeSet, HashMap};

use protocol::client::Status;
use serde::{Deserialize, Serialize};

use super::io::Ms;
use super::roster::LeaseNo;

/// Who said so; what comes later outranks what comes before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// Nobody: what holds when nobody says anything.
    #[default]
    Jsonl,
    /// The session, by `set_status`.
    Manual,
    /// A hook of the tool that runs the session.
    Hook,
}

/// A status, as it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) status: Status,
    pub(crate) source: Source,
    pub(crate) since: Ms,
}

/// How long what was said holds.
#[derive(Debug, Clone, Copy)]
pub struct StatusLimits {
    /// How long a hook's word counts as fresh, in milliseconds.
    pub hook_fresh_ms: Ms,
    /// After how long nobody is taken for `working` any more, in milliseconds.
    pub working_ms: Ms,
}

impl Standing {
    /// What stands after `source` said `status`.
    pub(crate) fn told(
        self,
        status: Status,
        source: Source,
        now: Ms,
        limits: StatusLimits,
    ) -> Self {
        let fresh = now.saturating_sub(self.since) <= limits.hook_fresh_ms;
        let source = match source {
            // Only the peer itself ends its wish not to be disturbed.
            Source::Hook if self.status == Status::Dnd => return self,
            lower if status == self.status && lower < self.source && fresh => self.source,
            source => source,
        };
        Self { status, source, since: now }
    }

    /// Until when it holds, if not for good.
    pub(crate) fn until(self, limits: StatusLimits) -> Option<Ms> {
        let lasts = match self.source {
            Source::Hook => limits.hook_fresh_ms.min(limits.working_ms),
            Source::Manual | Source::Jsonl => limits.working_ms,
        };
        (self.status == Status::Working).then_some(self.since + lasts)
    }
}

/// When which `working` ends by itself.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    due: BTreeSet<(Ms, LeaseNo)>,
    of: HashMap<LeaseNo, Ms>,
}

impl Expiries {
    /// This lease's status holds until then, or for good.
    pub(crate) fn set(&mut self, no: LeaseNo, until: Option<Ms>) {
        if let Some(before) = self.of.remove(&no) {
            self.due.remove(&(before, no));
        }
        if let Some(until) = until {
            self.of.insert(no, until);
            self.due.insert((until, no));
        }
    }

    /// When the first one ends.
    pub(crate) fn deadline(&self) -> Option<Ms> {
        self.due.first().map(|(until, _)| *until)
    }

    /// One that has ended.
    pub(crate) fn over(&mut self, now: Ms) -> Option<LeaseNo> {
        let (_, no) = self.due.first().filter(|(until, _)| *until <= now).copied()?;
        self.set(no, None);
        Some(no)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StatusLimits = StatusLimits { hook_fresh_ms: 30_000, working_ms: 60_000 };

    fn standing(status: Status, source: Source, since: Ms) -> Standing {
        Standing { status, source, since }
    }

    #[test]
    fn whoever_says_something_else_is_believed() {
        let hook = standing(Status::Working, Source::Hook, 0);
        assert_eq!(
            hook.told(Status::Idle, Source::Manual, 10, LIMITS),
            standing(Status::Idle, Source::Manual, 10)
        );
    }

    #[test]
    fn a_fresh_hook_is_only_confirmed_by_lower_ranks() {
        let hook = standing(Status::Working, Source::Hook, 0);
        let confirmed = hook.told(Status::Working, Source::Manual, 30_000, LIMITS);
        assert_eq!(confirmed, standing(Status::Working, Source::Hook, 30_000));
        let stale = hook.told(Status::Working, Source::Manual, 30_001, LIMITS);
        assert_eq!(stale, standing(Status::Working, Source::Manual, 30_001));
    }

    #[test]
    fn hooks_leave_dnd_alone() {
        let dnd = standing(Status::Dnd, Source::Manual, 0);
        assert_eq!(dnd.told(Status::Idle, Source::Hook, 10, LIMITS), dnd);
        let idle = dnd.told(Status::Idle, Source::Manual, 10, LIMITS);
        assert_eq!(idle.status, Status::Idle);
    }

    #[test]
    fn only_working_ends_by_itself() {
        let until = |status, source| standing(status, source, 5).until(LIMITS);
        assert_eq!(until(Status::Working, Source::Hook), Some(30_005));
        assert_eq!(until(Status::Working, Source::Manual), Some(60_005));
        assert_eq!(until(Status::Dnd, Source::Manual), None);
        assert_eq!(until(Status::Idle, Source::Hook), None);
    }

    #[test]
    fn an_expiry_is_moved_not_added() {
        let mut expiries = Expiries::default();
        expiries.set(1, Some(10));
        expiries.set(1, Some(20));
        assert_eq!((expiries.deadline(), expiries.over(10)), (Some(20), None));
        assert_eq!((expiries.over(20), expiries.deadline()), (Some(1), None));
    }
}
