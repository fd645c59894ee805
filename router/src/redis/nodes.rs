//! Heartbeats, and what they tell of the others.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fred::interfaces::ClientLike;
use fred::types::Value;
use fred::types::scripts::Script;

use super::client;
use super::{Error, Redis, Shared, keys};
use crate::membership::{Ms, Seen, Sighting, State};
use crate::node::NodeKey;

/// The script that keeps the table.
pub(super) const SCRIPT: &str = include_str!("nodes.lua");
/// How long a dead node is remembered, so that its time of loss is known to whoever starts later.
const MEMORY_MS: Ms = 3_600_000;

impl Redis {
    /// Says that this node lives, with what it says of itself (`info` is opaque), and tells who
    /// else does. If a later process of its name lives, nothing is said, and the sighting tells so.
    ///
    /// Whoever takes the sighting for what was true when this was *called* is on the safe side. If
    /// Redis's clock has jumped since the last one, or the table is not as the last one left it, as
    /// may be when a replica or an old snapshot takes over, ages mean little: the table then counts
    /// as young.
    ///
    /// # Errors
    ///
    /// Redis did not answer; it may have heard us.
    pub async fn heartbeat(
        &self,
        state: State,
        weight: u8,
        info: &[u8],
    ) -> Result<Sighting, Error> {
        let shared = &self.0;
        let mut args = shared.args("beat");
        args.extend([
            name(state).into(),
            i64::from(weight).into(),
            Bytes::copy_from_slice(info).into(),
        ]);
        if !shared.commands.is_clustered() {
            args.extend([keys::CHANNEL_BEGIN.into(), keys::CHANNEL_MIDDLE.into()]);
        }
        let asked = shared.now();
        let answer = shared.script(&shared.table, keys::NODES, args, HEARTBEAT).await?;
        let answer = Answer::parse(answer).ok_or(Error::Answer(HEARTBEAT))?;
        let steady_ms = shared.continuity.note(&answer, asked, shared.now());
        Ok(Sighting {
            nodes: answer.nodes.into_iter().map(|(seen, _)| seen).collect(),
            table_age_ms: answer.table_age_ms.min(steady_ms),
            superseded: answer.superseded,
        })
    }

    /// Removes this process from the table: it has left.
    ///
    /// # Errors
    ///
    /// Redis did not answer: the others will notice the silence.
    pub async fn leave(&self) -> Result<(), Error> {
        let args = self.0.args("leave");
        self.0.script(&self.0.table, keys::NODES, args, "remove this node").await.map(|_| ())
    }
}

const HEARTBEAT: &str = "take a heartbeat";
const LOOK: &str = "list the nodes";

impl Shared {
    fn args(&self, action: &str) -> Vec<Value> {
        args(action, &self.me.id.to_string(), self.me.incarnation, self.timing.ttl_ms)
    }
}

fn args(action: &str, id: &str, incarnation: u64, ttl_ms: Ms) -> Vec<Value> {
    let texts = [action, id, &keys::hex(incarnation), &ttl_ms.to_string(), &MEMORY_MS.to_string()];
    texts.into_iter().map(Value::from).collect()
}

/// The nodes in the table, dead ones included, each with what it says of itself beside: for those
/// who only look, over a connection of their own.
///
/// # Errors
///
/// The URL is none, or Redis did not answer.
pub async fn nodes(url: &str) -> Result<Vec<(Seen, Bytes)>, Error> {
    let client = client::new(url, client::EVENTS)?;
    client::connect(&client).await?;
    let mut args = args("look", "", 0, 0);
    args.extend([Value::from(""), Value::from(""), Value::from("")]);
    if !client.is_clustered() {
        args.extend([keys::CHANNEL_BEGIN.into(), keys::CHANNEL_MIDDLE.into()]);
    }
    let answer = client::run(&client, &Script::from_lua(SCRIPT), keys::NODES, args, LOOK).await;
    let _ = client.quit().await;
    Ok(Answer::parse(answer?).ok_or(Error::Answer(LOOK))?.nodes)
}

/// What the script answers.
struct Answer {
    table_age_ms: Ms,
    superseded: bool,
    now: Ms,
    /// This process's heartbeat before.
    before: Option<Ms>,
    nodes: Vec<(Seen, Bytes)>,
}

impl Answer {
    fn parse(answer: Vec<Value>) -> Option<Self> {
        let mut parts = answer.into_iter();
        let table_age_ms = parts.next()?.as_u64()?;
        let superseded = parts.next()?.as_u64()? == 1;
        let now = parts.next()?.as_u64()?;
        let before = parts.next()?.as_i64().and_then(|before| Ms::try_from(before).ok());
        let nodes = parts.map(node).collect::<Option<_>>()?;
        Some(Self { table_age_ms, superseded, now, before, nodes })
    }
}

fn node(entry: Value) -> Option<(Seen, Bytes)> {
    let mut parts = entry.into_array().into_iter();
    let id = parts.next()?.into_string()?;
    let incarnation = keys::unhex(parts.next()?.as_str()?.as_ref())?;
    let state = state(parts.next()?.as_str()?.as_ref());
    let weight = u8::try_from(parts.next()?.as_u64()?).unwrap_or(u8::MAX);
    let age_ms = parts.next()?.as_u64()?;
    let listens = parts.next()?.as_i64().filter(|count| *count >= 0).map(|count| count > 0);
    let info = parts.next()?.into_bytes()?;
    let key = NodeKey { id: id.into(), incarnation };
    Some((Seen { key, state, weight, age_ms, listens }, info))
}

fn name(state: State) -> &'static str {
    match state {
        State::Serving => "serving",
        State::Draining => "draining",
        State::StoreBlind => "store-blind",
    }
}

/// A state that only later versions know is at least no reason to give its node any more meshes.
fn state(name: &str) -> State {
    match name {
        "serving" => State::Serving,
        "store-blind" => State::StoreBlind,
        _ => State::Draining,
    }
}

/// Whether Redis goes on from where it was: its clock as ours does, and its table as we left it. Both
/// clocks are read together at every sighting; the difference is known as exactly as the answer was
/// quick.
#[derive(Debug, Default)]
pub(super) struct Continuity(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Redis's clock.
    theirs: Ms,
    /// Between these is Redis's clock less ours.
    least: i128,
    most: i128,
    /// Since when Redis has gone on without a break, by our clock.
    since: Option<Ms>,
}

/// A jump smaller than this is none: clocks are slewed, and a heartbeat's age says no more anyway.
const JUMP_MS: i128 = 250;

impl Continuity {
    /// Takes in what was asked and answered at these times by our clock. Tells for how long Redis
    /// has gone on: for ever, if no break was seen.
    fn note(&self, answer: &Answer, asked: Ms, answered: Ms) -> Ms {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = answer.now;
        let difference = |ours: Ms| i128::from(theirs) - i128::from(ours);
        let mut reading =
            Reading { theirs, least: difference(answered), most: difference(asked), since: None };
        if let Some(last) = *known {
            let jumped = reading.least > last.most + JUMP_MS || reading.most + JUMP_MS < last.least;
            // One answer may overtake another, and then it is no news that the earlier knows less.
            let later = theirs >= last.theirs;
            let forgot = later && answer.before.is_none_or(|before| before < last.theirs);
            reading.since = if jumped || forgot { Some(answered) } else { last.since };
            if !later && !jumped {
                reading.theirs = last.theirs;
            }
        }
        *known = Some(reading);
        reading.since.map_or(Ms::MAX, |since| answered.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(now: Ms, before: Option<Ms>) -> Answer {
        Answer { table_age_ms: 0, superseded: false, now, before, nodes: Vec::new() }
    }

    #[test]
    fn a_clock_that_jumps_is_noticed_and_a_slow_answer_is_no_jump() {
        let continuity = Continuity::default();
        let note = |now, asked, answered| {
            let before = continuity.0.lock().unwrap().map(|last| last.theirs);
            continuity.note(&answer(now, before), asked, answered)
        };
        assert_eq!(note(1_000_000, 10, 12), Ms::MAX);
        assert_eq!(note(1_000_500, 510, 2_500), Ms::MAX);
        assert_eq!(note(1_002_900, 2_600, 2_910), Ms::MAX);
        assert_eq!(note(1_008_000, 3_000, 3_002), 0, "five seconds ahead");
        assert_eq!(note(1_008_500, 3_500, 3_502), 500);
        assert_eq!(note(1_004_000, 4_000, 4_002), 0, "and back");
        assert_eq!(note(1_004_500, 4_500, 4_502), 500);
    }

    #[test]
    fn a_table_that_lost_our_heartbeat_is_noticed_and_an_overtaken_answer_is_no_loss() {
        let continuity = Continuity::default();
        let note =
            |now, before, asked, answered| continuity.note(&answer(now, before), asked, answered);
        assert_eq!(note(1_000, None, 10, 11), Ms::MAX, "the first");
        assert_eq!(note(1_500, Some(1_000), 510, 511), Ms::MAX);
        assert_eq!(note(2_000, Some(1_700), 1_010, 1_011), Ms::MAX, "one was not answered");
        assert_eq!(note(1_900, Some(1_700), 910, 1_012), Ms::MAX, "overtaken by the last");
        assert_eq!(note(2_500, Some(1_000), 1_510, 1_511), 0, "an old snapshot");
        assert_eq!(note(3_000, None, 2_010, 2_011), 0, "nothing at all");
        assert_eq!(note(3_500, Some(3_000), 2_510, 2_511), 500);
    }

    #[test]
    fn states_keep_their_names_and_a_strange_one_gets_nothing() {
        for known in [State::Serving, State::Draining, State::StoreBlind] {
            assert_eq!(state(name(known)), known);
        }
        assert_eq!(state("meditating"), State::Draining);
    }
}
