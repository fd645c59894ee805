//! What waits to become durable, and what happens then.
//!
//! One commit of a mesh is in flight at a time; what gathers meanwhile is the next. So commits
//! group by themselves, without a timer, and a commit of unknown outcome has none behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::server::HelloAck;
use router::link::{WINDOW_BYTES, WINDOW_COMMANDS};

use super::io::ConnId;
use super::roster::LeaseNo;
use crate::model::{Envelope, Recipient, Unit, Write};

/// Units of one commit.
const COMMIT_UNITS: usize = 512;
/// Bytes of envelopes of one commit. One unit always fits.
const COMMIT_BYTES: usize = 1024 * 1024;

/// What may wait for the store: sixteen commits, and for each connection the mesh may have a window
/// of sends and as many confirmations. Edges give a send up after a while and send more: beyond
/// this, sends are refused and acks of what is not in memory forgotten. Joins and departures are
/// bounded by the leases.
const WAITING_UNITS: usize = 16 * COMMIT_UNITS;
const WAITING_BYTES: usize = 16 * COMMIT_BYTES;

/// What a durable unit allows.
#[derive(Debug)]
pub(crate) enum Then {
    /// Nothing to tell anybody.
    Settled,
    /// Ack and deliver.
    Accepted(Box<Accepted>),
    /// Answer the hello, and announce a new presence.
    Attached { no: LeaseNo, conn: ConnId, number: u64, ack: Box<HelloAck> },
    /// Answer the detach.
    Detached { conn: ConnId, number: u64 },
    /// Announce the departure.
    Left { no: LeaseNo },
}

/// See [`Then::Accepted`].
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) conn: ConnId,
    pub(crate) number: u64,
    pub(crate) ack_id: Option<String>,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) held: bool,
    pub(crate) skipped: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    waiting: VecDeque<(Unit, Then)>,
    bytes: usize,
    in_flight: Option<Vec<Then>>,
}

impl Pipeline {
    pub(crate) fn push(&mut self, writes: Vec<Write>, then: Then) {
        self.bytes += writes.iter().map(size).sum::<usize>();
        self.waiting.push_back((Unit(writes), then));
    }

    /// The store does not keep up.
    pub(crate) fn is_full(&self, connections: usize) -> bool {
        self.waiting.len() >= WAITING_UNITS + 2 * WINDOW_COMMANDS * connections
            || self.bytes >= WAITING_BYTES + WINDOW_BYTES * connections
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// The next commit, if none is in flight and something waits.
    pub(crate) fn next(&mut self) -> Option<Vec<Unit>> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut fits = |(unit, _): &(Unit, Then)| {
            bytes += unit.0.iter().map(size).sum::<usize>();
            bytes <= COMMIT_BYTES
        };
        let count = self.waiting.iter().take(COMMIT_UNITS).take_while(|item| fits(item)).count();
        let (units, thens): (Vec<Unit>, _) = self.waiting.drain(..count.max(1)).unzip();
        self.bytes -= units.iter().flat_map(|unit| &unit.0).map(size).sum::<usize>();
        self.in_flight = Some(thens);
        Some(units)
    }

    /// The commit in flight has ended.
    pub(crate) fn done(&mut self) -> Vec<Then> {
        self.in_flight.take().unwrap_or_default()
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Accept(accept) => accept.envelope.bytes(),
        _ => 256,
    }
}
