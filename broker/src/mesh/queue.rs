//! One queue: the stretch of it that is in memory, and how far the store goes beyond.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::MemberId;

use super::io::Ticket;
use super::roster::LeaseNo;
use crate::model::{Envelope, Page, Seq};

/// Rows read back at once.
pub(crate) const PAGE_ROWS: usize = 256;
/// Bytes read back at once.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;
/// Envelopes of one queue in memory: a window, and what is pushed again beside it.
const MEMORY_ROWS: usize = 320;

/// What a queue has for an outlet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// This one is next.
    Ready(Seq),
    /// The next one is in the store.
    Unread,
    /// Everything has been pushed.
    Nothing,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<Seq, Entry>,
    bytes: usize,
    /// Nothing below waits to be pushed.
    cursor: Seq,
    /// The highest sequence that has been in memory.
    loaded: Seq,
    /// The highest sequence committed.
    tail: Seq,
    /// Deliveries in the store, as of the last page, and what came and went since.
    depth: usize,
    /// Some were dropped from memory unconfirmed: read from the start at the next attach.
    forgotten: bool,
    reading: Option<Ticket>,
    /// The tail when the read began.
    asked: Seq,
}

/// By which outlet, if by any, and which of its pushes.
type Pushed = Option<(LeaseNo, u64)>;

#[derive(Debug)]
struct Entry {
    envelope: Arc<Envelope>,
    /// By which outlet, and which of its pushes.
    pushed: Pushed,
}

impl Queue {
    /// A queue of which only the end is known.
    pub(crate) fn stored(tail: Seq) -> Self {
        Self { tail, ..Self::default() }
    }

    /// Deliveries waiting, confirmed ones not counted.
    pub(crate) fn depth(&self) -> usize {
        if self.loaded == self.tail && !self.forgotten { self.entries.len() } else { self.depth }
    }

    /// Nothing waits here, in memory or in the store.
    pub(crate) fn is_drained(&self) -> bool {
        self.entries.is_empty()
            && self.loaded == self.tail
            && !self.forgotten
            && self.reading.is_none()
    }

    /// Whether `seq` could be in the store without being in memory.
    pub(crate) fn may_store(&self, seq: Seq) -> bool {
        seq <= self.tail && (seq > self.loaded || self.forgotten)
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Arc<Envelope>> {
        self.entries.get(&seq).map(|entry| &entry.envelope)
    }

    /// An envelope was committed: kept in memory if nothing is missing before it and there is
    /// room. Answers the bytes it took.
    pub(crate) fn commit(&mut self, envelope: &Arc<Envelope>, room: usize) -> usize {
        let bytes = envelope.bytes();
        let complete = self.loaded == self.tail && self.reading.is_none();
        self.depth = self.depth() + 1;
        self.tail = envelope.seq;
        let fits = self.entries.is_empty()
            || (self.entries.len() < MEMORY_ROWS && self.bytes + bytes <= PAGE_BYTES);
        if complete && fits && bytes <= room {
            self.insert(envelope.clone());
            self.loaded = envelope.seq;
            return bytes;
        }
        0
    }

    fn insert(&mut self, envelope: Arc<Envelope>) {
        self.bytes += envelope.bytes();
        self.cursor = self.cursor.min(envelope.seq);
        self.entries.insert(envelope.seq, Entry { envelope, pushed: None });
    }

    /// What an outlet should push next.
    pub(crate) fn head(&mut self) -> Head {
        let waiting = self.entries.range(self.cursor..).find(|(_, entry)| entry.pushed.is_none());
        if let Some((&seq, _)) = waiting {
            self.cursor = seq;
            return Head::Ready(seq);
        }
        self.cursor = Seq::MAX;
        if self.loaded < self.tail { Head::Unread } else { Head::Nothing }
    }

    /// Marks an envelope as pushed.
    pub(crate) fn pushed(&mut self, seq: Seq, to: LeaseNo, push: u64) -> Option<Arc<Envelope>> {
        let entry = self.entries.get_mut(&seq)?;
        entry.pushed = Some((to, push));
        Some(entry.envelope.clone())
    }

    /// An envelope that was pushed waits again.
    pub(crate) fn revert(&mut self, seq: Seq) {
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.pushed = None;
            self.cursor = self.cursor.min(seq);
        }
    }

    /// What of a member's is in memory.
    pub(crate) fn sent_by(&self, member: &MemberId) -> impl Iterator<Item = Seq> {
        let own = self.entries.iter().filter(|(_, e)| e.envelope.sender.member == *member);
        own.map(|(seq, _)| *seq)
    }

    /// An envelope is confirmed.
    pub(crate) fn remove(&mut self, seq: Seq) -> Option<(Arc<Envelope>, Pushed)> {
        let entry = self.entries.remove(&seq)?;
        self.bytes -= entry.envelope.bytes();
        self.depth = self.depth.saturating_sub(1);
        Some((entry.envelope, entry.pushed))
    }

    /// An unconfirmed envelope leaves memory; the store keeps it. Answers its bytes.
    pub(crate) fn forget(&mut self, seq: Seq) -> usize {
        let Some(entry) = self.entries.remove(&seq) else { return 0 };
        self.depth = self.depth.max(self.entries.len() + 1);
        self.forgotten = true;
        self.bytes -= entry.envelope.bytes();
        entry.envelope.bytes()
    }

    /// What was forgotten is wanted again. Answers the bytes that left memory.
    pub(crate) fn recall(&mut self) -> usize {
        if std::mem::take(&mut self.forgotten) { self.rewind() } else { 0 }
    }

    /// Reads from the start again. What was pushed stays, so that it is not pushed twice; what was
    /// not would wait behind what is still to be read, and could leave no room to read it.
    fn rewind(&mut self) -> usize {
        self.depth = self.depth();
        self.loaded = 0;
        self.reading = None;
        self.cursor = Seq::MAX;
        let before = self.bytes;
        self.entries.retain(|_, entry| entry.pushed.is_some());
        self.bytes = self.entries.values().map(|entry| entry.envelope.bytes()).sum();
        before - self.bytes
    }

    /// Another queue's deliveries, all of them in the store, belong to this one now. Answers the
    /// bytes that left memory.
    pub(crate) fn append(&mut self, other: &Self) -> usize {
        let depth = self.depth() + other.depth;
        let freed = self.rewind();
        self.depth = depth;
        self.tail = self.tail.max(other.tail);
        freed
    }

    /// Drops everything from memory. Answers the bytes.
    pub(crate) fn unload(&mut self) -> usize {
        if !self.is_drained() {
            self.entries.values_mut().for_each(|entry| entry.pushed = None);
            return self.rewind();
        }
        0
    }

    /// Where to read on, and how many rows fit.
    pub(crate) fn wants(&self) -> Option<(Seq, usize)> {
        let rows = MEMORY_ROWS.saturating_sub(self.entries.len()).min(PAGE_ROWS);
        let behind = self.loaded < self.tail && self.reading.is_none();
        (behind && rows > 0).then_some((self.loaded, rows))
    }

    /// A read is under way.
    pub(crate) fn reading(&mut self, ticket: Ticket) {
        self.reading = Some(ticket);
        // What is committed from here on may be missing in the page: a short page proves
        // completeness only up to what was committed before.
        self.asked = self.tail;
    }

    /// A read has ended. Answers the bytes it brought.
    pub(crate) fn paged(&mut self, ticket: Ticket, page: Option<Page>) -> usize {
        if self.reading != Some(ticket) {
            return 0;
        }
        self.reading = None;
        let Some(page) = page else { return 0 };
        let before = self.bytes;
        for envelope in page.envelopes {
            self.loaded = self.loaded.max(envelope.seq);
            if !self.entries.contains_key(&envelope.seq) {
                self.insert(envelope);
            }
        }
        if !page.more {
            self.loaded = self.loaded.max(self.asked);
        }
        self.depth = page.depth.max(self.entries.len());
        self.bytes - before
    }
}
