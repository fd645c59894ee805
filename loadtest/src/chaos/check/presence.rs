//! Who was seen to come and go, against who was there.
//!
//! An [`Absence`] is what lies between two connections of one client. Nobody knows exactly when the
//! broker began to count: a session on a node that was lost counts from the node's last sign of
//! life, which may be long before its client notices. So an absence has an earliest and a latest
//! beginning; what is forbidden goes by the one, what is demanded by the other. Faults stretch every
//! deadline by their length, because a mesh without an owner does not count the time.

mod timeline;

use std::collections::{BTreeMap, HashMap};

use super::span::{Span, deadline};
use super::{Breach, Clients, Kind, Verdict};
use crate::chaos::log::{Line, What};
use timeline::{Absence, Timeline};

/// A departure is told by then after the grace (P5); so is a return.
const PROMISE_MS: u64 = 5_000;
/// Between an event at the broker and its line here.
const SLACK_MS: u64 = 1_000;
/// What was acked so long before its recipient left for good must have come, whatever broke.
const DELIVERED_MS: u64 = 30_000;
/// What a timer of the broker may be early by, for its clock ticks in steps.
const EARLY_MS: u64 = 250;

/// An event as one watcher saw it.
#[derive(Debug, Clone)]
struct Sight {
    ms: u64,
    conn: u32,
    left: bool,
}

#[derive(Default)]
pub(super) struct Presence {
    timelines: BTreeMap<u32, Timeline>,
    /// By watcher and key.
    sights: HashMap<(u32, String), Vec<Sight>>,
    /// When faults worked, until everybody was served again.
    disturbed: Vec<Span>,
    /// Of these, those after which graces may have been forgotten.
    forgot: Vec<Span>,
    forgets: bool,
    lost: HashMap<String, Vec<Span>>,
    absences: BTreeMap<u32, Vec<Absence>>,
    grace: u64,
    end: u64,
}

impl Presence {
    pub(super) fn take(&mut self, line: Line) {
        let Line { ms, who, what } = line;
        self.end = ms;
        match what {
            What::Connected { conn, node } => self.timeline(who).connected(conn, ms, node),
            What::HelloAck { presence, .. } => self.timeline(who).acked(ms, presence),
            What::Closed { .. } => self.timeline(who).closed(ms),
            What::Departed { for_good: true } => self.timeline(who).for_good = Some(ms),
            What::Seen { conn, name, key, .. } => {
                let left = match name.as_str() {
                    "peer_left" => true,
                    "peer_joined" | "peer_returned" => false,
                    _ => return,
                };
                self.sights.entry((who, key)).or_default().push(Sight { ms, conn, left });
            }
            What::NodeLost { node } => {
                self.lost.entry(node).or_default().push(Span { from: ms, until: u64::MAX });
            }
            What::NodeBack { node } => {
                if let Some(last) = self.lost.get_mut(&node).and_then(|lost| lost.last_mut()) {
                    last.until = ms;
                }
            }
            What::FaultBegan { forgets, .. } => {
                self.disturbed.push(Span { from: ms, until: u64::MAX });
                self.forgets = forgets;
            }
            What::Recovered => {
                let Some(last) = self.disturbed.last_mut() else { return };
                last.until = ms;
                if self.forgets {
                    self.forgot.push(*last);
                }
            }
            _ => {}
        }
    }

    fn timeline(&mut self, who: u32) -> &mut Timeline {
        self.timelines.entry(who).or_default()
    }

    /// Whether it left for good before what was accepted then had to be there: that may stay
    /// where it is.
    pub(super) fn left_soon_after(&self, who: u32, ms: u64) -> bool {
        let Some(timeline) = self.timelines.get(&who) else { return true };
        timeline.for_good.is_some_and(|left| left < ms + DELIVERED_MS)
    }

    /// Whether its presence may have ended in the run.
    pub(super) fn may_have_left(&self, who: u32) -> bool {
        let absences = self.absences.get(&who).into_iter().flatten();
        absences.into_iter().any(|absence| self.may_be_told(absence))
    }

    pub(super) fn judge(&mut self, clients: &Clients, grace: u64, verdict: &mut Verdict) {
        self.grace = grace;
        for last in self.disturbed.iter_mut().filter(|span| span.until == u64::MAX) {
            last.until = self.end;
        }
        self.absences = self
            .timelines
            .iter()
            .map(|(who, timeline)| (*who, timeline.absences(&self.lost, &self.disturbed)))
            .collect();
        for (who, absences) in &self.absences {
            for absence in absences {
                if self.may_be_told(absence) {
                    verdict.departures += u64::from(self.must_be_told(absence).is_some());
                } else {
                    same_presence(*who, absence, verdict);
                }
            }
        }
        for (watcher, seer) in clients {
            for (subject, seen) in clients {
                // A member's own connection is no news to its siblings.
                let concerns = seen.kind == Kind::Session || seen.member != seer.member;
                if watcher != subject && seer.mesh == seen.mesh && concerns {
                    let sights = self.sights.get(&(*watcher, seen.key.clone()));
                    self.watch(*watcher, *subject, sights.map_or(&[], Vec::as_slice), verdict);
                }
            }
        }
    }

    /// What one client saw of another.
    fn watch(&self, watcher: u32, subject: u32, sights: &[Sight], verdict: &mut Verdict) {
        let absences = self.absences.get(&subject).map_or(&[][..], Vec::as_slice);
        let mut told = vec![(false, false); absences.len()];
        for (at, sight) in sights.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| sights.get(at));
            if before.is_some_and(|was| was.conn == sight.conn && was.left == sight.left) {
                let text = format!("client {watcher} was told twice: {}", tale(subject, sight));
                verdict.add(Breach::Repeated, sight.ms, text);
                continue;
            }
            let reason = absences.iter().position(|absence| self.explains(absence, sight));
            let first = self.timelines.get(&subject).and_then(Timeline::first_hello);
            match reason {
                Some(at) if sight.left => told[at].0 = true,
                Some(at) => told[at].1 = true,
                None if !sight.left && first.is_some_and(|ms| sight.ms < ms + PROMISE_MS) => {}
                None => {
                    let text = format!("client {watcher} was told: {}", tale(subject, sight));
                    let breach = if sight.left { Breach::WrongLeft } else { Breach::WrongJoined };
                    verdict.add(breach, sight.ms, text);
                    continue;
                }
            }
            verdict.events += 1;
        }
        for (absence, told) in absences.iter().zip(told) {
            self.demand(watcher, subject, absence, sights, told, verdict);
        }
    }

    /// What a watcher that was there all the time must have been told.
    fn demand(
        &self,
        watcher: u32,
        subject: u32,
        absence: &Absence,
        sights: &[Sight],
        told: (bool, bool),
        verdict: &mut Verdict,
    ) {
        let Some(deadline) = self.must_be_told(absence) else { return };
        let Some(timeline) = self.timelines.get(&watcher) else { return };
        let over = absence.latest + self.grace;
        let first_after = |left: bool, ms: u64| {
            sights.iter().find(|sight| sight.left == left && sight.ms + SLACK_MS > ms)
        };
        if timeline.stays(Span { from: absence.earliest, until: deadline }) {
            if told.0 {
                verdict.departures_seen += 1;
                self.late(over, first_after(true, absence.earliest), verdict);
            } else {
                let text = format!(
                    "client {watcher} was not told that client {subject} left at {} ms",
                    absence.latest
                );
                verdict.add(Breach::UnseenLeft, over, text);
            }
        }
        let Some(back) = absence.back else { return };
        let until = self.by(back, PROMISE_MS + SLACK_MS);
        if until < self.end && timeline.stays(Span { from: absence.earliest, until }) {
            if told.1 {
                self.late(back, first_after(false, back), verdict);
            } else {
                let text = format!(
                    "client {watcher} was not told that client {subject} came at {back} ms"
                );
                verdict.add(Breach::UnseenJoined, back, text);
            }
        }
    }

    fn late(&self, due: u64, sight: Option<&Sight>, verdict: &mut Verdict) {
        let Some(sight) = sight else { return };
        let late = sight.ms.saturating_sub(due);
        let excused = super::span::covered(&self.disturbed, Span { from: due, until: sight.ms });
        let longest = &mut verdict.longest_wrong_presence_ms;
        *longest = (*longest).max(late);
        let longest = &mut verdict.longest_wrong_presence_net_ms;
        *longest = (*longest).max(late.saturating_sub(excused));
    }

    /// Whether an absence is a reason for this event.
    fn explains(&self, absence: &Absence, sight: &Sight) -> bool {
        if !self.may_be_told(absence) {
            return false;
        }
        let back = absence.back.unwrap_or(self.end);
        let (from, until) = if sight.left {
            // If graces were forgotten, it may be seen leaving at any time.
            let grace = if self.forgotten(absence) { 0 } else { self.grace };
            ((absence.earliest + grace).saturating_sub(EARLY_MS), back)
        } else {
            (absence.hello.unwrap_or(back).saturating_sub(EARLY_MS), back)
        };
        let until = self.by(until, PROMISE_MS + SLACK_MS);
        (from..=until).contains(&sight.ms)
    }

    /// Whether others may be told of it at all.
    fn may_be_told(&self, absence: &Absence) -> bool {
        let longest = absence.back.unwrap_or(u64::MAX).saturating_sub(absence.earliest);
        longest + EARLY_MS >= self.grace || self.forgotten(absence)
    }

    /// By when others must have been told, if it lasted so long that they must.
    fn must_be_told(&self, absence: &Absence) -> Option<u64> {
        let deadline = self.by(absence.latest, self.grace + PROMISE_MS + SLACK_MS);
        (deadline < absence.back.unwrap_or(self.end)).then_some(deadline)
    }

    fn forgotten(&self, absence: &Absence) -> bool {
        let span = Span { from: absence.earliest, until: absence.back.unwrap_or(self.end) };
        self.forgot.iter().any(|forgot| forgot.overlaps(span))
    }

    fn by(&self, from: u64, allowed: u64) -> u64 {
        deadline(&self.disturbed, from, allowed)
    }
}

fn same_presence(who: u32, absence: &Absence, verdict: &mut Verdict) {
    let Some(back) = absence.back else { return };
    verdict.returns_in_grace += 1;
    if absence.presence.0 != absence.presence.1 {
        let text = format!(
            "client {who} was away for {} ms at most and got another presence",
            back - absence.earliest
        );
        verdict.add(Breach::NewPresence, back, text);
    }
}

fn tale(subject: u32, sight: &Sight) -> String {
    format!("client {subject} has {}", if sight.left { "left" } else { "come" })
}
