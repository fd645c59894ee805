//! One client's connections, and the absences between them.

use std::collections::HashMap;

use crate::chaos::check::span::Span;

/// A node's last sign of life may be this much older than its loss.
const HEARTBEAT_MS: u64 = 1_000;

#[derive(Debug)]
struct Connection {
    node: String,
    /// When its hello was written.
    hello: u64,
    acked: u64,
    presence: String,
    closed: Option<u64>,
}

/// See the module above. `earliest` and `latest`: when it may have begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absence {
    pub(super) earliest: u64,
    pub(super) latest: u64,
    /// The hello that ended it, and when that was acknowledged.
    pub(super) hello: Option<u64>,
    pub(super) back: Option<u64>,
    /// The presence before and after.
    pub(super) presence: (String, String),
}

#[derive(Debug, Default)]
pub(super) struct Timeline {
    connections: Vec<Connection>,
    /// A hello without an answer yet.
    pending: Option<(u32, u64, String)>,
    /// When it left for good.
    pub(super) for_good: Option<u64>,
}

impl Timeline {
    pub(super) fn connected(&mut self, conn: u32, ms: u64, node: String) {
        self.pending = Some((conn, ms, node));
    }

    pub(super) fn acked(&mut self, ms: u64, presence: String) {
        let Some((_, hello, node)) = self.pending.take() else { return };
        self.connections.push(Connection { node, hello, acked: ms, presence, closed: None });
    }

    pub(super) fn closed(&mut self, ms: u64) {
        // A hello that was not answered is no connection.
        if self.pending.take().is_none()
            && let Some(last) = self.connections.last_mut()
        {
            last.closed.get_or_insert(ms);
        }
    }

    pub(super) fn first_hello(&self) -> Option<u64> {
        self.connections.first().map(|connection| connection.acked)
    }

    /// Whether one connection lasted all that time.
    pub(super) fn stays(&self, span: Span) -> bool {
        self.connections.iter().any(|connection| {
            connection.acked <= span.from && connection.closed.is_none_or(|ms| ms >= span.until)
        })
    }

    /// Every time it was away, or may have seemed so because its node was lost.
    pub(super) fn absences(
        &self,
        lost: &HashMap<String, Vec<Span>>,
        disturbed: &[Span],
    ) -> Vec<Absence> {
        let mut absences = Vec::new();
        for (at, connection) in self.connections.iter().enumerate() {
            let closed = connection.closed.unwrap_or(u64::MAX);
            let held = Span { from: connection.acked, until: closed };
            let losses = lost.get(&connection.node).into_iter().flatten();
            let mut earliest = closed;
            for loss in losses.filter(|loss| loss.overlaps(held)) {
                let from = loss.from.saturating_sub(HEARTBEAT_MS).max(connection.acked);
                if loss.until >= closed {
                    earliest = earliest.min(from);
                } else {
                    // The socket outlived the loss; others knew so when all was well again.
                    let around = disturbed.iter().find(|span| span.until >= loss.until);
                    let back = around.map_or(loss.until, |span| span.until);
                    let presence = (connection.presence.clone(), connection.presence.clone());
                    absences.push(Absence {
                        earliest: from,
                        latest: back,
                        hello: Some(loss.from),
                        back: Some(back),
                        presence,
                    });
                }
            }
            let next = self.connections.get(at + 1);
            if closed < u64::MAX {
                let after = next.map(|next| next.presence.clone()).unwrap_or_default();
                absences.push(Absence {
                    earliest,
                    latest: closed,
                    hello: next.map(|next| next.hello),
                    back: next.map(|next| next.acked),
                    presence: (connection.presence.clone(), after),
                });
            }
        }
        absences
    }
}
