//! What the nodes of a cluster say to each other about a mesh.
//!
//! A link joins one edge to one owner, for one mesh. The edge numbers its links, and each carries a
//! stream in either direction ([`router::link::stream`]): in order, once, nothing lost while the
//! link lasts. Everything else here is said again until something comes of it, and harmless when it
//! is lost, late or repeated.

use std::sync::Arc;

use protocol::client::Status;
use protocol::server::Frame;
use protocol::{MeshId, PresenceId};
use serde::{Deserialize, Serialize};

use crate::mesh::io::{Command, ConnId, Edge, News, Numbered, ToEdge, Told};
use crate::model::Epoch;

mod husk;
#[cfg(test)]
mod tests;

/// Bytes that may wait in either direction of a link. Beyond it the link is given up, and the next
/// says again what is lacking: envelopes are in the store, and commands in the edge's windows.
pub const LINK_BYTES: usize = 32 * 1024 * 1024;

/// A link's number: of two that an edge has opened, the later has the greater one.
pub type LinkNo = u64;

/// One thing said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Item {
    /// By an edge to the owner.
    ToOwner(ToOwner),
    /// By the owner to an edge.
    FromOwner(FromOwner),
}

/// See [`Item`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToOwner {
    /// Opens a link, and says completely what the edge holds.
    Announce {
        /// The link.
        link: LinkNo,
        /// The highest epoch the edge has seen: an owner below it is one no more.
        highest: Epoch,
        /// What is held.
        edge: Edge,
    },
    /// The next of the link's stream.
    Up {
        /// The link.
        link: LinkNo,
        /// Its place.
        number: u64,
        /// What the edge waits for in the other direction.
        expects: u64,
        /// What is said.
        up: Up,
    },
    /// What the edge has received.
    Expects {
        /// The link.
        link: LinkNo,
        /// The place it waits for.
        number: u64,
        /// It has seen what comes behind.
        gap: bool,
    },
    /// The edge has nothing to do with the mesh: the answer to [`FromOwner::Claim`].
    Nothing(Epoch),
    /// The edge has no connection left.
    Bye(LinkNo),
}

/// See [`Item`].
#[expect(clippy::large_enum_variant, reason = "nearly all that is said is the large one")]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromOwner {
    /// The next of the link's stream.
    Down {
        /// The link.
        link: LinkNo,
        /// Its place.
        number: u64,
        /// What the owner waits for in the other direction.
        expects: u64,
        /// What is said.
        down: Down,
    },
    /// What the owner has received. Answers an announcement, too.
    Expects {
        /// The link.
        link: LinkNo,
        /// The place it waits for.
        number: u64,
        /// It has seen what comes behind.
        gap: bool,
    },
    /// The owner does not know the link, or has given it up: announce anew.
    Unknown(LinkNo),
    /// The mesh does not run there.
    Elsewhere(LinkNo),
    /// The mesh runs here under this epoch: announce what you hold.
    Claim(Epoch),
}

/// From edge to owner, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Up {
    /// A command of a connection.
    Command(Numbered),
    /// A connection answered a probe.
    Pong {
        /// Which.
        conn: ConnId,
        /// The probe's.
        nonce: u64,
    },
    /// A connection's peer lives.
    Alive(ConnId),
    /// A connection is gone.
    Lost(ConnId),
    /// A hook told a session's status.
    Hook {
        /// Whose.
        presence: PresenceId,
        /// Which.
        status: Status,
    },
    /// Somebody with this key has become a member.
    MemberJoined(Arc<str>),
    /// What a later version says, and this one cannot read.
    #[serde(skip)]
    Unknown,
}

/// From owner to edge, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Down {
    /// A new epoch, for all connections.
    Reset(Epoch),
    /// For these connections.
    To(Vec<ConnId>, ToEdge),
    /// For the edge to remember, and what its peers are told of it.
    News {
        /// For whom, and what.
        events: Vec<(Vec<ConnId>, ToEdge)>,
        /// What to remember.
        news: News,
    },
    /// What a later version says, and this one cannot read.
    #[serde(skip)]
    Unknown,
}

impl Item {
    /// Whether nothing but its place could be read: see [`decode`].
    pub fn is_partial(&self) -> bool {
        match self {
            Self::ToOwner(ToOwner::Up { up: Up::Command(numbered), .. }) => {
                matches!(*numbered.command, Command::Unknown)
            }
            Self::ToOwner(ToOwner::Up { up, .. }) => *up == Up::Unknown,
            Self::FromOwner(FromOwner::Down { down, .. }) => matches!(down, Down::Unknown),
            _ => false,
        }
    }

    /// What a node answers that has no seat for the mesh.
    pub fn unseated(&self) -> Option<Self> {
        match self {
            Self::ToOwner(ToOwner::Up { link, .. } | ToOwner::Expects { link, .. }) => {
                Some(Self::FromOwner(FromOwner::Unknown(*link)))
            }
            Self::FromOwner(FromOwner::Claim(epoch)) => {
                Some(Self::ToOwner(ToOwner::Nothing(*epoch)))
            }
            Self::FromOwner(FromOwner::Down { link, .. } | FromOwner::Expects { link, .. }) => {
                Some(Self::ToOwner(ToOwner::Bye(*link)))
            }
            _ => None,
        }
    }
}

impl Up {
    /// Bytes it holds in memory, near enough to bound a link with.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Command(numbered) => numbered.command.bytes(),
            _ => 128,
        }
    }
}

impl Down {
    /// Whether the owner goes on with a connection only when this has arrived: see
    /// [`Effect::Refusal`](crate::mesh::io::Effect::Refusal).
    pub fn is_waited_for(&self) -> bool {
        match self {
            Self::To(_, ToEdge::Result { frame: Some(Frame::Ack(ack)), .. }) => !ack.queued,
            // The next one waits for this one.
            Self::To(_, item) => item.is_long_answer(),
            _ => false,
        }
    }

    /// Bytes it holds in memory, near enough to bound a link with.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Reset(_) => 64,
            Self::To(conns, item) => 16 * conns.len() + item.bytes(),
            Self::Unknown => 0,
            Self::News { events, news } => {
                let told = events.iter().map(|(conns, item)| 16 * conns.len() + item.bytes());
                told.sum::<usize>() + 64 + news_bytes(news)
            }
        }
    }
}

fn news_bytes(news: &News) -> usize {
    let of = |told: &Told| 256 + told.name.len() + told.pubkey.len();
    match news {
        News::All(all) => all.iter().map(of).sum(),
        News::Here(told) => of(told),
        News::Gone(_) => 256,
    }
}

/// Why an item of another node cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("an item cannot be read")]
pub struct Unreadable;

/// An item about a mesh, for the way. MessagePack with names, so that a field which a later version
/// adds is passed over by an earlier one.
pub fn encode(mesh: &MeshId, item: &Item) -> Option<Vec<u8>> {
    rmp_serde::to_vec_named(&(mesh, item)).ok()
}

/// Back from [`encode`]. Of what a later version puts on a stream, its place is read at least, so that
/// the stream goes on behind it: commands become [`Command::Unknown`], the rest [`Up::Unknown`] and
/// [`Down::Unknown`].
///
/// # Errors
/// [`Unreadable`] if it is none.
pub fn decode(bytes: &[u8]) -> Result<(MeshId, Item), Unreadable> {
    rmp_serde::from_slice(bytes).or_else(|_| husk::decode(bytes)).map_err(|_| Unreadable)
}
