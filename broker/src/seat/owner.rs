//! The owner's end of the links: a mesh that runs here, and the edges it serves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::PresenceId;
use protocol::server::Frame;
use router::link::Verdict;
use router::link::stream::{Incoming, Outgoing};
use router::node::NodeKey;

use super::item::{Down, FromOwner, Item, LINK_BYTES, LinkNo, ToOwner, Up};
use crate::mesh::Mesh;
use crate::mesh::io::{ConnId, Edge, Held, Input, Ms, News, ToEdge, Told};

/// See the module.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) mesh: Mesh,
    pub(super) since: Ms,
    links: BTreeMap<NodeKey, Link>,
    /// Which edge has which connections.
    processes: BTreeMap<u64, NodeKey>,
    /// Edges that have not yet said what they hold.
    awaited: Option<BTreeSet<NodeKey>>,
}

/// One edge.
#[derive(Debug)]
struct Link {
    number: LinkNo,
    process: u64,
    books: Books,
    up: Incoming,
    down: Outgoing<Down>,
    /// Refusals on their way, by their place on the stream.
    refusals: VecDeque<(u64, ConnId)>,
    /// The last long answer's place on the stream.
    long: Option<u64>,
    /// Long answers that wait until that one has arrived: so a stream never holds more than one, and
    /// whatever else is said comes between. One for each connection at most; what they hold is
    /// mostly shared.
    answers: VecDeque<(ConnId, ToEdge)>,
    /// More waited than may: it is given up.
    broken: bool,
}

impl Owner {
    pub(super) fn new(mesh: Mesh, now: Ms) -> Self {
        Self { mesh, since: now, links: BTreeMap::new(), processes: BTreeMap::new(), awaited: None }
    }

    /// What the other nodes hold.
    pub(super) fn edges(&self) -> impl Iterator<Item = Edge> {
        self.links.values().map(|link| link.books.edge(link.process))
    }

    /// Links, and the bytes that wait on all of them.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.links.len(), self.links.values().map(|link| link.down.bytes()).sum())
    }

    /// Whether any other node is joined.
    pub(super) fn serves_others(&self) -> bool {
        !self.links.is_empty()
    }

    /// An epoch has begun: everybody in `nodes` is to say what it holds.
    pub(super) fn await_edges<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeKey>) {
        let absent = |node: &&NodeKey| !self.links.contains_key(*node);
        self.awaited = Some(nodes.filter(absent).cloned().collect());
    }

    /// A node has said what it holds, or is no more. The mesh hears when nobody is awaited.
    pub(super) fn arrived(&mut self, node: &NodeKey) {
        if let Some(awaited) = &mut self.awaited {
            awaited.remove(node);
        }
    }

    /// Whether the last one awaited has just come.
    pub(super) fn is_complete(&mut self) -> bool {
        let complete = self.awaited.as_ref().is_some_and(BTreeSet::is_empty);
        if complete {
            self.awaited = None;
        }
        complete
    }

    // --- from the edges --------------------------------------------------------------------

    /// An edge opens a link. Answers whether it is a new one: a late or repeated announcement says
    /// what was, not what is.
    pub(super) fn announce(&mut self, from: &NodeKey, number: LinkNo, edge: &Edge) -> bool {
        if let Some(link) = self.links.get_mut(from) {
            if number == link.number {
                link.up.owe();
            }
            if number <= link.number {
                return false;
            }
        }
        self.processes.insert(edge.process, from.clone());
        let mut link = Link {
            number,
            process: edge.process,
            books: Books::of(edge),
            up: Incoming::default(),
            down: Outgoing::default(),
            refusals: VecDeque::new(),
            long: None,
            answers: VecDeque::new(),
            broken: false,
        };
        link.up.owe();
        self.links.insert(from.clone(), link);
        true
    }

    /// Something of a link's stream; nothing if there is no such link, or it is not its turn.
    /// `Err` if the edge should open another.
    pub(super) fn hear(
        &mut self,
        now: Ms,
        from: &NodeKey,
        said: ToOwner,
    ) -> Result<Vec<Input>, LinkNo> {
        let number = match &said {
            ToOwner::Up { link, .. } | ToOwner::Expects { link, .. } | ToOwner::Bye(link) => *link,
            ToOwner::Announce { .. } | ToOwner::Nothing(_) => return Ok(Vec::new()),
        };
        let Some(link) = self.links.get_mut(from).filter(|link| link.number >= number) else {
            // Of a link before, or of none: an edge that is gone for good takes all of its links along.
            let gone = matches!(said, ToOwner::Bye(_)).then(|| self.drop_link(from)).flatten();
            let lost = gone.map(|process| Input::EdgeLost { process, ago_ms: 0 });
            let lost = lost.into_iter().collect();
            return if matches!(said, ToOwner::Bye(_)) { Ok(lost) } else { Err(number) };
        };
        if link.number > number {
            return Ok(Vec::new());
        }
        match said {
            ToOwner::Up { number, expects, up, .. } => {
                let mut inputs = link.acknowledged(now, expects, false);
                if link.up.accept(now, number) == Verdict::Fresh {
                    if let Up::Lost(conn) = &up {
                        link.books.held.remove(conn);
                        link.answers.retain(|(to, _)| to != conn);
                    }
                    inputs.extend(input(up));
                }
                Ok(inputs)
            }
            ToOwner::Expects { number, gap, .. } => Ok(link.acknowledged(now, number, gap)),
            _ => {
                let process = self.drop_link(from).into_iter();
                Ok(process.map(|process| Input::EdgeLost { process, ago_ms: 0 }).collect())
            }
        }
    }

    /// An edge is gone: its process, if it had a link.
    pub(super) fn drop_link(&mut self, node: &NodeKey) -> Option<u64> {
        let link = self.links.remove(node)?;
        self.processes.remove(&link.process);
        Some(link.process)
    }

    // --- to the edges ----------------------------------------------------------------------

    /// For connections of other nodes.
    pub(super) fn tell(&mut self, conns: Vec<ConnId>, item: &ToEdge) {
        let mut by_process: BTreeMap<u64, Vec<ConnId>> = BTreeMap::new();
        for conn in conns {
            by_process.entry(conn.process).or_default().push(conn);
        }
        for (process, conns) in by_process {
            let Some(link) = self.link_to(process) else { continue };
            if let ToEdge::Attached { held, .. } = item {
                link.books.held.insert(held.conn, held.clone());
            }
            if item.is_long_answer() {
                link.answers.extend(conns.into_iter().map(|conn| (conn, item.clone())));
                link.answer();
            } else {
                link.push(Down::To(conns, item.clone()));
            }
        }
    }

    /// The refusal of a send, for a connection of another node: said when it has arrived.
    pub(super) fn tell_refusal(&mut self, conn: ConnId, item: ToEdge) {
        if let Some(link) = self.link_to(conn.process)
            && let Some(place) = link.push(Down::To(vec![conn], item))
        {
            link.refusals.push_back((place, conn));
        }
    }

    /// For all edges, or one.
    pub(super) fn tell_edges(&mut self, process: Option<u64>, down: &Down) {
        match process {
            Some(process) => {
                if let Some(link) = self.link_to(process) {
                    link.push(down.clone());
                }
            }
            None => {
                for link in self.links.values_mut() {
                    link.push(down.clone());
                }
            }
        }
    }

    /// What all edges must remember, or one, each with what is for its own connections.
    pub(super) fn tell_news(
        &mut self,
        process: Option<u64>,
        events: &[(Vec<ConnId>, Arc<Frame>)],
        news: &News,
    ) {
        for link in self.links.values_mut() {
            if process.is_none_or(|process| process == link.process) {
                let events = events_for(link.process, events);
                link.push(Down::News { events, news: news.clone() });
            }
        }
    }

    fn link_to(&mut self, process: u64) -> Option<&mut Link> {
        self.links.get_mut(self.processes.get(&process)?)
    }

    /// Gives links up on which too much waits. Their connections are gone until their edges announce
    /// them anew.
    pub(super) fn give_up(&mut self, out: &mut Vec<(NodeKey, Item)>) -> Vec<Input> {
        let broken = self.links.iter().filter(|(_, link)| link.broken);
        let broken: Vec<_> = broken.map(|(node, link)| (node.clone(), link.number)).collect();
        let mut lost = Vec::new();
        for (node, number) in broken {
            let process = self.drop_link(&node);
            lost.extend(process.map(|process| Input::EdgeLost { process, ago_ms: 0 }));
            out.push((node, Item::FromOwner(FromOwner::Unknown(number))));
        }
        lost
    }

    /// What is to be said now.
    pub(super) fn speak(&mut self, now: Ms, out: &mut Vec<(NodeKey, Item)>) {
        for (node, link) in &mut self.links {
            link.speak(now, |said| out.push((node.clone(), Item::FromOwner(said))));
        }
    }

    /// The mesh does not run here any more.
    pub(super) fn farewell(&self) -> impl Iterator<Item = (NodeKey, Item)> {
        self.links
            .iter()
            .map(|(node, link)| (node.clone(), Item::FromOwner(FromOwner::Elsewhere(link.number))))
    }

    /// When [`speak`](Self::speak) is due.
    pub(super) fn deadline(&self) -> Option<Ms> {
        let of = |link: &Link| link.up.deadline().into_iter().chain(link.down.deadline()).min();
        self.links.values().filter_map(of).min()
    }
}

impl Link {
    /// Its place on the stream, unless the link is given up.
    fn push(&mut self, down: Down) -> Option<u64> {
        match &down {
            Down::News { news, .. } => self.books.remember(news),
            // What was refused under the epoch before is asked again.
            Down::Reset(_) => {
                self.refusals.clear();
                self.answers.clear();
            }
            Down::To(..) | Down::Unknown => {}
        }
        let bytes = down.bytes();
        self.broken |= !self.down.is_empty() && self.down.bytes() + bytes > LINK_BYTES;
        (!self.broken).then(|| self.down.push(down, bytes))
    }

    /// Says the next long answer, if the one before has arrived.
    fn answer(&mut self) {
        if self.long.is_some_and(|place| !self.down.has_arrived(place)) {
            return;
        }
        self.long = self.answers.pop_front().and_then(|(conn, item)| {
            let down = Down::To(vec![conn], item);
            self.push(down)
        });
    }

    /// The edge waits for `next`; which refusals it has heard by that.
    fn acknowledged(&mut self, now: Ms, next: u64, gap: bool) -> Vec<Input> {
        self.down.acknowledged(now, next, gap);
        self.answer();
        let mut heard = Vec::new();
        while let Some((_, conn)) =
            self.refusals.pop_front_if(|(place, _)| self.down.has_arrived(*place))
        {
            heard.push(Input::Heard(conn));
        }
        heard
    }

    fn speak(&mut self, now: Ms, mut say: impl FnMut(FromOwner)) {
        let link = self.number;
        self.down.tick(now);
        while let Some((number, down)) = self.down.next(now) {
            let (down, expects) = (down.clone(), self.up.expects());
            say(FromOwner::Down { link, number, expects, down });
        }
        if let Some((number, gap)) = self.up.owed(now) {
            say(FromOwner::Expects { link, number, gap });
        }
    }
}

/// What one edge holds, and what its peers have been told.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) held: BTreeMap<ConnId, Held>,
    told: BTreeMap<PresenceId, Told>,
}

impl Books {
    fn of(edge: &Edge) -> Self {
        let told = edge.told.iter().map(|told| (told.presence.clone(), told.clone()));
        let held = edge.held.iter().map(|held| (held.conn, held.clone()));
        Self { held: held.collect(), told: told.collect() }
    }

    pub(super) fn edge(&self, process: u64) -> Edge {
        let (held, told) = (self.held.values().cloned(), self.told.values().cloned());
        Edge { process, held: held.collect(), told: told.collect() }
    }

    pub(super) fn remember(&mut self, news: &News) {
        let entry = |told: &Told| (told.presence.clone(), told.clone());
        match news {
            News::All(all) => self.told = all.iter().map(entry).collect(),
            News::Here(told) => self.told.extend([entry(told)]),
            News::Gone(presence) => {
                self.told.remove(presence);
            }
        }
    }

    /// Nobody is left who was told anything.
    pub(super) fn forget(&mut self) {
        self.told.clear();
    }
}

/// Of events for many, what concerns the connections of one process.
pub(super) fn events_for(
    process: u64,
    events: &[(Vec<ConnId>, Arc<Frame>)],
) -> Vec<(Vec<ConnId>, ToEdge)> {
    let theirs = |conns: &[ConnId]| -> Vec<_> {
        conns.iter().copied().filter(|conn| conn.process == process).collect()
    };
    let told = events.iter().map(|(conns, frame)| (theirs(conns), ToEdge::Event(frame.clone())));
    told.filter(|(conns, _)| !conns.is_empty()).collect()
}

fn input(up: Up) -> Option<Input> {
    Some(match up {
        Up::Command(numbered) => Input::Command(numbered),
        Up::Pong { conn, nonce } => Input::Pong { conn, nonce },
        Up::Alive(conn) => Input::Alive(conn),
        Up::Lost(conn) => Input::Lost(conn),
        Up::Hook { presence, status } => Input::Hook { presence, status },
        Up::MemberJoined(key) => Input::MemberJoined(key),
        Up::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use protocol::server::Row;

    use super::*;
    use crate::mesh::io::LONG_ANSWER;
    use crate::mesh::{Limits, StatusLimits};

    const LIMITS: Limits = Limits {
        grace_ms: 90_000,
        capacity: 100,
        message_units: 65_536,
        send_rate: 0,
        send_burst: 10,
        offline_queue: false,
        status: StatusLimits { hook_fresh_ms: 30_000, working_ms: 60_000 },
        kick_cooldown_ms: 10_000,
        kick_session_ms: 900_000,
        mesh_queue_bytes: 256 << 20,
        recipient_queue_bytes: 64 << 20,
        member_sessions: 100,
        hello_rate: 0,
    };

    fn conn(number: u64) -> ConnId {
        ConnId { process: 2, number }
    }

    fn edge() -> NodeKey {
        NodeKey { id: "edge".into(), incarnation: 2 }
    }

    fn owner() -> Owner {
        let mut owner = Owner::new(Mesh::new("mesh".into(), LIMITS, 1), 0);
        assert!(owner.announce(&edge(), 1, &Edge { process: 2, ..Edge::default() }));
        owner
    }

    fn list(bytes: usize) -> ToEdge {
        let peers = vec![Row::of(&"x".repeat(bytes))];
        ToEdge::Result { number: 1, frame: Some(Frame::PeersList { peers, req_id: None }) }
    }

    /// For whom, and whether it is long: what is said now; the edge has received all of it.
    fn said(owner: &mut Owner, now: Ms) -> Vec<(u64, bool)> {
        let mut out = Vec::new();
        owner.speak(now, &mut out);
        let mut heard = Vec::new();
        let mut next = None;
        for (_, item) in out {
            if let Item::FromOwner(FromOwner::Down { number, down: Down::To(to, item), .. }) = item
            {
                heard.push((to[0].number, item.is_long_answer()));
                next = Some(number + 1);
            }
        }
        if let Some(number) = next {
            let expects = ToOwner::Expects { link: 1, number, gap: false };
            owner.hear(now, &edge(), expects).unwrap();
        }
        heard
    }

    #[test]
    fn a_link_carries_one_long_answer_at_a_time_and_others_come_between() {
        let mut owner = owner();
        for number in 1..=20 {
            owner.tell(vec![conn(number)], &list(4 * 1024 * 1024));
        }
        owner.tell(vec![conn(21)], &list(10));
        assert!(owner.waiting().1 < LINK_BYTES / 4, "{}", owner.waiting().1);
        assert_eq!(said(&mut owner, 1), [(1, true)]);
        // What comes behind a long answer waits until that has arrived, as on any stream.
        assert_eq!(said(&mut owner, 2), [(21, false)]);
        owner
            .hear(3, &edge(), ToOwner::Up { link: 1, number: 0, expects: 0, up: Up::Lost(conn(3)) })
            .unwrap();
        let mut all: Vec<_> = (3..60).flat_map(|now| said(&mut owner, now)).collect();
        all.retain(|(_, long)| *long);
        let wanted: Vec<_> = (2..=20).filter(|n| *n != 3).map(|n| (n, true)).collect();
        assert_eq!(all, wanted, "in turn, and not to whom is gone");
        let mut out = Vec::new();
        assert!(owner.give_up(&mut out).is_empty() && owner.waiting().1 == 0);
    }

    /// The threshold is one of memory, not of kind.
    #[test]
    fn what_is_short_does_not_wait_for_what_is_long() {
        let mut owner = owner();
        owner.tell(vec![conn(1)], &list(LONG_ANSWER));
        owner.tell(vec![conn(2)], &list(LONG_ANSWER));
        owner.tell(vec![conn(3)], &list(LONG_ANSWER / 2));
        let said: Vec<_> = (1..3).flat_map(|now| said(&mut owner, now)).collect();
        assert_eq!(said, [(1, true), (3, false), (2, true)]);
    }
}
