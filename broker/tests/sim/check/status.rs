//! Delivery follows status, and `working` ends by itself.

use std::collections::BTreeMap;

use protocol::client::Status;
use serde::Deserialize;

use super::Checker;
use crate::faults::Fault;
use crate::world::WORKING_MS;

/// A word may wait behind others of its connection.
const WORD_SLACK_MS: u64 = 15_000;

/// Of a lease's row, what is judged.
#[derive(Deserialize)]
pub(crate) struct SeenPeer {
    pub(crate) visible: bool,
    pub(crate) session_id: String,
    pub(crate) status: Status,
}

/// When a status was last told, per session.
#[derive(Default)]
pub(super) struct Words {
    last: BTreeMap<String, u64>,
    /// A new owner counts anew.
    since: u64,
}

impl Words {
    pub(super) fn forget(&mut self, now: u64) {
        self.since = now;
    }
}

impl Checker {
    /// Somebody says what the status of this session is.
    pub(crate) fn said(&mut self, now: u64, session: &str) {
        self.words.last.insert(session.to_owned(), now);
    }

    /// These sessions are just being sent something that is not urgent. `peers` is what the rules
    /// say of everybody at this moment.
    pub(crate) fn disturbed(&mut self, now: u64, sessions: &[String], peers: &[SeenPeer]) {
        for peer in peers {
            let status = peer.status;
            if status != Status::Idle {
                self.fire(Fault::BusyRecipient);
            }
            if status != Status::Idle && sessions.contains(&peer.session_id) {
                let (session, status) = (&peer.session_id, status.as_str());
                self.fail(|| format!("status: {now}: {session} is {status} and was disturbed"));
            }
            let word = self.words.last.get(&peer.session_id).copied().unwrap_or(0);
            let since = word.max(self.words.since);
            // A hook's word waits for an owner, however long that cannot be reached.
            let waited = self.presences.troubled(since, now);
            if status == Status::Working && since + WORKING_MS + WORD_SLACK_MS + waited < now {
                let session = &peer.session_id;
                self.fail(|| format!("status: {now}: {session} is still working since {since}"));
            }
        }
    }
}
