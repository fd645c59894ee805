//! What a connection's requests cost the node, counted in bytes.
//!
//! The count of verbs says how often a peer may ask; this says how much. Answers are paid when their
//! size is known. While a connection owes, its next request waits, and the socket is not read.

use protocol::client::{Request, Verb};

use crate::mesh::io::{Command, Ms};

/// Bytes that the requests of a connection may cost at once.
pub const COST_BURST: u64 = 8 * 1024 * 1024;
/// Bytes that they may cost in a second.
pub const COST_PER_SECOND: u64 = 1024 * 1024;
/// The longest that a connection waits for what it owes, in milliseconds: clients wait 5 s for an
/// answer, and it may be others who have made it long.
pub const COST_WAIT_MS: Ms = 4_000;

/// A send that is refused: a thousand at once, and then 128 in a second. Those that are accepted are
/// bounded by their own rate, and by what the recipient takes.
pub(super) const REFUSAL: u64 = 8 * 1024;

/// A question to the store: an indexed read.
const QUESTION: u64 = 8 * 1024;
/// Part of the audit chain: the store walks through many rows.
const WALK: u64 = 256 * 1024;
/// A change of a lease is a row to write: 250 at once, which the count of verbs does not allow, and
/// then 32 in a second.
const CHANGE: u64 = 32 * 1024;
/// And the lease is written to the store, its log and Redis, and encoded for each.
const CHANGE_FACTOR: u64 = 8;

/// How much a connection may still ask for.
#[derive(Debug)]
pub(super) struct Purse {
    level: i64,
    since: Ms,
    /// Bytes this connection has told of itself: the size of its lease, near enough.
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    hello: usize,
    summary: usize,
    profile: usize,
    groups: usize,
}

impl Purse {
    /// Full.
    pub(super) fn new(now: Ms) -> Self {
        Self { level: signed(COST_BURST), since: now, told: Told::default() }
    }

    /// Whether the next request must wait.
    pub(super) fn owes(&mut self, now: Ms) -> bool {
        self.earn(now);
        self.level < 0
    }

    /// When it need not wait any more.
    pub(super) fn even_at(&self) -> Ms {
        let owed = self.level.min(0).unsigned_abs();
        self.since + (owed * 1000).div_ceil(COST_PER_SECOND)
    }

    /// Something of this size was answered. No debt takes longer than [`COST_WAIT_MS`].
    pub(super) fn pay(&mut self, now: Ms, bytes: u64) {
        self.earn(now);
        let most = signed(COST_PER_SECOND * COST_WAIT_MS / 1000);
        self.level = self.level.saturating_sub(signed(bytes)).max(-most);
    }

    /// A request is passed on.
    pub(super) fn pay_request(&mut self, now: Ms, request: &Request) {
        let cost = self.cost(&request.verb);
        self.pay(now, cost);
    }

    /// A hello is passed on: it says how large a lease is.
    pub(super) fn greeted(&mut self, command: &Command) {
        self.told = Told { hello: command.bytes(), ..Told::default() };
    }

    fn cost(&mut self, verb: &Verb) -> u64 {
        let told = &mut self.told;
        match verb {
            // Its answer is all.
            Verb::ListPeers => return 0,
            Verb::MessageStatus { .. }
            | Verb::ListBans
            | Verb::Disconnect(_)
            | Verb::Kick(_)
            | Verb::Ban { .. }
            | Verb::Unban { .. } => return QUESTION,
            Verb::AuditQuery { .. } | Verb::AuditVerify => return WALK,
            Verb::SetSummary { summary } => told.summary = summary.len(),
            Verb::SetProfile(profile) => {
                told.profile = told.profile.max(protocol::server::bytes_of(profile));
            }
            Verb::JoinGroup(group) => {
                let most = protocol::limits::GROUPS * 2 * protocol::limits::NAME_BYTES;
                told.groups = most.min(told.groups + protocol::server::bytes_of(group));
            }
            Verb::SetStatus { .. }
            | Verb::SetVisible { .. }
            | Verb::SetStats { .. }
            | Verb::LeaveGroup { .. } => {}
        }
        let lease = told.hello + told.summary + told.profile + told.groups;
        let lease = u64::try_from(lease).unwrap_or(u64::MAX);
        CHANGE.saturating_add(lease.saturating_mul(CHANGE_FACTOR))
    }

    fn earn(&mut self, now: Ms) {
        let earned = now.saturating_sub(self.since).saturating_mul(COST_PER_SECOND) / 1000;
        self.level = self.level.saturating_add(signed(earned)).min(signed(COST_BURST));
        self.since = self.since.max(now);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether the answer may be long: a connection has one such request at a time.
pub(super) fn lists(verb: &Verb) -> bool {
    match verb {
        Verb::ListPeers
        | Verb::MessageStatus { .. }
        | Verb::ListBans
        | Verb::AuditQuery { .. }
        | Verb::Disconnect(_)
        | Verb::Kick(_) => true,
        Verb::SetStatus { .. }
        | Verb::SetSummary { .. }
        | Verb::SetVisible { .. }
        | Verb::SetProfile(_)
        | Verb::SetStats { .. }
        | Verb::JoinGroup(_)
        | Verb::LeaveGroup { .. }
        | Verb::Ban { .. }
        | Verb::Unban { .. }
        | Verb::AuditVerify => false,
    }
}

/// Whether it only asks: of no use once nobody reads the answer.
pub(super) fn only_asks(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::ListPeers
            | Verb::MessageStatus { .. }
            | Verb::ListBans
            | Verb::AuditQuery { .. }
            | Verb::AuditVerify
    )
}
