//! The edge's end of a link: what the connections of this node say goes to the mesh's owner.
//!
//! A link is announced until the owner answers. From then on the streams run; if the owner gives the
//! link up, does not know it, or turns out to run elsewhere, the next link says everything anew.

use router::link::Verdict;
use router::link::stream::{Incoming, Outgoing};
use router::node::NodeKey;

use super::item::{Down, FromOwner, Item, LINK_BYTES, LinkNo, ToOwner, Up};
use crate::mesh::io::{ConnId, Edge, Ms, Numbered};
use crate::model::Epoch;

/// First and longest pause between announcements that nobody answers.
const ANNOUNCE_MS: (Ms, Ms) = (100, 1_000);

/// An owner that has answered and names no epoch for so long may have given the link up, and its word
/// of that may be lost: it is asked anew. In milliseconds.
const UNSERVED_MS: Ms = 3_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Relay {
    /// Where the mesh runs, as far as is known.
    pub(super) owner: NodeKey,
    link: LinkNo,
    /// The owner may have heard of what is held.
    announced: bool,
    /// When the owner first answered.
    joined_at: Option<Ms>,
    announce_at: Ms,
    pause: Ms,
    up: Outgoing<Up>,
    down: Incoming,
    /// The epoch the connections have been told of over this link.
    pub(super) epoch: Option<Epoch>,
}

/// What a seat makes of what its owner says.
#[expect(clippy::large_enum_variant, reason = "nearly all that is said is the large one")]
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing more.
    Nothing,
    /// This, next in order.
    Down(Down),
    /// It does not know the link.
    Unknown,
    /// It does not run the mesh.
    Elsewhere,
}

impl Relay {
    /// A link to `owner`, not yet announced.
    pub(super) fn new(owner: NodeKey, link: LinkNo, now: Ms) -> Self {
        Self {
            owner,
            link,
            announced: false,
            joined_at: None,
            announce_at: now,
            pause: ANNOUNCE_MS.0,
            up: Outgoing::default(),
            down: Incoming::default(),
            epoch: None,
        }
    }

    /// The owner wants no link now: try again, but not at once.
    pub(super) fn later(&mut self, now: Ms) {
        self.announce_at = now + ANNOUNCE_MS.0;
    }

    /// Whether more waits for the owner than may: peers that come and go, and hooks, while it cannot
    /// be reached. Commands are bounded by their connections' windows.
    pub(super) fn is_overfull(&self) -> bool {
        self.up.bytes() > LINK_BYTES
    }

    /// Whether the owner has answered, and serves nobody here.
    pub(super) fn is_unserved(&self, now: Ms) -> bool {
        self.unserved_at().is_some_and(|at| at <= now)
    }

    fn unserved_at(&self) -> Option<Ms> {
        self.joined_at.filter(|_| self.epoch.is_none()).map(|at| at + UNSERVED_MS)
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.up.bytes()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.up.is_empty()
    }

    /// Passes a command on, if it is meant for this owner's epoch. What is not, the session sends
    /// again when it hears of the new one.
    pub(super) fn command(&mut self, numbered: Numbered) {
        if self.epoch == Some(numbered.epoch) {
            self.push(Up::Command(numbered));
        }
    }

    /// What is not numbered, and of use only to an owner that has answered.
    pub(super) fn tell(&mut self, up: Up) {
        if self.joined_at.is_some() {
            self.push(up);
        }
    }

    /// A connection is gone. Whatever is announced later says so by itself.
    pub(super) fn lost(&mut self, conn: ConnId) {
        if self.announced {
            self.push(Up::Lost(conn));
        }
    }

    /// What must arrive, however long it takes.
    pub(super) fn push(&mut self, up: Up) {
        let bytes = up.bytes();
        self.up.push(up, bytes);
    }

    /// Whether it is this link that an owner speaks of.
    pub(super) fn is(&self, owner: &NodeKey, link: LinkNo) -> bool {
        self.owner == *owner && self.link == link
    }

    /// Something of this link's owner. Nothing of another link may be used: a late frame of a life
    /// before could say anything.
    pub(super) fn hear(&mut self, now: Ms, said: FromOwner) -> Heard {
        let link = match &said {
            FromOwner::Down { link, .. }
            | FromOwner::Expects { link, .. }
            | FromOwner::Unknown(link)
            | FromOwner::Elsewhere(link) => *link,
            FromOwner::Claim(_) => return Heard::Nothing,
        };
        if link != self.link {
            return Heard::Nothing;
        }
        match said {
            FromOwner::Down { number, expects, down, .. } => {
                self.joined_at.get_or_insert(now);
                self.up.acknowledged(now, expects, false);
                match self.down.accept(now, number) {
                    Verdict::Fresh => {
                        if down.is_waited_for() {
                            self.down.owe();
                        }
                        Heard::Down(down)
                    }
                    Verdict::Repeat | Verdict::Gap => Heard::Nothing,
                }
            }
            FromOwner::Expects { number, gap, .. } => {
                self.joined_at.get_or_insert(now);
                self.up.acknowledged(now, number, gap);
                Heard::Nothing
            }
            FromOwner::Unknown(_) => Heard::Unknown,
            FromOwner::Elsewhere(_) => Heard::Elsewhere,
            FromOwner::Claim(_) => Heard::Nothing,
        }
    }

    /// What is to be said to the owner now; `edge` says what to announce.
    pub(super) fn speak(
        &mut self,
        now: Ms,
        highest: Epoch,
        edge: impl FnOnce() -> Edge,
        out: &mut Vec<Item>,
    ) {
        let link = self.link;
        if self.joined_at.is_none() {
            if self.announce_at <= now {
                self.announce_at = now + self.pause;
                self.pause = (self.pause * 2).min(ANNOUNCE_MS.1);
                self.announced = true;
                out.push(Item::ToOwner(ToOwner::Announce { link, highest, edge: edge() }));
            }
            return;
        }
        self.up.tick(now);
        while let Some((number, up)) = self.up.next(now) {
            let (up, expects) = (up.clone(), self.down.expects());
            out.push(Item::ToOwner(ToOwner::Up { link, number, expects, up }));
        }
        if let Some((number, gap)) = self.down.owed(now) {
            out.push(Item::ToOwner(ToOwner::Expects { link, number, gap }));
        }
    }

    /// Nobody is here any more.
    pub(super) fn bye(&self) -> Item {
        Item::ToOwner(ToOwner::Bye(self.link))
    }

    /// When [`speak`](Self::speak) is due.
    pub(super) fn deadline(&self) -> Option<Ms> {
        if self.joined_at.is_none() {
            return Some(self.announce_at);
        }
        [self.up.deadline(), self.down.deadline(), self.unserved_at()].into_iter().flatten().min()
    }
}
