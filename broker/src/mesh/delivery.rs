//! Who gets which envelope when: queues of what is unconfirmed, outlets that drain them.
//!
//! A *queue* belongs to a durable [`Recipient`] and holds in memory at most a stretch of what
//! waits in the store: `loaded` is how far memory reaches, `tail` how far the store does. An
//! *outlet* is a lease that envelopes can leave through: it drains its own queue and, if it is its
//! member's *holder*, the member's, merged in order of sequence. What was pushed and not confirmed
//! is the outlet's window; a window with room, a commit, an attach, a page read, a timer each mark
//! the outlet for [`Delivery::pump`].
//!
//! Guarantees: per outlet and lane, first pushes go out in order of sequence; nothing leaves
//! memory unconfirmed without the store knowing it; memory is bounded per queue and per mesh.

mod outlet;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::client::ClientAck;
use protocol::{MemberId, MessageId};

pub(crate) use self::outlet::Rank;
use self::outlet::{Outlet, PROBE_MS, Place};
pub use self::outlet::{REPUSH_MOST_MS, REPUSH_MS, WINDOW_BYTES, WINDOW_ENVELOPES};
use super::io::{Ms, Question, Ticket};
use super::queue::{Head, PAGE_BYTES, PAGE_ROWS, Queue};
use super::roster::LeaseNo;
use crate::model::{
    Confirm, Envelope, Epoch, Lane, Page, PageLimit, QUEUE_QUOTA, QueueId, Recipient, Seq,
};

/// Envelopes a mesh holds in memory, in bytes; what does not fit is read back when it is due. Where
/// it is exceeded, each connection may still have `TIGHT_BYTES` or one envelope, so that all move.
pub const MESH_BYTES: usize = 16 * 1024 * 1024;
/// Bytes read back at once while the mesh has no room.
const TIGHT_BYTES: usize = PAGE_BYTES / 16;
/// Envelopes per outlet that are pushed again from time to time because some clients drop without
/// a word. Beyond it the oldest rest in the store until the next attach.
const OVERDUE_ENVELOPES: usize = 64;
/// What delivery wants done.
#[derive(Debug)]
pub(crate) enum Out {
    Push { to: LeaseNo, envelope: Arc<Envelope> },
    Probe { to: LeaseNo, nonce: u64 },
    Ask(Ticket, Question),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    queues: HashMap<QueueId, Queue>,
    outlets: BTreeMap<LeaseNo, Outlet>,
    /// The outlets of each recipient that is not a member.
    own: HashMap<Recipient, LeaseNo>,
    /// Each member's outlets, and the one that drains its queue.
    members: HashMap<MemberId, (BTreeSet<LeaseNo>, Option<LeaseNo>)>,
    dirty: BTreeSet<LeaseNo>,
    checks: BTreeSet<(Ms, LeaseNo)>,
    /// Reads under way, and the bytes they may bring.
    reads: HashMap<Ticket, (QueueId, usize)>,
    reserved: usize,
    bytes: usize,
    tickets: Ticket,
    /// Nonces are above this: a pong may answer a probe of an owner before.
    nonces: u64,
}

impl Delivery {
    /// Starts from what the store holds. Tickets go on from those of the life before.
    pub(crate) fn load(queues: Vec<(QueueId, Seq)>, tickets: Ticket, epoch: Epoch) -> Self {
        let queues = queues.into_iter().map(|(id, tail)| (id, Queue::stored(tail))).collect();
        Self { queues, tickets, nonces: epoch << 32, ..Self::default() }
    }

    /// Bytes of envelopes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A ticket for a question of anybody's.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// The last ticket drawn.
    pub(crate) fn tickets(&self) -> Ticket {
        self.tickets
    }

    /// A lease begins, offline.
    pub(crate) fn open(&mut self, no: LeaseNo, own: Recipient, member: MemberId, rank: Rank) {
        self.own.insert(own.clone(), no);
        self.members.entry(member.clone()).or_default().0.insert(no);
        let outlet = Outlet::new(own, member, rank);
        self.outlets.insert(no, outlet);
    }

    /// A lease has a connection: everything unconfirmed goes out again, from the first.
    pub(crate) fn attach(&mut self, no: LeaseNo, by_pong: bool) {
        self.revert(no);
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        outlet.online = true;
        outlet.by_pong = by_pong && !outlet.acks;
        let [own, member] = outlet.sources();
        let id = outlet.member.clone();
        self.choose_holder(&id);
        self.recall(&own);
        // Another may be in the middle of the member's queue.
        if self.holder(&id) == Some(no) {
            self.recall(&member);
        }
        self.dirty.insert(no);
    }

    fn recall(&mut self, recipient: &Recipient) {
        for lane in Lane::ALL {
            let id = QueueId { recipient: recipient.clone(), lane };
            if let Some(queue) = self.queues.get_mut(&id) {
                self.bytes -= queue.recall();
            }
        }
    }

    fn holder(&self, member: &MemberId) -> Option<LeaseNo> {
        self.members.get(member).and_then(|(_, holder)| *holder)
    }

    /// A lease has no connection.
    pub(crate) fn detach(&mut self, no: LeaseNo) {
        self.revert(no);
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        outlet.online = false;
        let member = outlet.member.clone();
        self.choose_holder(&member);
        // What was its member's waits for whoever drains that now.
        self.dirty.extend(self.holder(&member));
    }

    /// A lease has ended. Its own queue stays in the store; if it was `inherited`, by the member.
    pub(crate) fn close(&mut self, no: LeaseNo, inherited: bool) {
        self.detach(no);
        let Some(outlet) = self.outlets.remove(&no) else { return };
        self.own.remove(&outlet.own);
        if let Some((outlets, _)) = self.members.get_mut(&outlet.member) {
            outlets.remove(&no);
            if outlets.is_empty() {
                self.members.remove(&outlet.member);
            }
        }
        for lane in Lane::ALL {
            let id = QueueId { recipient: outlet.own.clone(), lane };
            let Some(mut queue) = self.queues.remove(&id) else { continue };
            self.bytes -= queue.unload();
            if queue.is_drained() {
                continue;
            }
            let heir = if inherited {
                QueueId { recipient: Recipient::Member(outlet.member.clone()), lane }
            } else {
                id
            };
            self.bytes -= self.queues.entry(heir).or_default().append(&queue);
        }
        self.choose_holder(&outlet.member);
        self.dirty.extend(self.members.get(&outlet.member).and_then(|(_, holder)| *holder));
    }

    /// Leases of a member, those just leaving included.
    pub(crate) fn outlets_of(&self, member: &MemberId) -> usize {
        self.members.get(member).map_or(0, |(outlets, _)| outlets.len())
    }

    /// Whether a lease is likely to be gone in a moment.
    pub(crate) fn set_short_lived(&mut self, no: LeaseNo, short_lived: bool) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        if std::mem::replace(&mut outlet.rank.short_lived, short_lived) != short_lived {
            let member = outlet.member.clone();
            self.choose_holder(&member);
        }
    }

    /// A lease may be disturbed by what is urgent only, or by anything.
    pub(crate) fn set_busy(&mut self, no: LeaseNo, busy: bool) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        if std::mem::replace(&mut outlet.busy, busy) != busy {
            let member = outlet.member.clone();
            self.dirty.insert(no);
            self.choose_holder(&member);
        }
    }

    /// Nothing that a member sent is in memory any more, nor anything for it. The store has
    /// dropped it all.
    pub(crate) fn forget_member(&mut self, member: &MemberId) {
        for lane in Lane::ALL {
            let id = QueueId { recipient: Recipient::Member(member.clone()), lane };
            if let Some(mut queue) = self.queues.remove(&id) {
                self.bytes -= queue.unload();
            }
        }
        let sent = self
            .queues
            .iter()
            .flat_map(|(id, queue)| queue.sent_by(member).map(|seq| (id.clone(), seq)));
        for (id, seq) in sent.collect::<Vec<_>>() {
            self.confirm(&id, seq);
        }
    }

    /// An envelope is not to reach this outlet after all.
    pub(crate) fn drop_envelope(&mut self, no: LeaseNo, id: &MessageId, tail: Seq) -> Vec<Confirm> {
        self.confirm_by_id(no, id.as_str(), tail)
    }

    /// Whether a recipient's lane can take one more.
    pub(crate) fn has_room(&self, queue: &QueueId) -> bool {
        self.queues.get(queue).is_none_or(|queue| queue.depth() < QUEUE_QUOTA)
    }

    /// An envelope has been committed for these recipients.
    pub(crate) fn offer(&mut self, envelope: &Arc<Envelope>, recipients: Vec<Recipient>) {
        let lane = envelope.lane();
        for recipient in recipients {
            let outlet = match &recipient {
                Recipient::Member(member) => {
                    self.members.get(member).and_then(|(_, holder)| *holder)
                }
                own => self.own.get(own).copied(),
            };
            let room = MESH_BYTES.saturating_sub(self.bytes);
            let queue = self.queues.entry(QueueId { recipient, lane }).or_default();
            self.bytes += queue.commit(envelope, room);
            self.dirty.extend(outlet);
        }
    }

    /// A stretch of a queue was read, or could not be.
    pub(crate) fn paged(&mut self, ticket: Ticket, page: Option<Page>) {
        let Some((id, reserved)) = self.reads.remove(&ticket) else { return };
        self.reserved -= reserved;
        let Some(queue) = self.queues.get_mut(&id) else { return };
        self.bytes += queue.paged(ticket, page);
        self.forget_if_drained(&id);
        if let Recipient::Member(member) = &id.recipient {
            self.dirty.extend(self.members.get(member).and_then(|(_, holder)| *holder));
        } else {
            self.dirty.extend(self.own.get(&id.recipient));
        }
    }

    /// What a peer's ack confirms. An envelope that is not in memory is confirmed unseen, by id, if
    /// the store may have it.
    pub(crate) fn acked(&mut self, no: LeaseNo, ack: &ClientAck, tail: Seq) -> Vec<Confirm> {
        let confirms = match (&ack.broker_message_id, &ack.client_message_id) {
            (Some(id), _) => self.confirm_by_id(no, id, tail),
            (None, Some(id)) => self.confirm_by_client_id(no, id),
            (None, None) => Vec::new(),
        };
        // One that confirms nothing may be slow, and come after the pong; nonsense is no ack.
        let position = ack.broker_message_id.as_deref().and_then(MessageId::position);
        if (!confirms.is_empty() || position.is_some_and(|seq| (1..=tail).contains(&seq)))
            && let Some(outlet) = self.outlets.get_mut(&no)
        {
            outlet.acks = true;
            outlet.by_pong = false;
            outlet.probe = None;
        }
        confirms
    }

    fn confirm_by_client_id(&mut self, no: LeaseNo, id: &str) -> Vec<Confirm> {
        let Some(outlet) = self.outlets.get(&no) else { return Vec::new() };
        let overdue = outlet.overdue.values().map(|(_, place)| place);
        let mut pushed = outlet.fresh.values().chain(overdue);
        let place = pushed.find(|place| {
            let envelope = self.queues.get(&place.queue).and_then(|queue| queue.get(place.seq));
            envelope.is_some_and(|e| e.key.client_id() == Some(id) || e.id.as_str() == id)
        });
        let place = place.cloned();
        place.and_then(|place| self.confirm(&place.queue, place.seq)).into_iter().collect()
    }

    fn confirm_by_id(&mut self, no: LeaseNo, id: &str, tail: Seq) -> Vec<Confirm> {
        let mut unseen = Vec::new();
        let Some(seq) = MessageId::position(id) else { return unseen };
        let Some(sources) = self.outlets.get(&no).map(Outlet::sources) else { return unseen };
        for recipient in &sources {
            for lane in Lane::ALL {
                let queue = QueueId { recipient: recipient.clone(), lane };
                let Some(state) = self.queues.get(&queue) else { continue };
                match state.get(seq) {
                    Some(envelope) if envelope.id.as_str() == id => {
                        return self.confirm(&queue, seq).into_iter().collect();
                    }
                    None if seq <= tail && state.may_store(seq) => {
                        unseen.push(Confirm { queue, seq, message: id.into() });
                    }
                    _ => {}
                }
            }
        }
        unseen
    }

    /// A probe came back: everything pushed before it has reached the peer's endpoint.
    pub(crate) fn ponged(&mut self, no: LeaseNo, nonce: u64) -> Vec<Confirm> {
        let Some(nonce) = nonce.checked_sub(self.nonces) else { return Vec::new() };
        let Some(outlet) = self.outlets.get_mut(&no) else { return Vec::new() };
        if !outlet.by_pong || outlet.probe != Some(nonce) {
            return Vec::new();
        }
        outlet.probe = None;
        self.dirty.insert(no);
        let overdue = outlet.overdue.range(..=nonce).map(|(_, (_, place))| place);
        let reached: Vec<Place> =
            outlet.fresh.range(..=nonce).map(|(_, place)| place).chain(overdue).cloned().collect();
        reached.iter().filter_map(|place| self.confirm(&place.queue, place.seq)).collect()
    }

    fn confirm(&mut self, id: &QueueId, seq: Seq) -> Option<Confirm> {
        let queue = self.queues.get_mut(id)?;
        let (envelope, pushed) = queue.remove(seq)?;
        self.bytes -= envelope.bytes();
        if let Some((no, push)) = pushed {
            self.take_back(no, push, envelope.bytes());
            self.dirty.insert(no);
        }
        self.forget_if_drained(id);
        Some(Confirm { queue: id.clone(), seq, message: envelope.id.clone() })
    }

    fn forget_if_drained(&mut self, id: &QueueId) {
        if self.queues.get(id).is_some_and(Queue::is_drained) {
            self.queues.remove(id);
        }
    }

    fn take_back(&mut self, no: LeaseNo, push: u64, bytes: usize) -> Option<Place> {
        let outlet = self.outlets.get_mut(&no)?;
        if let Some(place) = outlet.fresh.remove(&push) {
            outlet.bytes -= bytes;
            return Some(place);
        }
        outlet.overdue.remove(&push).map(|(_, place)| place)
    }

    /// Everything an outlet pushed and nobody confirmed waits again.
    fn revert(&mut self, no: LeaseNo) {
        if let Some(outlet) = self.outlets.get_mut(&no) {
            outlet.probe = None;
        }
        self.revert_of(no, |_| true);
    }

    fn revert_of(&mut self, no: LeaseNo, wanted: impl Fn(&Recipient) -> bool) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        let fresh = outlet.fresh.extract_if(.., |_, place| wanted(&place.queue.recipient));
        let fresh: Vec<Place> = fresh.map(|(_, place)| place).collect();
        let overdue = outlet.overdue.extract_if(.., |_, (_, place)| wanted(&place.queue.recipient));
        let overdue: Vec<Place> = overdue.map(|(_, (_, place))| place).collect();
        let queues = &mut self.queues;
        for place in &fresh {
            let envelope = queues.get(&place.queue).and_then(|queue| queue.get(place.seq));
            outlet.bytes = outlet.bytes.saturating_sub(envelope.map_or(0, |e| e.bytes()));
        }
        for place in fresh.into_iter().chain(overdue) {
            if let Some(queue) = queues.get_mut(&place.queue) {
                queue.revert(place.seq);
            }
        }
    }

    /// A member's queue stays with the outlet that drains it as long as that is online and may be
    /// disturbed, or no other may.
    fn choose_holder(&mut self, member: &MemberId) {
        let Some((candidates, holder)) = self.members.get_mut(member) else { return };
        let online = |no: &&LeaseNo| self.outlets.get(no).is_some_and(|outlet| outlet.online);
        let order = |no: &LeaseNo| {
            let outlet = self.outlets.get(no)?;
            let Rank { short_lived, unproven } = outlet.rank;
            Some((short_lived, outlet.busy, unproven))
        };
        let best = candidates.iter().filter(online).min_by_key(|no| order(no)).copied();
        let stays = holder.as_ref().filter(online).is_some_and(|held| {
            let busy = |no: &LeaseNo| order(no).map(|(short_lived, busy, _)| (short_lived, busy));
            best.is_none_or(|best| busy(held) <= busy(&best))
        });
        if stays {
            return;
        }
        let before = std::mem::replace(holder, best);
        self.dirty.extend(best);
        // Behind the back of whoever drains the queue now, it would come later than what follows.
        if let Some(before) = before {
            let queue = Recipient::Member(member.clone());
            self.revert_of(before, |recipient| *recipient == queue);
        }
    }

    /// When [`check`](Self::check) is due.
    pub(crate) fn deadline(&self) -> Option<Ms> {
        self.checks.first().map(|(at, _)| *at)
    }

    /// Pushes again what is overdue and probes who has been silent.
    pub(crate) fn check(&mut self, now: Ms, out: &mut Vec<Out>) {
        while let Some((at, no)) = self.checks.first().copied() {
            if at > now {
                return;
            }
            self.checks.pop_first();
            if let Some(outlet) = self.outlets.get_mut(&no) {
                outlet.check_at = None;
                if outlet.online {
                    self.repush(no, now, out);
                    self.probe(no, now, out);
                    self.schedule(no);
                }
            }
        }
    }

    fn repush(&mut self, no: LeaseNo, now: Ms, out: &mut Vec<Out>) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        while let Some(entry) = outlet.fresh.first_entry() {
            if entry.get().at + REPUSH_MS > now {
                break;
            }
            let (push, place) = entry.remove_entry();
            let envelope = self.queues.get(&place.queue).and_then(|queue| queue.get(place.seq));
            outlet.bytes -= envelope.map_or(0, |envelope| envelope.bytes());
            outlet.overdue.insert(push, (now, place));
            self.dirty.insert(no);
        }
        for (due, place) in outlet.overdue.values_mut() {
            if *due > now {
                continue;
            }
            place.tries += 1;
            *due = now + (REPUSH_MS << place.tries.min(6)).min(REPUSH_MOST_MS);
            if let Some(envelope) = self.queues.get(&place.queue).and_then(|q| q.get(place.seq)) {
                out.push(Out::Push { to: no, envelope: envelope.clone() });
            }
        }
        if outlet.by_pong && !outlet.overdue.is_empty() {
            outlet.probe = Some(outlet.pushes);
            out.push(Out::Probe { to: no, nonce: self.nonces + outlet.pushes });
        }
        while outlet.overdue.len() > OVERDUE_ENVELOPES {
            let Some((_, (_, place))) = outlet.overdue.pop_first() else { break };
            if let Some(queue) = self.queues.get_mut(&place.queue) {
                self.bytes -= queue.forget(place.seq);
            }
        }
    }

    fn probe(&mut self, no: LeaseNo, now: Ms, out: &mut Vec<Out>) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        let Some(oldest) = outlet.fresh.values().next() else { return };
        let waited = oldest.at + PROBE_MS <= now;
        if outlet.by_pong && outlet.probe.is_none() && (waited || outlet.is_full()) {
            outlet.probe = Some(outlet.pushes);
            out.push(Out::Probe { to: no, nonce: self.nonces + outlet.pushes });
        }
    }

    fn schedule(&mut self, no: LeaseNo) {
        let Some(outlet) = self.outlets.get_mut(&no) else { return };
        let Some(next) = outlet.next_check() else { return };
        if outlet.check_at.is_none_or(|at| next < at) {
            if let Some(at) = outlet.check_at.replace(next) {
                self.checks.remove(&(at, no));
            }
            self.checks.insert((next, no));
        }
    }

    /// Lets every marked outlet push what its window and its queues allow.
    pub(crate) fn pump(&mut self, now: Ms, out: &mut Vec<Out>) {
        while let Some(no) = self.dirty.pop_first() {
            if self.outlets.get(&no).is_some_and(|outlet| outlet.online) {
                let busy = self.outlets.get(&no).is_some_and(|outlet| outlet.busy);
                for lane in Lane::ALL.into_iter().filter(|lane| *lane == Lane::Urgent || !busy) {
                    self.pump_lane(no, lane, now, out);
                }
                self.probe(no, now, out);
                self.schedule(no);
            }
        }
    }

    fn pump_lane(&mut self, no: LeaseNo, lane: Lane, now: Ms, out: &mut Vec<Out>) {
        let Some(outlet) = self.outlets.get(&no) else { return };
        let holds = self.members.get(&outlet.member).is_some_and(|(_, h)| *h == Some(no));
        let [own, member] = outlet.sources().map(|recipient| QueueId { recipient, lane });
        let sources = if holds { vec![own, member] } else { vec![own] };
        loop {
            let mut first: Option<(Seq, &QueueId)> = None;
            let mut incomplete = false;
            for id in &sources {
                match self.queues.get_mut(id).map(Queue::head) {
                    None | Some(Head::Nothing) => {}
                    Some(Head::Unread) => incomplete = true,
                    Some(Head::Ready(seq)) => {
                        first = Some(first.map_or((seq, id), |f| f.min((seq, id))));
                    }
                }
            }
            // Something earlier may be in the store: pushing what is at hand would overtake it.
            if incomplete {
                for id in &sources {
                    self.read(id, out);
                }
                return;
            }
            let Some((seq, id)) = first else { return };
            if !self.push(no, id, seq, now, out) {
                return;
            }
        }
    }

    fn push(&mut self, no: LeaseNo, id: &QueueId, seq: Seq, now: Ms, out: &mut Vec<Out>) -> bool {
        let Some(outlet) = self.outlets.get_mut(&no) else { return false };
        if outlet.is_full() {
            return false;
        }
        outlet.pushes += 1;
        let push = outlet.pushes;
        let Some(queue) = self.queues.get_mut(id) else { return false };
        let Some(envelope) = queue.pushed(seq, no, push) else { return false };
        outlet.bytes += envelope.bytes();
        outlet.fresh.insert(push, Place { queue: id.clone(), seq, at: now, tries: 0 });
        out.push(Out::Push { to: no, envelope });
        true
    }

    fn read(&mut self, id: &QueueId, out: &mut Vec<Out>) {
        let tight = self.bytes + self.reserved + PAGE_BYTES > MESH_BYTES;
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Some((after, rows)) = queue.wants() else { return };
        let limit = if tight {
            PageLimit { rows: rows.min(PAGE_ROWS / 16), bytes: TIGHT_BYTES }
        } else {
            PageLimit { rows, bytes: PAGE_BYTES }
        };
        let ticket = self.tickets + 1;
        self.tickets = ticket;
        queue.reading(ticket);
        self.reads.insert(ticket, (id.clone(), limit.bytes));
        self.reserved += limit.bytes;
        out.push(Out::Ask(ticket, Question::Page { queue: id.clone(), after, limit }));
    }
}
