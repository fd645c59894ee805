//! Mistakes planted between nodes: in what they say to each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use broker::mesh::io::{Command, ConnId, ToEdge};
use broker::seat::item::{Down, FromOwner, Item, LinkNo, ToOwner, Up};
use protocol::server::Frame;
use router::node::NodeKey;

use crate::faults::Planted;
use crate::world::{self, Event, World};

/// So much that was said lingers.
const LINGERING: usize = 2_000;

/// What the mistakes remember of links.
#[derive(Default)]
pub(crate) struct Links {
    /// By process, other node, link and direction: so much of the stream has been said.
    said: BTreeMap<(u64, NodeKey, LinkNo, bool), u64>,
    /// By owner, edge and link: what came first, and the connections heard of.
    first: BTreeMap<(u64, NodeKey, LinkNo), (u64, BTreeSet<ConnId>)>,
    /// By edge, owner and link: what is waited for.
    waited: BTreeMap<(u64, NodeKey, LinkNo), u64>,
    /// What was said last, and by whom.
    lingering: VecDeque<(NodeKey, NodeKey, Vec<u8>)>,
}

impl World {
    /// What a process says, on its way out; nothing if it is not said.
    pub(crate) fn forge_said(&mut self, id: u64, to: &NodeKey, mut item: Item) -> Option<Item> {
        if self.plants(Planted::NotRepeated) {
            let (link, number, up) = match &item {
                Item::ToOwner(ToOwner::Up { link, number, .. }) => (*link, *number, true),
                Item::FromOwner(FromOwner::Down { link, number, .. }) => (*link, *number, false),
                _ => return Some(item),
            };
            let next = self.links.said.entry((id, to.clone(), link, up)).or_default();
            if number < *next {
                return None;
            }
            *next = number + 1;
        }
        // The carrier does its part.
        if self.plants(Planted::BaseFromFirst)
            && matches!(&item, Item::ToOwner(ToOwner::Up { number: 0, .. }))
            && self.rng.one_in(3)
        {
            return None;
        }
        if self.plants(Planted::BaseFromFirst)
            && let Item::FromOwner(
                FromOwner::Down { link, expects, .. }
                | FromOwner::Expects { link, number: expects, .. },
            ) = &mut item
            && let Some((first, _)) = self.links.first.get(&(id, to.clone(), *link))
        {
            *expects += first;
        }
        Some(item)
    }

    /// What a process has said may linger on its way, until another bears its name.
    pub(crate) fn lingers(&mut self, from: &NodeKey, to: &NodeKey, bytes: &[u8]) {
        if self.plants(Planted::OldIncarnation) {
            self.links.lingering.truncate(LINGERING);
            self.links.lingering.push_front((from.clone(), to.clone(), bytes.to_vec()));
        }
    }

    /// A process has started: what the one before said arrives now.
    pub(crate) fn haunt(&mut self, key: &NodeKey) {
        let mut late: Vec<_> = self.links.lingering.iter().cloned().collect();
        late.retain(|(from, ..)| from.id == key.id);
        for (from, to, bytes) in late.into_iter().rev() {
            let after = self.rng.between(500, 5_000);
            self.at(after, Event::Carried { to, from, bytes });
        }
    }

    /// What a process hears.
    pub(crate) fn forge_heard(&mut self, id: u64, from: &NodeKey, mut item: Item) -> Option<Item> {
        match (self.planted, &mut item) {
            (Some(Planted::BaseFromFirst), Item::ToOwner(ToOwner::Up { link, number, up, .. })) => {
                let key = (id, from.clone(), *link);
                let (first, conns) =
                    self.links.first.entry(key).or_insert((*number, BTreeSet::new()));
                *number = number.checked_sub(*first)?;
                if let Up::Command(numbered) = up
                    && conns.insert(numbered.conn)
                {
                    numbered.base = 0;
                }
            }
            (Some(Planted::LateAnnounceWins), Item::ToOwner(ToOwner::Announce { edge, .. })) => {
                edge.held.iter_mut().for_each(|held| held.generation.epoch += 1_000);
            }
            (Some(Planted::AckOnReceipt), Item::ToOwner(ToOwner::Up { up, .. })) => {
                if let Up::Command(numbered) = up
                    && !matches!(&*numbered.command, Command::Attach(_))
                {
                    let (conn, number) = (numbered.conn, numbered.number);
                    self.tell(conn.process, conn, ToEdge::Result { number, frame: None });
                }
            }
            (
                Some(Planted::GapForwarded),
                Item::FromOwner(FromOwner::Down { link, number, down, .. }),
            ) => {
                let waited = self.links.waited.entry((id, from.clone(), *link)).or_default();
                let behind = *number > *waited;
                *waited = (*waited).max(*number + u64::from(*number == *waited));
                if let Down::To(conns, item @ ToEdge::Push { .. }) = down
                    && behind
                {
                    let (conns, item) = (conns.clone(), item.clone());
                    for conn in conns {
                        self.tell(id, conn, item.clone());
                    }
                }
            }
            _ => {}
        }
        Some(item)
    }

    /// An event on its way to a peer.
    pub(crate) fn forge_event(&mut self, socket: u64, frame: &Arc<Frame>) {
        if let Frame::Event(event) = &**frame
            && event.event == "peer_left"
            && self.plants(Planted::LeftToldTwice)
            && self.rng.one_in(10)
        {
            let other = format!("{}-again", event.message_id);
            let text = frame.to_json().replace(&event.message_id, &other);
            self.down(socket, world::Down::Text(text));
        }
    }
}
