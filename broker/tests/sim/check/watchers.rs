//! P5, from the side of whoever watches: each coming and going is told, once; whoever was away is
//! told what it has missed when it is back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A peer as others know it: its key and its name.
type Subject = (String, String);

/// After its hello is answered, a client may be told so much later what it has missed.
const CATCH_UP_MS: u64 = 5_000;

/// What one client was told of one peer last.
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

/// What one client knows of the others, for as long as it has its presence.
#[derive(Default)]
struct View {
    presence: String,
    /// From then on it must be told of everything.
    since: u64,
    words: BTreeMap<Subject, Word>,
    /// Events that it was told: whatever comes again is recognized.
    ids: BTreeSet<String>,
    /// It was not there from then until then, by its own account.
    absences: Vec<(u64, u64)>,
    gone_since: Option<u64>,
    /// When the mesh last changed its owner while it was away: what the one before had told others,
    /// it may never hear of, and it asks who is here.
    in_doubt: Option<u64>,
}

#[derive(Default)]
pub(super) struct Watchers {
    views: BTreeMap<u64, View>,
    pub(super) lives: Lives,
}

/// Somebody who is connected in the end, and as whom.
pub(crate) struct Watcher<'a> {
    pub(crate) identity: u64,
    pub(crate) member: &'a str,
    pub(crate) subject: (String, String),
}

impl Watchers {
    /// A client reads that it was attached, as the broker wrote at `written`. With another presence
    /// than before, or when it may have missed what nobody can tell it, it asks who is here.
    pub(super) fn greeted(&mut self, now: u64, identity: u64, written: u64, presence: &str) {
        let view = self.views.entry(identity).or_default();
        // A client that did not read may learn late of what is over by now.
        let in_doubt = view.in_doubt.filter(|since| written < *since);
        let gone_since = view.gone_since.filter(|since| written < *since);
        if view.presence != presence || view.in_doubt.is_some() {
            let gone_since = view.gone_since;
            *view = View { since: now, gone_since, ..View::default() };
            presence.clone_into(&mut view.presence);
        }
        view.in_doubt = in_doubt;
        if let Some(since) = std::mem::replace(&mut view.gone_since, gone_since) {
            view.absences.push((since, now));
        }
    }

    /// A client hears nothing any more.
    pub(super) fn gone(&mut self, since: u64, identity: u64) {
        if let Some(view) = self.views.get_mut(&identity) {
            view.gone_since.get_or_insert(since);
        }
    }

    /// The mesh has another owner. `heard` says who hears of everything at this moment.
    pub(super) fn owner_changed(&mut self, now: u64, heard: impl Fn(u64) -> bool) {
        for (identity, view) in &mut self.views {
            let just_back = view.absences.last().is_some_and(|(_, back)| back + CATCH_UP_MS > now);
            if just_back {
                (view.since, view.words) = (now, BTreeMap::new());
            }
            if view.gone_since.is_some() || !heard(*identity) {
                view.in_doubt = Some(now);
            }
        }
    }

    /// A client was told of another.
    pub(super) fn told(&mut self, identity: u64, frame: &Value) -> Result<(), String> {
        let text = |name: &str| frame["eventData"][name].as_str().unwrap_or_default().to_owned();
        let word = match frame["event"].as_str() {
            Some("peer_joined" | "peer_returned") => Word::Here,
            Some("peer_left") => Word::Gone,
            _ => return Ok(()),
        };
        let view = self.views.entry(identity).or_default();
        if !view.ids.insert(frame["messageId"].as_str().unwrap_or_default().to_owned()) {
            return Ok(());
        }
        let subject = (text("pubkey"), text("displayName"));
        // Whoever is back may have missed that somebody came, and is told that it has gone.
        let may_repeat = word == Word::Gone && !view.absences.is_empty();
        match view.words.insert(subject, word) {
            Some(before) if before == word && !may_repeat => {
                Err(format!("told twice in a row: {frame}"))
            }
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
        let view = self.views.get(&watcher.identity)?;
        let away = |life: &Life, went| {
            view.absences.iter().any(|(from, until)| *from <= life.came && went <= *until)
        };
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
            let word = view.words.get(subject);
            let (wrong, what) = match life.went {
                // Of who was here before, nothing is told but the end.
                None => {
                    let unknown = word.is_none() && life.came > view.since;
                    (word == Some(&Word::Gone) || unknown, "came")
                }
                Some(went) => {
                    // Who came and went while it was away is no news.
                    let passed = life.brief && may_pass(life.came, went) || away(life, went);
                    let seen = !passed && life.came < went && went > view.since;
                    (word == Some(&Word::Here) || word.is_none() && seen, "went")
                }
            };
            if wrong {
                return Some(format!(
                    "client {}, here since {}, away {:?}, was told {word:?} of {subject:?}, who \
                     {what} ({}, {:?})",
                    watcher.identity, view.since, view.absences, life.came, life.went
                ));
            }
        }
        None
    }
}
