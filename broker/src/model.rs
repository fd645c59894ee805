//! The words that rules and stores share: envelopes, recipients, leases, and what a commit writes.

use std::fmt;
use std::sync::Arc;

use protocol::client::{Group, Priority};
use protocol::{MemberId, MeshId, MessageId, PresenceId};

/// A fencing token (Kleppmann 2016): minted by the store, higher for every activation of a mesh.
pub type Epoch = u64;

/// An envelope's place in its mesh. Starts at 1; gaps are allowed, reuse is not.
pub type Seq = u64;

/// How long an accepted envelope waits for its recipients, and its id stays known: 7 days.
pub const ENVELOPE_TTL_MS: i64 = 7 * 24 * 3600 * 1000;

/// Who sent an envelope, as its recipients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The member.
    pub member: MemberId,
    /// The member's key.
    pub member_pubkey: Arc<str>,
    /// The key of the sending session, if it has one.
    pub session_pubkey: Option<Arc<str>>,
    /// The name in effect on the sending connection.
    pub name: Arc<str>,
}

impl Sender {
    /// The key the sender encrypts with: the session's, else the member's.
    pub fn pubkey(&self) -> &str {
        self.session_pubkey.as_deref().unwrap_or(&self.member_pubkey)
    }
}

/// One accepted message. The body (`nonce`, `ciphertext`) is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its id.
    pub id: MessageId,
    /// Its place.
    pub seq: Seq,
    /// Who sent it.
    pub sender: Arc<Sender>,
    /// Whom it was addressed to, as sent.
    pub target: String,
    /// How urgent it is.
    pub priority: Priority,
    /// Opaque.
    pub nonce: String,
    /// Opaque.
    pub ciphertext: String,
    /// What makes a retry of it recognizable.
    pub key: AcceptKey,
    /// The sender's digest of the request.
    pub fingerprint: Option<String>,
    /// The message it answers.
    pub reply_to: Option<String>,
    /// `reminder` from the scheduler.
    pub subtype: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Envelope {
    /// Bytes it holds in memory, near enough to bound queues with.
    pub fn bytes(&self) -> usize {
        self.nonce.len() + self.ciphertext.len() + self.target.len() + 256
    }

    /// The lane it waits in.
    pub fn lane(&self) -> Lane {
        Lane::of(self.priority)
    }
}

/// What makes a retry recognizable, within (mesh, sender member).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AcceptKey {
    /// The client's own `client_message_id`.
    Client(String),
    /// (connection, number): the link's, for sends that carry no id.
    Link(String),
}

impl AcceptKey {
    /// The name stored beside the key, so that clients cannot forge the link's.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Link(_) => "link",
        }
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Client(key) | Self::Link(key) => key,
        }
    }

    /// Back from what is stored. Unknown kinds are the link's: they match no client's.
    pub fn from_parts(kind: &str, key: String) -> Self {
        if kind == "client" { Self::Client(key) } else { Self::Link(key) }
    }

    /// The `client_message_id`, if the sender gave one.
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Client(key) => Some(key),
            Self::Link(_) => None,
        }
    }
}

/// Whose queue a delivery waits in. Durable: it outlives connections and presences.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Recipient {
    /// A proven session key, whenever it is here.
    Session(Arc<str>),
    /// One presence without a proven key; ends with its lease and falls to the member.
    Presence(PresenceId),
    /// A member, through whichever of its connections suits best.
    Member(MemberId),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(key) => write!(f, "s:{key}"),
            Self::Presence(id) => write!(f, "p:{id}"),
            Self::Member(id) => write!(f, "m:{id}"),
        }
    }
}

impl Recipient {
    /// Back from its text; nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "s" => Some(Self::Session(rest.into())),
            "p" => Some(Self::Presence(rest.into())),
            "m" => Some(Self::Member(rest.into())),
            _ => None,
        }
    }
}

/// Order is kept within a lane: a busy recipient takes `now` and leaves the rest waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Priority `now`.
    Urgent,
    /// Priorities `next` and `low`.
    Normal,
}

impl Lane {
    /// Both, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Urgent, Self::Normal];

    /// The lane of a priority.
    pub fn of(priority: Priority) -> Self {
        if priority == Priority::Now { Self::Urgent } else { Self::Normal }
    }

    /// As stored.
    pub fn index(self) -> i16 {
        self as i16
    }

    /// Back from what is stored: 0 is urgent.
    pub fn from_index(index: i16) -> Self {
        if index == 0 { Self::Urgent } else { Self::Normal }
    }
}

/// A recipient's queue of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// Whose.
    pub recipient: Recipient,
    /// Which.
    pub lane: Lane,
}

/// What a mesh asks the store to write under one epoch: units in order, each all or nothing.
#[derive(Debug, Clone)]
pub struct MeshCommit {
    /// The mesh.
    pub mesh: MeshId,
    /// The epoch it believes in.
    pub epoch: Epoch,
    /// What to write.
    pub units: Vec<Unit>,
}

/// Writes that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit(pub Vec<Write>);

/// One thing to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// An envelope, a delivery for each recipient, and the key that makes a retry recognizable.
    /// Written only if the key is new; see [`Outcome::Committed`].
    Accept(Accept),
    /// A recipient has the envelope: the delivery goes, and the body with the last one.
    Confirm(Confirm),
    /// A lease as it is now.
    SaveLease(LeaseRow),
    /// A lease that has ended.
    DropLease(PresenceId),
    /// What waited for an ended presence waits for its member.
    Inherit {
        /// The presence that ended.
        from: PresenceId,
        /// Its member.
        to: MemberId,
    },
    /// A session key was proven to be this member's.
    RecordKey {
        /// The key, lower-case hex.
        key: Arc<str>,
        /// Its member.
        member: MemberId,
    },
    /// One entry of the audit chain.
    Audit(AuditRow),
}

/// See [`Write::Accept`].
#[derive(Debug, Clone, PartialEq)]
pub struct Accept {
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// Each once. May be empty: then nobody was there, and the body need not be kept.
    pub recipients: Vec<Recipient>,
}

/// See [`Write::Confirm`]. Names the message: after a lost tail a sequence alone could be another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirm {
    /// Whose delivery.
    pub queue: QueueId,
    /// At which place.
    pub seq: Seq,
    /// Of which message.
    pub message: MessageId,
}

/// A lease as stored: opaque but for whether its holder is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The presence.
    pub presence: PresenceId,
    /// `mesh`'s own text.
    pub body: String,
    /// In grace. The store notes the time, by its own clock, when this becomes true.
    pub away: bool,
}

/// One entry of a mesh's audit chain (protocol-core §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// E.g. `peer_joined`.
    pub event: &'static str,
    /// Who did it.
    pub actor: Option<MemberId>,
    /// By which name.
    pub actor_name: Option<Arc<str>>,
    /// Canonical JSON.
    pub payload: String,
    /// The entry before, or `genesis`.
    pub prev_hash: String,
    /// SHA-256, hex.
    pub hash: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// What became of a [`MeshCommit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All units are durable, but for `Accept`s whose key was known: those wrote nothing.
    Committed {
        /// The known ones.
        duplicates: Vec<Duplicate>,
    },
    /// The epoch is not the mesh's: nothing was written.
    Fenced,
    /// The store refuses one unit as data. Those before it are durable, those behind not written.
    Poisoned {
        /// How many are durable: the index of the refused one.
        committed: usize,
        /// As above, among the durable ones.
        duplicates: Vec<Duplicate>,
    },
}

/// An `Accept` whose key was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The place it was to have.
    pub seq: Seq,
    /// What the key belongs to.
    pub original: Accepted,
}

/// What is known of an accepted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The message it belongs to.
    pub message: MessageId,
    /// The digest it came with.
    pub fingerprint: Option<String>,
}

/// What a new owner of a mesh starts from. Never bodies: it must not grow with the backlog.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activation {
    /// The epoch just minted.
    pub epoch: Epoch,
    /// The highest sequence written, 0 if none.
    pub tail: Seq,
    /// The last entry's hash of the audit chain, if it has any.
    pub audit_hash: Option<String>,
    /// Every queue that holds anything, with the highest sequence in it.
    pub queues: Vec<(QueueId, Seq)>,
    /// Every lease.
    pub leases: Vec<StoredLease>,
}

/// A lease as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The row.
    pub row: LeaseRow,
    /// For a lease in grace, how much of it had passed when the mesh was last known to have an
    /// owner, by the store's clock. Time without an owner does not count.
    pub away_ms: u64,
}

/// A stretch of a queue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In order of sequence.
    pub envelopes: Vec<Arc<Envelope>>,
    /// Whether more follow.
    pub more: bool,
    /// Deliveries waiting in the whole queue; counting stops at [`QUEUE_QUOTA`].
    pub depth: usize,
}

/// Bounds of one page of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Rows.
    pub rows: usize,
    /// Bytes of body; the first row comes whatever its size.
    pub bytes: usize,
}

/// Deliveries that may wait for one recipient in one lane. At 64 KiB each that is 640 MB of disk.
pub const QUEUE_QUOTA: usize = 10_000;

/// Who a hello claims to be, read fresh.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The mesh's name, else its slug, else its id.
    pub mesh_name: String,
    /// Whether the mesh has been archived.
    pub archived: bool,
    /// `self_editable`, as stored.
    pub self_editable: Option<serde_json::Value>,
    /// The member with the key: an unrevoked row before a revoked one.
    pub member: Option<Member>,
    /// The member that has proven the session key asked about.
    pub key_member: Option<MemberId>,
}

/// A member row.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The member.
    pub id: MemberId,
    /// Its key as stored.
    pub pubkey: Arc<str>,
    /// Its name.
    pub display_name: String,
    /// `admin` or `member`.
    pub role: String,
    /// Its role tag.
    pub role_tag: Option<String>,
    /// Groups to be in when a hello names none.
    pub default_groups: Vec<Group>,
    /// `push`, unless changed.
    pub message_mode: String,
    /// Removed from the mesh.
    pub revoked: bool,
}

/// What `message_status` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMessage {
    /// The message.
    pub id: MessageId,
    /// Whom it was addressed to.
    pub target: String,
    /// Everyone it was resolved to when it was accepted.
    pub recipients: Vec<Recipient>,
    /// Those that have not confirmed.
    pub waiting: Vec<Recipient>,
    /// When the last one had, in milliseconds since the Unix epoch.
    pub delivered_at: Option<i64>,
}

/// A mesh to create, with its first members.
#[derive(Clone)]
pub struct NewMesh {
    /// Its id.
    pub id: MeshId,
    /// Its slug, unique among living meshes.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The user who owns it.
    pub owner_user: String,
    /// The owner's key, hex.
    pub owner_pubkey: String,
    /// Its secret half, hex.
    pub owner_secret_key: String,
    /// The shared root key, base64url.
    pub root_key: String,
    /// Members to start with.
    pub members: Vec<NewMember>,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// See [`NewMesh`].
#[derive(Clone)]
pub struct NewMember {
    /// Its id.
    pub id: MemberId,
    /// Its key, hex.
    pub pubkey: String,
    /// Its name.
    pub display_name: String,
    /// `admin` or `member`.
    pub role: &'static str,
}

/// A mesh as the command line shows and signs for it.
#[derive(Clone)]
pub struct MeshRow {
    /// Its id.
    pub id: MeshId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// Unrevoked members.
    pub members: u64,
    /// The owner's key, if it has one.
    pub owner_pubkey: Option<String>,
    /// Its secret half.
    pub owner_secret_key: Option<String>,
    /// The shared root key.
    pub root_key: Option<String>,
    /// Who owns it.
    pub owner_user: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// An invite to record.
#[derive(Clone)]
pub struct NewInvite {
    /// Row id.
    pub id: String,
    /// The mesh.
    pub mesh: MeshId,
    /// The token, as in the link.
    pub token: String,
    /// How often it may be used.
    pub max_uses: u32,
    /// `admin` or `member`.
    pub role: String,
    /// Milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// Who made it.
    pub created_by: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}
