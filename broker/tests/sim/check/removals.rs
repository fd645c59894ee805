//! Whoever is kicked stays out for a while, whoever is banned until it is let in again, and nobody
//! but a moderator has a say in it.

use std::collections::{BTreeMap, BTreeSet};

use broker::model::{Unit, Write};
use protocol::{MemberId, PresenceId};

use super::leases::Leases;
use crate::store::Durable;
use crate::world::COOLDOWN_MS;

/// What is under way when a ban lands: its answer, and a step of the rules.
const PUSH_SLACK_MS: u64 = 20;

/// A moderation verb, as an edge passed it on.
#[derive(Clone)]
struct Command {
    caller: MemberId,
    kicks: bool,
    at: u64,
}

#[derive(Clone, Default)]
pub(super) struct Removals {
    /// Banned by command, since when that is durable.
    banned: BTreeMap<MemberId, u64>,
    /// Presence keys that were kicked, and until when at least they stay out, whoever owns the mesh.
    kicked: BTreeMap<String, u64>,
    /// Removed beside the broker, since when.
    beside: BTreeMap<MemberId, u64>,
    archived: Option<u64>,
    commands: BTreeMap<String, Command>,
    /// Names of those that each executed command ended.
    done: BTreeSet<String>,
}

impl Removals {
    pub(super) fn commanded(&mut self, now: u64, key: String, caller: MemberId, kicks: bool) {
        self.commands.entry(key).or_insert(Command { caller, kicks, at: now });
    }

    /// A moderator was told whom it ended.
    pub(super) fn answered(&self, names: &[&str]) -> Result<(), String> {
        if names.is_empty() || self.done.contains(&names.join(",")) {
            return Ok(());
        }
        Err(format!("{names:?} are said to have been ended, by no command"))
    }

    /// A moderation command has landed.
    pub(super) fn landed(
        &mut self,
        now: u64,
        unit: &Unit,
        leases: &Leases,
        settled: impl Fn(&MemberId) -> bool,
        store: &Durable,
    ) -> Result<(), String> {
        let key = unit.0.iter().find_map(|write| match write {
            Write::Done { command, .. } => Some(command),
            _ => None,
        });
        let Some(key) = key else { return Ok(()) };
        let command = self.commands.get(key).ok_or_else(|| format!("{key} was never asked"))?;
        if !store.members[&command.caller].may_moderate() && settled(&command.caller) {
            return Err(format!("{} is no moderator and was obeyed: {unit:?}", command.caller));
        }
        let ended = unit.0.iter().filter_map(|write| match write {
            Write::DropLease(presence) => leases.all.get(presence),
            _ => None,
        });
        let ended: Vec<_> = ended.collect();
        let names: Vec<_> = ended.iter().map(|body| body.name.as_str()).collect();
        self.done.insert(names.join(","));
        if command.kicks {
            if let Some(body) = ended.iter().find(|body| !body.proven) {
                return Err(format!("{} is no session and was kicked", body.name));
            }
            let until = command.at + COOLDOWN_MS;
            self.kicked.extend(ended.iter().map(|body| (body.key.clone(), until)));
        }
        for write in &unit.0 {
            match write {
                Write::Revoke { member, .. } => drop(self.banned.insert(member.clone(), now)),
                Write::Reinstate { member } => {
                    self.banned.remove(member);
                    self.beside.remove(member);
                }
                Write::LiftKicks(keys) => {
                    let session = |key: &str| serde_json::json!(["session", key]).to_string();
                    self.kicked.retain(|kicked, _| !keys.iter().any(|key| session(key) == *kicked));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A lease's row says that it is online.
    pub(super) fn came(
        &mut self,
        now: u64,
        presence: &PresenceId,
        leases: &Leases,
    ) -> Result<(), String> {
        let Some(body) = leases.all.get(presence) else { return Ok(()) };
        if self.banned.contains_key(&body.member) {
            return Err(format!("{} is banned and has {presence}", body.member));
        }
        match self.kicked.get(&body.key) {
            Some(until) if now < *until => {
                Err(format!("{} is back {} ms before it may", body.name, until - now))
            }
            _ => Ok(()),
        }
    }

    /// An envelope is pushed.
    pub(super) fn pushed(&self, now: u64, from: &MemberId, to: &MemberId) -> Result<(), String> {
        for member in [from, to] {
            if self.banned.get(member).is_some_and(|since| since + PUSH_SLACK_MS < now) {
                return Err(format!("{member} is banned, a push went from {from} to {to}"));
            }
        }
        Ok(())
    }

    pub(super) fn removed_beside(&mut self, now: u64, member: &MemberId) {
        self.beside.insert(member.clone(), now);
    }

    pub(super) fn reinstated(&mut self, member: &MemberId) {
        self.beside.remove(member);
    }

    pub(super) fn archived(&mut self, now: u64, archived: bool) {
        self.archived = archived.then_some(now);
    }

    /// Since when a member has no business here, by what others wrote.
    pub(super) fn out_since(&self, member: &MemberId) -> Option<u64> {
        let since = self.beside.get(member).into_iter().chain(&self.archived);
        since.min().copied()
    }

    pub(super) fn is_banned(&self, member: &MemberId) -> bool {
        self.banned.contains_key(member)
    }
}
