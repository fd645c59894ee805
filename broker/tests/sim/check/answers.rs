//! P9: whoever asks is answered once and in time, or the connection ends; and all but the acks of
//! sends in the order of the requests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The edge answers in the owner's stead after 8 s; timers and steps are no later than that.
const ANSWER_MS: u64 = 9_000;
/// A second hello first lets the old line go, which may take as long again.
const HELLO_MS: u64 = 2 * ANSWER_MS;

const HELLO: &str = "hello";
const SEND: &str = "send";
/// Answered only if something is wrong.
const SILENT: [&str; 5] = ["set_status", "set_summary", "set_stats", "join_group", "leave_group"];

/// A question, and when it was read.
struct Open {
    id: String,
    verb: String,
    since: u64,
}

impl Open {
    /// Whether it is surely answered, and in its turn.
    fn is_answered_in_order(&self) -> bool {
        self.verb != SEND && self.verb != HELLO && !SILENT.contains(&self.verb.as_str())
    }
}

/// Per connection, what has not been answered, in the order in which it was read.
#[derive(Default)]
pub(super) struct Answers {
    open: BTreeMap<u64, Vec<Open>>,
    /// Lines of a process that stood still: it owes them nothing any more.
    forgotten: BTreeSet<u64>,
}

impl Answers {
    pub(super) fn asked(&mut self, now: u64, socket: u64, text: &str) {
        if !self.forgotten.contains(&socket)
            && let Some((id, verb)) = question(text)
        {
            self.open.entry(socket).or_default().push(Open { id, verb, since: now });
        }
    }

    pub(super) fn answered(&mut self, now: u64, socket: u64, text: &str) -> Result<(), String> {
        let Some(id) = answer(text) else { return Ok(()) };
        let Some(open) = self.open.get_mut(&socket) else { return Ok(()) };
        let Some(place) = open.iter().position(|question| question.id == id) else {
            return Err(format!("{id} on socket {socket} is answered again: {text}"));
        };
        let question = open.remove(place);
        // Some clients match replies by their order.
        let mut earlier = open[..place].iter().filter(|other| other.is_answered_in_order());
        if question.verb != SEND
            && let Some(other) = earlier.next()
        {
            return Err(format!("{id} on socket {socket} is answered before {}", other.id));
        }
        late(now, socket, &question)
    }

    pub(super) fn ended(&mut self, now: u64, socket: u64) -> Result<(), String> {
        let open = self.open.remove(&socket).unwrap_or_default();
        open.iter().try_for_each(|question| late(now, socket, question))
    }

    pub(super) fn forget(&mut self, socket: u64) {
        self.open.remove(&socket);
        self.forgotten.insert(socket);
    }

    pub(super) fn unanswered(&mut self, now: u64) -> Result<(), String> {
        let sockets: Vec<_> = self.open.keys().copied().collect();
        sockets.into_iter().try_for_each(|socket| self.ended(now, socket))
    }
}

fn late(now: u64, socket: u64, question: &Open) -> Result<(), String> {
    let Open { id, verb, since } = question;
    let waited = now - since;
    let most = if verb == HELLO { HELLO_MS } else { ANSWER_MS };
    if waited <= most || SILENT.contains(&verb.as_str()) {
        return Ok(());
    }
    Err(format!("{verb} {id} on socket {socket} waited for {waited} ms"))
}

fn question(text: &str) -> Option<(String, String)> {
    let frame: Value = serde_json::from_str(text).ok()?;
    match frame["type"].as_str()? {
        "hello" | "session_hello" => Some((HELLO.to_owned(), HELLO.to_owned())),
        "client_ack" => None,
        verb => Some((ids(&frame)?, verb.to_owned())),
    }
}

fn answer(text: &str) -> Option<String> {
    let frame: Value = serde_json::from_str(text).ok()?;
    if frame["type"] == "hello_ack" { Some(HELLO.to_owned()) } else { ids(&frame) }
}

fn ids(frame: &Value) -> Option<String> {
    let text = |name: &str| frame[name].as_str().filter(|id| !id.is_empty());
    text("id").or_else(|| text("_reqId")).map(str::to_owned)
}
