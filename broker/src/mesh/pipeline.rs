//! What waits to become durable, and what happens then.
//!
//! One commit of a mesh is in flight at a time; what gathers meanwhile is the next. So commits
//! group by themselves, without a timer, and a commit of unknown outcome has none behind it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use protocol::server::{Frame, HelloAck};
use protocol::{Close, EchoId, MemberId};
use router::link::{WINDOW_BYTES, WINDOW_COMMANDS};

use super::io::{ConnId, Effect};
use super::roster::LeaseNo;
use crate::model::{Accept, Envelope, Recipient, Seq, Unit, Write};

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
    /// Answer a command, and tell the others whether this presence can be seen.
    Done { conn: ConnId, number: u64, frame: Option<Frame>, tell: Option<LeaseNo> },
    /// Announce departures, and see to what caused them.
    Left(Box<Left>),
    /// Turn a hello down.
    Refused(Box<Effect>),
    /// Answer a command that changed nothing, and go on with its connection.
    Said { conn: ConnId, number: u64, frame: Frame },
    /// Refuse a send.
    Refusal { conn: ConnId, number: u64, frame: Frame },
}

/// See [`Then::Accepted`].
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) conn: ConnId,
    pub(crate) number: u64,
    pub(crate) ack_id: Option<EchoId>,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) held: bool,
    pub(crate) skipped: usize,
}

/// See [`Then::Left`].
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) leases: Vec<LeaseNo>,
    /// Connections that end with them.
    pub(crate) conns: Vec<(ConnId, Close)>,
    /// The command that caused it, and what that is answered.
    pub(crate) reply: Option<(ConnId, u64, Option<Frame>)>,
    /// Members of whom nothing is to be delivered any more, nor to them.
    pub(crate) banned: Vec<MemberId>,
    /// Somebody was let in again.
    pub(crate) reinstated: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    waiting: VecDeque<(Unit, Then)>,
    bytes: usize,
    in_flight: Option<Vec<(Unit, Then)>>,
}

impl Pipeline {
    pub(crate) fn push(&mut self, writes: Vec<Write>, then: Then) {
        let unit = Unit(writes);
        self.bytes += size(&unit);
        self.waiting.push_back((unit, then));
    }

    /// The store does not keep up.
    pub(crate) fn is_full(&self, connections: usize) -> bool {
        self.waiting.len() >= WAITING_UNITS + 2 * WINDOW_COMMANDS * connections
            || self.bytes >= WAITING_BYTES + WINDOW_BYTES * connections
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// The next commit, if none is in flight and something waits. No two of its envelopes have one
    /// key: the second of two that come together is a repetition of the first, once that is durable.
    pub(crate) fn next(&mut self) -> Option<Vec<Unit>> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        let mut keys = HashSet::new();
        for (unit, _) in self.waiting.iter().take(COMMIT_UNITS) {
            bytes += size(unit);
            let repeats = client_key(unit).is_some_and(|key| !keys.insert(key));
            if bytes > COMMIT_BYTES || repeats {
                break;
            }
            count += 1;
        }
        let items: Vec<_> = self.waiting.drain(..count.max(1)).collect();
        self.bytes -= items.iter().map(|(unit, _)| size(unit)).sum::<usize>();
        let units = items.iter().map(|(unit, _)| unit.clone()).collect();
        self.in_flight = Some(items);
        Some(units)
    }

    /// The commit in flight has ended.
    pub(crate) fn done(&mut self) -> Vec<Then> {
        self.in_flight.take().into_iter().flatten().map(|(_, then)| then).collect()
    }

    /// Nothing of the commit in flight was written, for these of its envelopes were known: they
    /// are taken out, the others wait again, before all else.
    pub(crate) fn take_out(&mut self, known: &HashSet<Seq>) -> Vec<Accepted> {
        let mut taken = Vec::new();
        for (unit, then) in self.in_flight.take().into_iter().flatten().rev() {
            match then {
                Then::Accepted(accepted) if known.contains(&accepted.envelope.seq) => {
                    taken.push(*accepted);
                }
                then => {
                    self.bytes += size(&unit);
                    self.waiting.push_front((unit, then));
                }
            }
        }
        taken.reverse();
        taken
    }
}

fn client_key(unit: &Unit) -> Option<(&MemberId, &str)> {
    unit.0.iter().find_map(|write| match write {
        Write::Accept(Accept { envelope, .. }) => {
            Some((&envelope.sender.member, envelope.key.client_id()?))
        }
        _ => None,
    })
}

fn size(unit: &Unit) -> usize {
    let size = |write: &Write| match write {
        Write::Accept(accept) => accept.envelope.bytes(),
        Write::SaveLease(row) => 256 + row.body.len(),
        Write::Audit(row) => 256 + row.payload.len(),
        _ => 256,
    };
    unit.0.iter().map(size).sum()
}
