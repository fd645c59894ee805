//! P5, from the side of whoever watches without a break: each coming and going is told, once.

use std::collections::BTreeMap;

use serde_json::Value;

/// A peer as others know it: its key and its name.
type Subject = (String, String);

/// What one connection was told of one peer last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Here,
    Gone,
}

/// Presences, by id.
pub(super) type Lives = BTreeMap<String, Life>;

/// A presence that has come, and gone if it has.
#[derive(Clone)]
pub(super) struct Life {
    subject: Subject,
    member: String,
    session: bool,
    /// A command, that may be gone before it is anybody's news.
    brief: bool,
    came: u64,
    went: Option<u64>,
}

#[derive(Default)]
pub(super) struct Watchers {
    words: BTreeMap<u64, BTreeMap<Subject, Word>>,
    pub(super) lives: Lives,
}

/// Somebody who is connected in the end: since when without a break, and as whom.
pub(crate) struct Watcher<'a> {
    pub(crate) socket: u64,
    pub(crate) since: u64,
    pub(crate) member: &'a str,
    pub(crate) subject: (String, String),
}

impl Watchers {
    /// Whoever is attached anew asks who is here.
    pub(super) fn forget(&mut self, socket: u64) {
        self.words.remove(&socket);
    }

    /// A peer was told of another.
    pub(super) fn told(&mut self, socket: u64, frame: &Value) -> Result<(), String> {
        let text = |name: &str| frame["eventData"][name].as_str().unwrap_or_default().to_owned();
        let word = match frame["event"].as_str() {
            Some("peer_joined" | "peer_returned") => Word::Here,
            Some("peer_left") => Word::Gone,
            _ => return Ok(()),
        };
        let subject = (text("pubkey"), text("displayName"));
        match self.words.entry(socket).or_default().insert(subject, word) {
            Some(before) if before == word => Err(format!("told twice in a row: {frame}")),
            _ => Ok(()),
        }
    }

    /// A presence is durable.
    pub(super) fn came(
        &mut self,
        now: u64,
        presence: &str,
        subject: Subject,
        (member, session, brief): (&str, bool, bool),
    ) {
        let member = member.to_owned();
        let life = Life { subject, member, session, brief, came: now, went: None };
        self.lives.insert(presence.to_owned(), life);
    }

    /// Its end is.
    pub(super) fn went(&mut self, now: u64, presence: &str) {
        if let Some(life) = self.lives.get_mut(presence) {
            life.went = Some(now);
        }
    }

    /// What a watcher must know by now, and does not. `may_pass` says whether a command that came
    /// then and went then may have been nobody's news.
    pub(super) fn missed(
        &self,
        watcher: &Watcher<'_>,
        may_pass: impl Fn(u64, u64) -> bool,
    ) -> Option<String> {
        let silent = BTreeMap::new();
        let words = self.words.get(&watcher.socket).unwrap_or(&silent);
        let mut last: BTreeMap<&Subject, &Life> = BTreeMap::new();
        for life in self.lives.values() {
            let concerned = life.session || life.member != watcher.member;
            if concerned && life.subject != watcher.subject {
                let other = last.entry(&life.subject).or_insert(life);
                if other.came < life.came {
                    *other = life;
                }
            }
        }
        for (subject, life) in last {
            let word = words.get(subject);
            let (wrong, what) = match life.went {
                // Of who was here before, nothing is told but the end.
                None => {
                    let unknown = word.is_none() && life.came > watcher.since;
                    (word == Some(&Word::Gone) || unknown, "came")
                }
                Some(went) => {
                    let passed = life.brief && may_pass(life.came, went);
                    let seen = !passed && life.came < went && went > watcher.since;
                    (word == Some(&Word::Here) || word.is_none() && seen, "went")
                }
            };
            if wrong {
                let socket = watcher.socket;
                return Some(format!(
                    "socket {socket}, here since {}, was told {word:?} of {subject:?}, who {what} \
                     ({}, {:?})",
                    watcher.since, life.came, life.went
                ));
            }
        }
        None
    }
}
