//! Who is here: one lease per presence, online or in grace, and the ways to find it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use protocol::client::{Group, PeerProfile, Stats, Status};
use protocol::server::Row;
use protocol::{MemberId, PresenceId};
use serde::{Deserialize, Serialize};

use super::events;
use super::io::{Attach, ConnId, Generation, Ms, OpenedAt, Told};
use super::missed::Knowledge;
use super::saved::Unsaved;
use super::status::{Source, Standing};
use crate::model::{LeaseRow, Place, Recipient, SavedState, Sender};

/// The channel of terminal commands.
const COMMAND_CHANNEL: &str = "claude-code";

/// A lease, within one activation.
pub(crate) type LeaseNo = u32;

/// A presence replaced by live holders this often within [`CONTEST_MS`] belongs to two sessions. A
/// proven key's newest holder wins all the same; plain hellos that look alike (containers with the
/// same host name and pid) are kept apart as two presences.
pub const CONTEST_TIMES: usize = 3;
/// See [`CONTEST_TIMES`].
pub const CONTEST_MS: Ms = 30_000;

/// What of a lease outlives its owner. What few peers have is boxed: idle sessions have one, too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What a returning session is recognized by.
    pub(crate) key: String,
    pub(crate) member: MemberId,
    pub(crate) member_pubkey: Arc<str>,
    pub(crate) session_pubkey: Option<Arc<str>>,
    /// Whether the session key was proven.
    pub(crate) proven: bool,
    pub(crate) name: Arc<str>,
    pub(crate) session_id: String,
    pub(crate) pid: i64,
    pub(crate) cwd: String,
    pub(crate) hostname: Option<String>,
    pub(crate) channel: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) peer_type: Option<String>,
    pub(crate) groups: Vec<Group>,
    pub(crate) visible: bool,
    /// Milliseconds since the Unix epoch.
    pub(crate) connected_at: i64,
    pub(crate) generation: Generation,
    /// The attach with which it came.
    #[serde(default)]
    pub(crate) came: Generation,
    /// If it is away: up to where its peer has surely been told of others.
    #[serde(default)]
    pub(crate) known: Generation,
    /// When its last hello was read.
    #[serde(default)]
    pub(crate) opened_at: OpenedAt,
    #[serde(default)]
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<String>,
    /// What it tells of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<Box<PeerProfile>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<Box<Stats>>,
    /// What its member's state does not know yet.
    #[serde(default)]
    pub(crate) unsaved: Unsaved,
    /// May kick and ban, as of its hello.
    #[serde(default)]
    pub(crate) moderator: bool,
    /// Milliseconds of its present absence that do not count: its owner stood still.
    #[serde(default)]
    pub(crate) uncounted_ms: Ms,
}

impl Record {
    /// `hello` makes control-plane presences, `session_hello` sessions.
    pub(crate) fn role(&self) -> &'static str {
        if self.proven { "session" } else { "control-plane" }
    }

    /// The key to address it by.
    pub(crate) fn pubkey(&self) -> &Arc<str> {
        self.session_pubkey.as_ref().unwrap_or(&self.member_pubkey)
    }

    /// Whether it is in `group` or below it.
    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| {
            own.name
                .strip_prefix(group)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// A connection has it. Envelopes may flow once the attach is durable and answered.
    Online { conn: ConnId, answered: bool },
    /// In grace until then.
    Away { until: Ms },
    /// The grace is over; the departure is being written.
    Leaving,
}

/// Whether others were told that a lease can be seen, and when they were; never, if that has not
/// changed since it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) at: Generation,
    pub(crate) visible: bool,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) presence: PresenceId,
    pub(crate) record: Record,
    pub(crate) hold: Hold,
    /// Its `peer_joined` is durable.
    pub(crate) joined: bool,
    /// The others have been told that it is here.
    pub(crate) announced: bool,
    /// When they were told.
    pub(crate) arrived: Generation,
    /// What they know of whether it can be seen.
    pub(crate) shown: Shown,
    /// What its own peer has been told.
    pub(crate) knowledge: Knowledge,
    /// Its hello has been answered, once at least.
    pub(crate) greeted: bool,
    /// What its member left when it was last here.
    pub(crate) saved: Option<Box<SavedState>>,
    /// When its status was last told.
    pub(crate) status_since: Ms,
    /// When its peer last showed that it lives.
    pub(crate) heard: Ms,
    /// When the store was asked who it is, or, of a lease found in the store, when it was found.
    pub(crate) checked_at: Ms,
    pub(crate) sender: Arc<Sender>,
    replaced: VecDeque<Ms>,
    /// Its row in `peers_list`, whole and short, once somebody has asked.
    rows: OnceLock<(Row, Row)>,
}

impl Lease {
    /// One that is just joining, or (`joined`) has long been here.
    pub(crate) fn new(
        presence: PresenceId,
        record: Record,
        hold: Hold,
        joined: bool,
        now: Ms,
    ) -> Self {
        let sender = Arc::new(Sender {
            member: record.member.clone(),
            member_pubkey: record.member_pubkey.clone(),
            session_pubkey: record.session_pubkey.clone(),
            name: record.name.clone(),
        });
        Self {
            presence,
            arrived: record.came,
            shown: Shown { at: Generation::default(), visible: record.visible },
            knowledge: Knowledge::default(),
            record,
            hold,
            joined,
            announced: joined,
            greeted: joined,
            saved: None,
            status_since: now,
            heard: now,
            checked_at: now,
            sender,
            replaced: VecDeque::new(),
            rows: OnceLock::new(),
        }
    }

    /// A session that will be gone in a moment, and is not announced before it has stayed for
    /// [`SHORT_LIVED_MS`](super::attach::SHORT_LIVED_MS): a command of a terminal.
    pub(crate) fn is_short_lived(&self) -> bool {
        let command = self.record.channel.as_deref() == Some(COMMAND_CHANNEL);
        !self.announced && command && self.claimed_key().is_some()
    }

    /// The session key that it names and has not proven.
    pub(crate) fn claimed_key(&self) -> Option<&Arc<str>> {
        self.record.session_pubkey.as_ref().filter(|_| !self.record.proven)
    }

    /// Its row in `peers_list`: whole, and without what peers may make long. Encoded once for each
    /// change of the lease.
    pub(crate) fn rows(&self) -> &(Row, Row) {
        self.rows.get_or_init(|| events::rows(self))
    }

    /// What peers are told when it is first seen.
    pub(crate) fn arrival(&self) -> &'static str {
        if self.saved.is_some() { "peer_returned" } else { "peer_joined" }
    }

    /// What an edge remembers of it.
    pub(crate) fn told(&self) -> Told {
        Told {
            presence: self.presence.clone(),
            generation: self.record.generation,
            member: self.record.member.clone(),
            pubkey: self.record.pubkey().clone(),
            name: self.record.name.clone(),
            session: self.record.proven,
        }
    }

    /// What an event about it holds in memory, near enough.
    pub(crate) fn event_bytes(&self) -> usize {
        let groups = self.record.groups.iter();
        let named =
            |group: &Group| 64 + group.name.len() + group.role.as_ref().map_or(0, String::len);
        1024 + groups.map(named).sum::<usize>()
    }

    pub(crate) fn standing(&self) -> Standing {
        let Record { status, source, .. } = self.record;
        Standing { status, source, since: self.status_since }
    }

    /// The queue that belongs to it alone.
    pub(crate) fn own(&self) -> Recipient {
        match &self.record.session_pubkey {
            Some(key) if self.record.proven => Recipient::Session(key.clone()),
            _ => Recipient::Presence(self.presence.clone()),
        }
    }

    pub(crate) fn conn(&self) -> Option<ConnId> {
        match self.hold {
            Hold::Online { conn, .. } => Some(conn),
            Hold::Away { .. } | Hold::Leaving => None,
        }
    }

    /// The connection, if its attach has been answered.
    pub(crate) fn listening(&self) -> Option<ConnId> {
        match self.hold {
            Hold::Online { conn, answered: true } => Some(conn),
            _ => None,
        }
    }

    /// Online or in grace: mail may wait for it. What is leaving has left its queue to its member
    /// in the very commit that ends it; what came behind that would wait for nobody.
    pub(crate) fn is_eligible(&self) -> bool {
        self.hold != Hold::Leaving
    }

    /// Whether mail may be addressed to it: not to a short-lived session once its connection is gone.
    pub(crate) fn is_recipient(&self) -> bool {
        self.is_eligible() && !(self.is_short_lived() && self.conn().is_none())
    }

    pub(crate) fn row(&self) -> LeaseRow {
        LeaseRow {
            presence: self.presence.clone(),
            // A struct of texts and numbers always serializes.
            body: serde_json::to_string(&self.record).unwrap_or_default(),
            away: self.conn().is_none(),
            member: self.record.member.clone(),
            place: Place {
                session_id: self.record.session_id.clone(),
                cwd: self.record.cwd.clone(),
                pid: self.record.pid,
            },
        }
    }

    /// A returning session may bring another name, directory or session id.
    pub(crate) fn refresh(&mut self, attach: &Attach, generation: Generation) {
        let profile = &attach.profile;
        let record = &mut self.record;
        if let Some(name) = given(profile.display_name.as_ref()) {
            record.name = name.as_str().into();
        }
        record.session_id.clone_from(&profile.session_id);
        record.cwd.clone_from(&profile.cwd);
        record.pid = profile.pid;
        record.generation = generation;
        record.opened_at = attach.opened_at;
        self.sender = Arc::new(Sender { name: record.name.clone(), ..(*self.sender).clone() });
    }

    /// Whether live holders were displaced so often of late that there must be two.
    fn is_contested(&mut self, now: Ms) -> bool {
        while self.replaced.front().is_some_and(|at| at + CONTEST_MS <= now) {
            self.replaced.pop_front();
        }
        self.replaced.len() >= CONTEST_TIMES
    }

    /// A live holder was displaced. Answers whether it has just become too often.
    pub(crate) fn note_replaced(&mut self, now: Ms) -> bool {
        let before = self.is_contested(now);
        self.replaced.push_back(now);
        if self.replaced.len() > CONTEST_TIMES {
            self.replaced.pop_front();
        }
        !before && self.is_contested(now)
    }
}

/// An empty name is not given.
pub(crate) fn given(name: Option<&String>) -> Option<&String> {
    name.filter(|name| !name.is_empty())
}

/// What a session with this proven key is recognized by.
pub(crate) fn session_presence_key(key: &str) -> String {
    serde_json::json!(["session", key]).to_string()
}

/// What an attach finds under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nobody: join.
    Nobody,
    /// This lease: reattach.
    Lease(LeaseNo),
    /// A lease that is just leaving: wait for that, then ask again.
    Leaving(LeaseNo),
    /// Somebody who looks alike, proves nothing and keeps coming back: join beside this one.
    Contested(LeaseNo),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    leases: BTreeMap<LeaseNo, Lease>,
    by_key: HashMap<String, BTreeSet<LeaseNo>>,
    by_pubkey: HashMap<Arc<str>, BTreeSet<LeaseNo>>,
    by_conn: HashMap<ConnId, LeaseNo>,
    by_presence: HashMap<PresenceId, LeaseNo>,
    graces: BTreeSet<(Ms, LeaseNo)>,
    next: LeaseNo,
}

impl Roster {
    /// Leases: online, in grace or just leaving. What capacity is measured against.
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn get(&self, no: LeaseNo) -> Option<&Lease> {
        self.leases.get(&no)
    }

    /// The only way to change a lease: its row is encoded anew when somebody asks.
    pub(crate) fn get_mut(&mut self, no: LeaseNo) -> Option<&mut Lease> {
        let lease = self.leases.get_mut(&no)?;
        lease.rows.take();
        Some(lease)
    }

    /// The peer of a connection has shown that it lives, which its row does not tell.
    pub(crate) fn heard(&mut self, conn: ConnId, now: Ms) {
        if let Some(lease) = self.of_conn(conn).and_then(|no| self.leases.get_mut(&no)) {
            lease.heard = now;
        }
    }

    /// Everybody, for good.
    pub(crate) fn into_leases(self) -> impl Iterator<Item = Lease> {
        self.leases.into_values()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseNo, &Lease)> {
        self.leases.iter().map(|(no, lease)| (*no, lease))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (LeaseNo, &mut Lease)> {
        self.leases.iter_mut().map(|(no, lease)| (*no, lease))
    }

    pub(crate) fn of_conn(&self, conn: ConnId) -> Option<LeaseNo> {
        self.by_conn.get(&conn).copied()
    }

    pub(crate) fn of_presence(&self, presence: &PresenceId) -> Option<LeaseNo> {
        self.by_presence.get(presence).copied()
    }

    /// The leases that `pubkey` addresses, as a session's key or as a member's.
    pub(crate) fn addressed(&self, pubkey: &str) -> impl Iterator<Item = (LeaseNo, &Lease)> {
        let numbers = self.by_pubkey.get(pubkey).into_iter().flatten();
        numbers.filter_map(|no| Some((*no, self.leases.get(no)?)))
    }

    /// The leases that name this session key, proven or not.
    pub(crate) fn naming(&self, key: &str) -> impl Iterator<Item = (LeaseNo, &Lease)> {
        let same = move |l: &Lease| l.record.session_pubkey.as_deref() == Some(key);
        self.addressed(key).filter(move |(_, lease)| same(lease))
    }

    /// Whom a hello of this presence key belongs to. There are two at most that look alike: the
    /// third takes the place of the one that was attached first.
    pub(crate) fn find(&mut self, key: &str, now: Ms) -> Found {
        let Some(numbers) = self.by_key.get(key) else { return Found::Nobody };
        let hold = |no: &LeaseNo| self.leases.get(no).map(|lease| lease.hold);
        let away = numbers.iter().find(|no| matches!(hold(no), Some(Hold::Away { .. })));
        if let Some(no) = away {
            return Found::Lease(*no);
        }
        if let Some(no) = numbers.iter().find(|no| hold(no) == Some(Hold::Leaving)) {
            return Found::Leaving(*no);
        }
        let attached = |no: &LeaseNo| self.leases.get(no).map(|lease| lease.record.generation);
        let Some(no) = numbers.iter().copied().min_by_key(attached) else { return Found::Nobody };
        let alone = numbers.len() == 1;
        let Some(lease) = self.leases.get_mut(&no) else { return Found::Nobody };
        if alone && !lease.record.proven && lease.is_contested(now) {
            return Found::Contested(no);
        }
        Found::Lease(no)
    }

    pub(crate) fn insert(&mut self, lease: Lease) -> LeaseNo {
        let no = self.next;
        self.next += 1;
        let record = &lease.record;
        self.by_key.entry(record.key.clone()).or_default().insert(no);
        self.by_pubkey.entry(record.member_pubkey.clone()).or_default().insert(no);
        if let Some(key) = &record.session_pubkey {
            self.by_pubkey.entry(key.clone()).or_default().insert(no);
        }
        self.by_presence.insert(lease.presence.clone(), no);
        self.index(no, lease.hold);
        self.leases.insert(no, lease);
        no
    }

    pub(crate) fn remove(&mut self, no: LeaseNo) -> Option<Lease> {
        let lease = self.leases.remove(&no)?;
        self.unindex(no, lease.hold);
        let record = &lease.record;
        unlink(&mut self.by_key, &record.key, no);
        unlink(&mut self.by_pubkey, &record.member_pubkey, no);
        if let Some(key) = &record.session_pubkey {
            unlink(&mut self.by_pubkey, key, no);
        }
        self.by_presence.remove(&lease.presence);
        Some(lease)
    }

    /// Moves a lease to another hold; answers the one before.
    pub(crate) fn hold(&mut self, no: LeaseNo, hold: Hold) -> Option<Hold> {
        let lease = self.leases.get_mut(&no)?;
        let before = std::mem::replace(&mut lease.hold, hold);
        self.unindex(no, before);
        self.index(no, hold);
        Some(before)
    }

    fn index(&mut self, no: LeaseNo, hold: Hold) {
        match hold {
            Hold::Online { conn, .. } => {
                self.by_conn.insert(conn, no);
            }
            Hold::Away { until } => {
                self.graces.insert((until, no));
            }
            Hold::Leaving => {}
        }
    }

    fn unindex(&mut self, no: LeaseNo, hold: Hold) {
        match hold {
            Hold::Online { conn, .. } => {
                self.by_conn.remove(&conn);
            }
            Hold::Away { until } => {
                self.graces.remove(&(until, no));
            }
            Hold::Leaving => {}
        }
    }

    /// Whether any lease is in grace.
    pub(crate) fn any_away(&self) -> bool {
        !self.graces.is_empty()
    }

    /// When the first grace ends.
    pub(crate) fn deadline(&self) -> Option<Ms> {
        self.graces.first().map(|(until, _)| *until)
    }

    /// The node stood still for `late`: graces end so much later, and none before `least`.
    /// Answers by how much each was moved.
    pub(crate) fn postpone(&mut self, late: Ms, least: Ms) -> Vec<(LeaseNo, Ms)> {
        let graces: Vec<_> = self.graces.iter().copied().collect();
        let moved = graces.into_iter().map(|(before, no)| {
            let until = before.saturating_add(late).max(least);
            self.hold(no, Hold::Away { until });
            (no, until - before)
        });
        moved.collect()
    }

    /// A lease whose grace is over.
    pub(crate) fn over(&self, now: Ms) -> Option<LeaseNo> {
        self.graces.first().filter(|(until, _)| *until <= now).map(|(_, no)| *no)
    }
}

fn unlink<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, BTreeSet<LeaseNo>>,
    key: &K,
    no: LeaseNo,
) {
    if let Some(numbers) = index.get_mut(key) {
        numbers.remove(&no);
        if numbers.is_empty() {
            index.remove(key);
        }
    }
}
