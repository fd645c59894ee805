//! Mistakes planted between the rules and what carries them: what goes in is altered on its way, or
//! what comes out.

use std::sync::Arc;

use broker::mesh::Limits;
use broker::mesh::io::{Command, ConnId, Effect, Input};
use broker::model::{Lane, MeshCommit, Outcome, Write};
use protocol::client::Status;
use serde_json::Value;

use crate::faults::Planted;
use crate::world::World;

/// Long enough to be for ever.
const EVER_MS: u64 = u64::MAX / 4;

impl World {
    pub(crate) fn plants(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub(crate) fn forge_limits(&self, mut limits: Limits) -> Limits {
        match self.planted {
            Some(Planted::GraceForever) => limits.grace_ms = EVER_MS,
            Some(Planted::WorkingForever) => {
                (limits.status.hook_fresh_ms, limits.status.working_ms) = (EVER_MS, EVER_MS);
            }
            Some(Planted::CooldownForgotten) => limits.kick_cooldown_ms = 0,
            _ => {}
        }
        limits
    }

    pub(crate) fn forge_input(&mut self, input: Input) -> Input {
        match input {
            Input::Command(mut item) if self.plants(Planted::BriefAnnounced) => {
                if let Command::Attach(attach) = &*item.command {
                    let mut attach = attach.clone();
                    attach.profile.channel = None;
                    item.command = Arc::new(Command::Attach(attach));
                }
                Input::Command(item)
            }
            Input::Committed(outcome) => {
                if !matches!(outcome, Outcome::Known(_)) {
                    self.sealed = None;
                }
                Input::Committed(outcome)
            }
            other => other,
        }
    }

    pub(crate) fn forge_effects(&mut self, process: u64, effects: &mut Vec<Effect>) {
        match self.planted {
            Some(Planted::PushesSwapped) => swap_pushes(effects),
            Some(Planted::BusyDisturbed) => self.disturb_busy(process, effects),
            Some(Planted::GrantsNotRechecked) => self.push_withheld(process, effects),
            Some(Planted::HoleInChain) => {
                commits(effects).for_each(|commit| self.chain_to_unwritten(commit));
            }
            Some(Planted::SiblingsOverwritten) => commits(effects).for_each(save_all),
            _ => {}
        }
    }

    fn disturb_busy(&mut self, process: u64, effects: &mut Vec<Effect>) {
        let normal = effects.iter().find_map(|effect| match effect {
            Effect::Push { envelope, .. } if envelope.lane() == Lane::Normal => Some(envelope),
            _ => None,
        });
        let Some(envelope) = normal.cloned() else { return };
        let peers = self.peers(process, effects);
        let busy = peers.iter().find(|peer| peer.status != Status::Idle);
        let client = busy.and_then(|p| self.clients.iter().find(|c| c.session_id == p.session_id));
        let conn = client.and_then(|client| self.conn(process, client.socket?));
        let push = conn.map(|conn| Effect::Push { conn, envelope, hide_member: false });
        effects.extend(push);
    }

    /// Confirmed without having been received: it was kept from its recipient.
    fn push_withheld(&mut self, process: u64, effects: &mut Vec<Effect>) {
        let mut pushes = Vec::new();
        for write in commits(effects).flat_map(|c| &c.units).flat_map(|unit| &unit.0) {
            let Write::Confirm(confirm) = write else { continue };
            let recipient = &confirm.queue.recipient;
            let waits = (confirm.queue.clone(), confirm.seq);
            // Others may be busy.
            let urgent = confirm.queue.lane == Lane::Urgent;
            if !urgent || !self.store.now.deliveries.contains(&waits) {
                continue;
            }
            let row = self.store.now.envelopes.get(&confirm.seq);
            if let Some(row) = row.filter(|_| !self.check.has(recipient, confirm.message.as_str()))
                && let Some(client) = self.clients.iter().find(|client| client.owns(recipient))
                && let Some(conn) = client.socket.and_then(|socket| self.conn(process, socket))
            {
                let envelope = row.envelope.clone();
                pushes.push(Effect::Push { conn, envelope, hide_member: false });
            }
        }
        effects.extend(pushes);
    }

    fn conn(&self, process: u64, socket: u64) -> Option<ConnId> {
        let open = &self.processes.get(&process)?.open;
        open.iter().find(|(_, other)| **other == socket).map(|(conn, _)| *conn)
    }

    fn chain_to_unwritten(&mut self, commit: &mut MeshCommit) {
        let mut entries =
            commit.units.iter_mut().flat_map(|unit| &mut unit.0).filter_map(|write| match write {
                Write::Audit(row) => Some(row),
                _ => None,
            });
        let Some(first) = entries.next() else { return };
        if let Some(hash) = self.sealed.take() {
            first.prev_hash = hash;
        }
        let last = entries.last().map_or(&first.hash, |row| &row.hash);
        self.sealed = Some(last.clone());
    }
}

fn commits(effects: &mut [Effect]) -> impl Iterator<Item = &mut MeshCommit> {
    effects.iter_mut().filter_map(|effect| match effect {
        Effect::Commit(commit) => Some(commit),
        _ => None,
    })
}

fn save_all(commit: &mut MeshCommit) {
    for unit in &mut commit.units {
        let row = unit.0.iter().find_map(|write| match write {
            Write::SaveLease(row) => serde_json::from_str::<Value>(&row.body).ok(),
            _ => None,
        });
        for write in &mut unit.0 {
            if let (Write::SaveState(change), Some(row)) = (write, &row) {
                change.groups = serde_json::from_value(row["groups"].clone()).ok();
            }
        }
    }
}

fn swap_pushes(effects: &mut [Effect]) {
    let mut pushes = effects.iter_mut().filter_map(|effect| match effect {
        Effect::Push { conn, envelope, .. } => Some((*conn, envelope)),
        _ => None,
    });
    let mut before = pushes.next();
    for (conn, envelope) in pushes {
        if let Some((last, earlier)) = before
            && last == conn
            && earlier.lane() == envelope.lane()
        {
            std::mem::swap(earlier, envelope);
        }
        before = Some((conn, envelope));
    }
}
