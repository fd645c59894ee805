//! Heartbeats, and what they tell of the others.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fred::interfaces::ClientLike;
use fred::types::Value;
use fred::types::scripts::Script;
use serde::{Deserialize, Serialize};

use super::seal::{Credentials, Kind, Sealer, SecretName};
use super::{Dropped, Error, Event, Keys, Redis, Shared, client, keys};
use crate::membership::{Ms, Seen, Sighting, State};
use crate::node::NodeKey;

/// The script that keeps the table.
pub(super) const SCRIPT: &str = include_str!("nodes.lua");
const UNSEALED: &str = include_str!("unsealed.lua");
/// How long a dead node is remembered, so that its time of loss is known to whoever starts later.
const MEMORY_MS: Ms = 3_600_000;
/// Rows of which it is remembered how often they have spoken.
const REMEMBERED: usize = 4096;

const HEARTBEAT: &str = "take a heartbeat";
const LOOK: &str = "list the nodes";

/// What a node says of itself, sealed in its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    state: String,
    weight: u8,
    /// It stands where the stores are.
    home: bool,
    /// How many heartbeats of its process there were before.
    beat: u64,
    /// The secrets that it knows, by their names.
    secrets: Vec<SecretName>,
    /// What it tells people.
    info: Vec<u8>,
}

impl Said {
    fn seal(&self, sealer: &Sealer, by: &NodeKey) -> Bytes {
        // Texts and numbers always serialize.
        let said = rmp_serde::to_vec_named(self).unwrap_or_default();
        let row = sealer.seal(Kind::Node, by.to_string().as_bytes(), |plain| plain.extend(said));
        row.unwrap_or_default().into()
    }

    fn open(sealer: &Sealer, by: &NodeKey, row: &[u8]) -> Result<Self, Dropped> {
        let said = sealer.open(Kind::Node, by.to_string().as_bytes(), row)?;
        rmp_serde::from_slice(&said).map_err(|_| Dropped::Malformed)
    }
}

impl Redis {
    /// Says that this node lives, with what it says of itself (`info` is opaque; `home`: it stands
    /// where the stores are), and tells who else does. If a later process of its name lives, nothing is said, and the sighting tells so.
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
        home: bool,
        info: &[u8],
    ) -> Result<Sighting, Error> {
        let shared = &self.0;
        let beat = shared.beats.fetch_add(1, Ordering::Relaxed);
        if beat == 0 && shared.sealer.has_previous() {
            // Nobody has been seen yet: which secret the others know is looked up first.
            let answer = shared.table("look", Bytes::new(), LOOK).await?;
            shared.open(answer.rows, shared.now());
        }
        let (secrets, info) = (shared.sealer.names(), info.to_vec());
        let said = Said { state: name(state).to_owned(), weight, home, beat, secrets, info };
        let asked = shared.now();
        let mut answer =
            shared.table("beat", said.seal(&shared.sealer, &shared.me), HEARTBEAT).await?;
        let mut superseded = false;
        if let Some((incarnation, sealed)) = answer.rival.take() {
            let rival = NodeKey { id: shared.me.id.clone(), incarnation };
            match Said::open(&shared.sealer, &rival, &sealed) {
                Ok(said) => superseded = shared.freshness.is_news(&rival, said.beat),
                Err(why) => shared.refuse(why, 1),
            }
            if !superseded {
                let said = said.seal(&shared.sealer, &shared.me);
                answer = shared.table("insist", said, HEARTBEAT).await?;
            }
        }
        let steady_ms = shared.continuity.note(&answer, asked, shared.now());
        let nodes = shared.open(answer.rows, asked).into_iter().map(|(seen, _)| seen).collect();
        Ok(Sighting { nodes, table_age_ms: answer.table_age_ms.min(steady_ms), superseded })
    }

    /// Removes this process from the table: it has left.
    ///
    /// # Errors
    ///
    /// Redis did not answer: the others will notice the silence.
    pub async fn leave(&self) -> Result<(), Error> {
        self.0.table("leave", Bytes::new(), "remove this node").await.map(|_| ())
    }

    /// Another process that has this node's name, if one lives: it speaks, or somebody listens on
    /// its channel.
    ///
    /// # Errors
    ///
    /// Redis did not answer.
    pub async fn namesake(&self) -> Result<Option<NodeKey>, Error> {
        let shared = &self.0;
        let answer = shared.table("look", Bytes::new(), LOOK).await?;
        let mut rows = shared.open(answer.rows, shared.now()).into_iter().map(|(seen, _)| seen);
        let lives =
            |seen: &Seen| seen.age_ms <= shared.timing.ttl_ms && seen.listens != Some(false);
        let other = |seen: &Seen| seen.key.id == shared.me.id && seen.key != shared.me;
        Ok(rows.find(|seen| other(seen) && lives(seen)).map(|seen| seen.key))
    }

    /// Nodes on this Redis that live and seal nothing: of the version before this one. They and we
    /// would not hear each other, and each would own every mesh.
    ///
    /// # Errors
    ///
    /// Redis did not answer.
    pub async fn unsealed_nodes(&self) -> Result<u64, Error> {
        let (shared, script) = (&self.0, Script::from_lua(UNSEALED));
        let args = vec![Value::from(shared.timing.ttl_ms.to_string())];
        let answer = shared.script(&script, keys::UNSEALED_NODES, args, LOOK).await?;
        answer.first().and_then(Value::as_u64).ok_or(Error::Answer(LOOK))
    }

    /// What came through Redis and none of this cluster's nodes has sealed.
    pub fn refused(&self) -> u64 {
        self.0.counters.refused()
    }
}

impl Shared {
    async fn table(&self, action: &str, said: Bytes, what: &'static str) -> Result<Answer, Error> {
        let begin = (!self.commands.is_clustered()).then_some(&self.keys);
        let args = args(action, &self.me, self.timing.ttl_ms, said, begin);
        let answer = self.script(&self.table, &self.keys.nodes, args, what).await?;
        Answer::parse(answer).ok_or(Error::Answer(what))
    }

    /// The rows that nodes of this cluster have sealed, with what they tell people. From what they
    /// say of the secrets that they know follows which one is used.
    fn open(&self, rows: Vec<Row>, asked: Ms) -> Vec<(Seen, Bytes)> {
        let (mut nodes, mut secrets) = (Vec::new(), Vec::new());
        for row in rows {
            match Said::open(&self.sealer, &row.key, &row.sealed) {
                Ok(said) => {
                    let (age_ms, replayed) =
                        self.freshness.age(&row.key, said.beat, row.age_ms, asked);
                    if replayed {
                        self.refuse(Dropped::Replayed, 1);
                    }
                    if age_ms <= self.timing.ttl_ms && row.key != self.me {
                        secrets.push(said.secrets);
                    }
                    let seen = Seen {
                        state: state(&said.state),
                        weight: said.weight,
                        home: said.home,
                        key: row.key,
                        age_ms,
                        listens: row.listens,
                    };
                    nodes.push((seen, said.info.into()));
                }
                Err(why) => self.refuse(why, 1),
            }
        }
        if self.sealer.known_by_others(secrets.iter().map(Vec::as_slice)) {
            tracing::info!("frames and rows are sealed with the other one of the two secrets now");
            // What this node says of itself must be read by those who know only that one.
            self.tell(Event::Hinted);
        }
        nodes
    }
}

fn args(action: &str, me: &NodeKey, ttl_ms: Ms, said: Bytes, count: Option<&Keys>) -> Vec<Value> {
    let incarnation = keys::hex(me.incarnation);
    let texts = [action, me.id.as_str(), &incarnation, &ttl_ms.to_string(), &MEMORY_MS.to_string()];
    let mut args: Vec<_> = texts.into_iter().map(Value::from).collect();
    args.push(said.into());
    if let Some(keys) = count {
        args.extend([keys.channel_begin.as_str().into(), keys::CHANNEL_MIDDLE.into()]);
    }
    args
}

/// The nodes of a cluster, for those who only look.
#[derive(Debug, Default)]
pub struct Table {
    /// Those in the table, dead ones included, each with what it says of itself beside.
    pub nodes: Vec<(Seen, Bytes)>,
    /// Rows that do not open with these credentials.
    pub unreadable: usize,
}

/// Looks at the table, over a connection of its own.
///
/// # Errors
///
/// The URL is none, or Redis did not answer.
pub async fn nodes(url: &str, credentials: &Credentials<'_>) -> Result<Table, Error> {
    let sealer = Sealer::new(credentials).map_err(|_| Error::Random)?;
    let keys = Keys::of(credentials.cluster);
    let client = client::new(url, client::EVENTS)?;
    client::connect(&client).await?;
    let nobody = NodeKey { id: "".into(), incarnation: 0 };
    let args = args("look", &nobody, 0, Bytes::new(), (!client.is_clustered()).then_some(&keys));
    let answer = client::run(&client, &Script::from_lua(SCRIPT), &keys.nodes, args, LOOK).await;
    let _ = client.quit().await;
    let mut table = Table::default();
    for row in Answer::parse(answer?).ok_or(Error::Answer(LOOK))?.rows {
        let Ok(said) = Said::open(&sealer, &row.key, &row.sealed) else {
            table.unreadable += 1;
            continue;
        };
        let Row { key, age_ms, listens, .. } = row;
        let (state, weight, home) = (state(&said.state), said.weight, said.home);
        let seen = Seen { key, state, weight, home, age_ms, listens };
        table.nodes.push((seen, said.info.into()));
    }
    Ok(table)
}

/// What the script answers.
struct Answer {
    table_age_ms: Ms,
    now: Ms,
    /// This process's heartbeat before.
    before: Option<Ms>,
    /// The row of a later process of this name, if it says so: its incarnation, and what is sealed.
    rival: Option<(u64, Bytes)>,
    rows: Vec<Row>,
}

/// A row of the table. All but what is sealed may be anybody's.
struct Row {
    key: NodeKey,
    age_ms: Ms,
    listens: Option<bool>,
    sealed: Bytes,
}

impl Answer {
    fn parse(answer: Vec<Value>) -> Option<Self> {
        let mut parts = answer.into_iter();
        let table_age_ms = parts.next()?.as_u64()?;
        let now = parts.next()?.as_u64()?;
        let before = parts.next()?.as_i64().and_then(|before| Ms::try_from(before).ok());
        let rival = rival(parts.next()?);
        // One that makes no sense is nobody's.
        let rows = parts.filter_map(row).collect();
        Some(Self { table_age_ms, now, before, rival, rows })
    }
}

fn rival(entry: Value) -> Option<(u64, Bytes)> {
    let mut parts = entry.into_array().into_iter();
    let incarnation = keys::unhex(parts.next()?.as_str()?.as_ref())?;
    Some((incarnation, parts.next()?.into_bytes()?))
}

fn row(entry: Value) -> Option<Row> {
    let mut parts = entry.into_array().into_iter();
    let id = parts.next()?.into_string()?;
    let incarnation = keys::unhex(parts.next()?.as_str()?.as_ref())?;
    let age_ms = parts.next()?.as_u64()?;
    let listens = parts.next()?.as_i64().filter(|count| *count >= 0).map(|count| count > 0);
    let sealed = parts.next()?.into_bytes()?;
    Some(Row { key: NodeKey { id: id.into(), incarnation }, age_ms, listens, sealed })
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

/// How often each process has spoken, and since when it has not spoken again: the time that stands in
/// a row is in clear, and whoever can write to Redis can put an old row back with a new time.
#[derive(Debug, Default)]
pub(super) struct Freshness(Mutex<HashMap<NodeKey, Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    beat: u64,
    /// When that was first seen, by our clock.
    since: Ms,
}

impl Freshness {
    /// Time since a process spoke whose row has this number of heartbeats and is `claimed` to be so
    /// old, at `now`; and whether the row is one that its process has replaced since.
    fn age(&self, node: &NodeKey, beat: u64, claimed: Ms, now: Ms) -> (Ms, bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(heard) = known.get_mut(node) else {
            if known.len() >= REMEMBERED
                && let Some(oldest) = known.iter().min_by_key(|(_, heard)| heard.since)
            {
                let oldest = oldest.0.clone();
                known.remove(&oldest);
            }
            known.insert(node.clone(), Heard { beat, since: now });
            return (claimed, false);
        };
        if beat > heard.beat {
            let before = std::mem::replace(heard, Heard { beat, since: now });
            return (claimed.min(now.saturating_sub(before.since)), false);
        }
        (claimed.max(now.saturating_sub(heard.since)), beat < heard.beat)
    }

    /// Whether a process may have spoken this often just now: it has not spoken more often.
    fn is_news(&self, node: &NodeKey, beat: u64) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(node).is_none_or(|heard| beat > heard.beat)
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
        Answer { table_age_ms: 0, now, before, rival: None, rows: Vec::new() }
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

    /// A row that is put back with a new time does not go on counting.
    #[test]
    fn a_row_that_does_not_go_on_is_silence_whatever_time_stands_in_it() {
        let (freshness, node) = (Freshness::default(), NodeKey { id: "a".into(), incarnation: 1 });
        let age = |beat, claimed, now| freshness.age(&node, beat, claimed, now);
        assert_eq!(age(7, 300, 1_000), (300, false), "nothing else is known");
        assert_eq!(age(7, 0, 1_500), (500, false));
        assert_eq!(age(8, 90_000, 2_000), (1_000, false), "no older than what was seen before");
        assert_eq!(age(7, 0, 2_500), (500, true), "replayed");
        assert_eq!(age(8, 0, 6_000), (4_000, false));
        assert!(freshness.is_news(&node, 9) && !freshness.is_news(&node, 8));
    }

    #[test]
    fn states_keep_their_names_and_a_strange_one_gets_nothing() {
        for known in [State::Serving, State::Draining, State::StoreBlind] {
            assert_eq!(state(name(known)), known);
        }
        assert_eq!(state("meditating"), State::Draining);
    }
}
