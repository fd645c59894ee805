//! P9: whoever asks is answered in time, or the connection ends.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

/// The edge answers in the owner's stead after 8 s; timers and steps are no later than that.
const ANSWER_MS: u64 = 9_000;
/// A second hello first lets the old line go, which may take as long again.
const HELLO_MS: u64 = 2 * ANSWER_MS;

const HELLO: &str = "hello";

/// Per connection and id, when what has not been answered was read.
#[derive(Default)]
pub(crate) struct Answers(BTreeMap<u64, BTreeMap<String, VecDeque<u64>>>);

impl Answers {
    pub(crate) fn asked(&mut self, now: u64, socket: u64, text: &str) {
        if let Some(id) = question(text) {
            self.0.entry(socket).or_default().entry(id).or_default().push_back(now);
        }
    }

    pub(crate) fn answered(&mut self, now: u64, socket: u64, text: &str) -> Option<String> {
        let id = answer(text)?;
        let open = self.0.get_mut(&socket)?;
        let since = open.get_mut(&id)?.pop_front()?;
        late(now, socket, &id, since)
    }

    pub(crate) fn ended(&mut self, now: u64, socket: u64) -> Option<String> {
        let open = self.0.remove(&socket)?;
        let mut waiting = open.iter().filter_map(|(id, since)| Some((id, since.front()?)));
        waiting.find_map(|(id, since)| late(now, socket, id, *since))
    }

    pub(crate) fn forget(&mut self, socket: u64) {
        self.0.remove(&socket);
    }

    pub(crate) fn unanswered(&mut self, now: u64) -> Option<String> {
        let sockets: Vec<_> = self.0.keys().copied().collect();
        sockets.into_iter().find_map(|socket| self.ended(now, socket))
    }
}

fn late(now: u64, socket: u64, id: &str, since: u64) -> Option<String> {
    let waited = now - since;
    let most = if id == HELLO { HELLO_MS } else { ANSWER_MS };
    (waited > most).then(|| format!("{id} on socket {socket} waited for {waited} ms"))
}

fn question(text: &str) -> Option<String> {
    let frame: Value = serde_json::from_str(text).ok()?;
    match frame["type"].as_str()? {
        "hello" | "session_hello" => Some(HELLO.to_owned()),
        "client_ack" => None,
        _ => ids(&frame),
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
