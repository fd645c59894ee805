//! What goes into a mesh's rules and what comes out of them.

mod command;
mod size;

use std::fmt;
use std::sync::Arc;

use protocol::client::Status;
use protocol::server::Frame;
use protocol::{Close, MemberId, PresenceId};
use serde::{Deserialize, Serialize};

pub use self::command::{Attach, Class, Command, Numbered, OpenedAt, SessionKey};
pub use self::size::LONG_ANSWER;
use super::carried;
use crate::model::{
    AcceptKey, Accepted, Activation, AuditEntry, AuditQuery, Ban, Claim, Envelope, Epoch, Grants,
    Identity, Membership, MeshCommit, Moderation, Outcome, Page, PageLimit, QueueBytes, QueueId,
    Seq, StoredMessage, Target, Topic, Verified, VerifiedSlice,
};

/// Milliseconds of a clock that never goes back. Only differences mean anything.
pub type Ms = u64;

/// What is looked at so much later than it was due, in milliseconds, was late because the node
/// itself stood still: its machine was paused, or the process stopped. What others did not do in
/// that time says nothing about them.
pub const STALL_MS: Ms = 2_000;

/// The time, as the rules are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: Ms,
    /// By the store's clock: milliseconds since the Unix epoch.
    pub wall: i64,
}

/// A connection, never used twice: the process that terminates it and a number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId {
    /// Drawn at random when the process starts.
    pub process: u64,
    /// Counted up.
    pub number: u64,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.process, self.number)
    }
}

/// The order of attaches of one presence: the highest wins, whatever arrives when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Generation {
    /// Of the owner that attached it.
    pub epoch: Epoch,
    /// Counted up by that owner.
    pub number: u64,
}

/// A connection that is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The connection.
    pub conn: ConnId,
    /// What it is attached to.
    pub presence: PresenceId,
    /// By which attach.
    pub generation: Generation,
}

/// Completely what one edge holds of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Its process: of all its connections.
    pub process: u64,
    /// Its connections that are attached.
    pub held: Vec<Held>,
    /// Who is here, as its peers have been told.
    pub told: Vec<Told>,
}

/// A presence that peers have been told of: enough to tell them that it has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The presence.
    pub presence: PresenceId,
    /// The attach it was told with.
    pub generation: Generation,
    /// Whose it is.
    pub member: MemberId,
    /// The key it is addressed by.
    pub pubkey: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Of a session, which concerns everybody.
    pub session: bool,
}

/// What an edge must remember of what its peers have been told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// Exactly these are here.
    All(Vec<Told>),
    /// This one, too.
    Here(Told),
    /// This one no longer.
    Gone(PresenceId),
}

/// A question to the store; its answer comes back under the same ticket.
pub type Ticket = u64;

/// What goes in.
#[derive(Debug, Clone)]
pub enum Input {
    /// From an edge.
    Command(Numbered),
    /// A connection answered a [`Effect::Probe`].
    Pong {
        /// Which.
        conn: ConnId,
        /// The probe's.
        nonce: u64,
    },
    /// A connection has shown that its peer lives.
    Alive(ConnId),
    /// A connection is gone without a word.
    Lost(ConnId),
    /// All connections of a process are.
    EdgeLost {
        /// The process.
        process: u64,
        /// For so many milliseconds at least.
        ago_ms: Ms,
    },
    /// An edge says completely what it holds, anew: what was under way to it and from it is lost.
    Announced(Edge),
    /// The edge of this connection has the answer of an [`Effect::Refusal`]: once for each.
    Heard(ConnId),
    /// Every edge there is has announced itself.
    AllAnnounced,
    /// Whether another may own the mesh by now, unseen: then nothing is said that the store's fence
    /// has not let through.
    Doubt(bool),
    /// How the members stand that are here, as the store has it.
    Membership {
        /// When it was asked.
        asked: Ms,
        /// What it says.
        membership: Arc<Membership>,
    },
    /// A hook told a session's status.
    Hook {
        /// Whose.
        presence: PresenceId,
        /// Which.
        status: Status,
    },
    /// Somebody with this key has become a member: nobody else may claim it.
    MemberJoined(Arc<str>),
    /// The mesh is this node's, or does not exist.
    Activated {
        /// What the store says.
        activation: Option<Box<Activation>>,
        /// Fresh random bits, for ids.
        entropy: u128,
        /// What the edges hold that have announced themselves.
        edges: Vec<Edge>,
    },
    /// The store could not activate it.
    NotActivated,
    /// The commit in flight has ended.
    Committed(Outcome),
    /// The commit in flight may or may not have happened.
    CommitUnknown,
    /// Answers [`Effect::Ask`]; `None` if the store could not.
    Answer(Ticket, Option<Answer>),
    /// A deadline may have passed.
    Tick,
}

/// A question to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Who is behind these keys?
    Identity(Claim),
    /// Who lets whom do what, and which of these claimed keys are others' by now?
    Grants {
        /// Keys that leases claim without proof.
        claims: Vec<Arc<str>>,
    },
    /// How much waits?
    QueueBytes,
    /// Which topic is this?
    Topic {
        /// An id or a name.
        spec: String,
    },
    /// May the caller do this, did it already, and to whom?
    Moderation {
        /// Who asks.
        caller: MemberId,
        /// The command: its connection and number.
        command: String,
        /// Whom it is about, where that is a member.
        target: Option<Target>,
    },
    /// Who has been removed?
    Bans,
    /// Which entries of the audit chain?
    Audit(AuditQuery),
    /// Is the audit chain whole, the next slice of it?
    VerifyAudit(Verified),
    /// Was this accepted before?
    Accepted {
        /// The sender.
        member: MemberId,
        /// The key.
        key: AcceptKey,
    },
    /// Which messages have such an id?
    Messages {
        /// 8 to 32 characters.
        prefix: String,
    },
    /// The next stretch of a queue.
    Page {
        /// Which.
        queue: QueueId,
        /// Above this.
        after: Seq,
        /// At most so much.
        limit: PageLimit,
    },
}

/// The store's answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Question::Identity`].
    Identity(Option<Box<Identity>>),
    /// To [`Question::Grants`].
    Grants {
        /// Of those that restrict anybody.
        grants: Vec<(MemberId, Grants)>,
        /// Claimed keys that are a member's, or proven.
        taken: Vec<Arc<str>>,
    },
    /// To [`Question::QueueBytes`].
    QueueBytes(QueueBytes),
    /// To [`Question::Topic`].
    Topic(Option<Topic>),
    /// To [`Question::Moderation`].
    Moderation(Box<Moderation>),
    /// To [`Question::Bans`].
    Bans(Vec<Ban>),
    /// To [`Question::Audit`]: the entries, and how many there are in all.
    Audit(Vec<AuditEntry>, u64),
    /// To [`Question::VerifyAudit`].
    AuditVerified(VerifiedSlice),
    /// To [`Question::Accepted`].
    Accepted(Option<Accepted>),
    /// To [`Question::Messages`].
    Messages(Vec<StoredMessage>),
    /// To [`Question::Page`].
    Page(Page),
}

/// What comes out, to be carried out in order.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Take the mesh over, above this epoch.
    Activate {
        /// The highest epoch ever seen.
        floor: Epoch,
    },
    /// Tell the edges: send me again what has no result.
    Reset(Epoch),
    /// Write this, then answer [`Input::Committed`] or [`Input::CommitUnknown`].
    Commit(MeshCommit),
    /// Ask the store this.
    Ask(Ticket, Question),
    /// The result of a command.
    Result {
        /// Whose.
        conn: ConnId,
        /// Which.
        number: u64,
        /// What the peer is told, if anything.
        frame: Option<Frame>,
    },
    /// A command that is not known here.
    Unsupported {
        /// Whose.
        conn: ConnId,
        /// Which.
        number: u64,
    },
    /// The result of a send that was refused, for a connection of another process, to be answered
    /// [`Input::Heard`] when its edge has it.
    Refusal {
        /// Whose.
        conn: ConnId,
        /// Which.
        number: u64,
        /// What the peer is told.
        frame: Frame,
    },
    /// An attach succeeded: the result, and what the edge now holds.
    Attached {
        /// What it holds.
        held: Held,
        /// The attach's number.
        number: u64,
        /// `hello_ack`.
        frame: Frame,
    },
    /// An attach failed: the peer is told and the socket closed.
    Refused {
        /// Whose.
        conn: ConnId,
        /// The attach's number.
        number: u64,
        /// Why.
        frame: Option<Frame>,
        /// How the socket ends.
        close: Close,
    },
    /// An envelope for a peer.
    Push {
        /// Whose.
        conn: ConnId,
        /// What.
        envelope: Arc<Envelope>,
        /// The peer would drop mail from its own member, so do not say who that is.
        hide_member: bool,
    },
    /// A ping behind the pushes: its pong tells that they reached the peer's WebSocket endpoint.
    Probe {
        /// Whose.
        conn: ConnId,
        /// To come back in [`Input::Pong`].
        nonce: u64,
    },
    /// An event for many.
    Broadcast {
        /// Whose.
        conns: Vec<ConnId>,
        /// What.
        frame: Arc<Frame>,
    },
    /// What edges must remember, and the events that tell it: both or neither, or peers are told
    /// twice, or never.
    News {
        /// Of which process; of all if that is not said.
        process: Option<u64>,
        /// Events, and for whom.
        events: Vec<(Vec<ConnId>, Arc<Frame>)>,
        /// What.
        news: News,
    },
    /// End a connection.
    Close {
        /// Which.
        conn: ConnId,
        /// How.
        close: Close,
    },
    /// Leases are in grace: note that the mesh has an owner.
    Beat,
    /// Somebody else owns this store.
    Superseded,
    /// Something worth counting.
    Count(Count),
}

/// Things worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A presence joined or came back.
    Connected,
    /// A hello was refused.
    Rejected(&'static str),
    /// A send was refused.
    SendRejected(&'static str),
    /// An envelope was pushed.
    Routed(protocol::client::Priority),
    /// Envelopes were left out or dropped.
    Dropped(&'static str, u64),
    /// A recipient's grants kept an envelope from it.
    Denied(crate::model::Capability),
    /// A `working` status nobody ended was ended.
    StatusExpired,
    /// Live connections keep taking one proven session over from each other.
    Conflict,
}

/// From the owner to one connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToEdge {
    /// A new epoch: send again what has no result.
    Reset(Epoch),
    /// The hello was accepted.
    Attached {
        /// What this connection now holds.
        held: Held,
        /// The attach's number.
        number: u64,
        /// `hello_ack`.
        #[serde(with = "carried::frame")]
        frame: Frame,
    },
    /// The hello was refused.
    Refused {
        /// The attach's number.
        number: u64,
        /// Why.
        #[serde(with = "carried::reply")]
        frame: Option<Frame>,
        /// How the socket ends.
        #[serde(with = "carried::close")]
        close: Close,
    },
    /// The result of a command.
    Result {
        /// Which.
        number: u64,
        /// What the peer is told, if anything.
        #[serde(with = "carried::reply")]
        frame: Option<Frame>,
    },
    /// The owner does not know this command.
    Unsupported(u64),
    /// An envelope.
    Push {
        /// What.
        envelope: Arc<Envelope>,
        /// Do not say which member sent it.
        hide_member: bool,
    },
    /// An event.
    Event(#[serde(with = "carried::event")] Arc<Frame>),
    /// Ping the peer behind what was pushed.
    Probe(u64),
    /// End the connection.
    Close(#[serde(with = "carried::close")] Close),
}
