//! Mistakes planted between the rules and what carries them: what goes in is altered on its way, or
//! what comes out.

mod link;

use std::sync::Arc;

use broker::mesh::Limits;
use broker::mesh::io::{Command, ConnId, Input, ToEdge};
use broker::model::{Envelope, Lane, MeshCommit, Outcome, Write};
use broker::seat::item::{Down, FromOwner, Item};
use broker::seat::{SeatEffect, SeatInput, Sight};
use protocol::client::Status;
use router::membership::View;
use serde_json::Value;

pub(crate) use link::Links;

use crate::faults::Planted;
use crate::world::{Let, World};

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
            Some(Planted::CooldownForgotten) => limits.kick_session_ms = 0,
            Some(Planted::QueueBytesIgnored) => {
                (limits.mesh_queue_bytes, limits.recipient_queue_bytes) = (EVER_MS, EVER_MS);
            }
            _ => {}
        }
        limits
    }

    pub(crate) fn forge_input(&mut self, input: SeatInput) -> SeatInput {
        match input {
            SeatInput::Local(Input::Command(mut item)) if self.plants(Planted::BriefAnnounced) => {
                if let Command::Attach(attach) = &*item.command {
                    let mut attach = attach.clone();
                    attach.profile.channel = None;
                    item.command = Arc::new(Command::Attach(attach));
                }
                SeatInput::Local(Input::Command(item))
            }
            SeatInput::Local(Input::Command(mut item)) if self.plants(Planted::SecondHelloKept) => {
                if let Command::Detach { clean, .. } = &*item.command {
                    item.command = Arc::new(Command::Detach { clean: *clean, next: None });
                }
                SeatInput::Local(Input::Command(item))
            }
            SeatInput::Store(term, Input::Committed(outcome)) => {
                if !matches!(outcome, Outcome::Known(_)) {
                    self.sealed = None;
                }
                SeatInput::Store(term, Input::Committed(outcome))
            }
            other => other,
        }
    }

    /// What a node sees while it takes this in.
    pub(crate) fn forge_sight(&self, sight: &Sight, input: &SeatInput) -> Sight {
        let activated = matches!(input, SeatInput::Store(_, Input::Activated { .. }));
        if activated && self.plants(Planted::ExpiredUnannounced) {
            return Sight { view: View::alone(sight.view.me().clone()), ..sight.clone() };
        }
        sight.clone()
    }

    /// Answers what is to leave beside the effects.
    pub(crate) fn forge_effects(&mut self, process: u64, effects: &mut [SeatEffect]) -> Vec<Let> {
        match self.planted {
            Some(Planted::PushesSwapped) => swap_pushes(effects),
            Some(Planted::BusyDisturbed) => return self.disturb_busy(process, effects),
            Some(Planted::GrantsNotRechecked) => return self.push_withheld(effects),
            Some(Planted::HoleInChain) => {
                commits(effects).for_each(|commit| self.chain_to_unwritten(commit));
            }
            Some(Planted::SiblingsOverwritten) => commits(effects).for_each(save_all),
            _ => {}
        }
        Vec::new()
    }

    fn disturb_busy(&mut self, process: u64, effects: &mut [SeatEffect]) -> Vec<Let> {
        let normal = pushes(effects).find(|(_, envelope)| envelope.lane() == Lane::Normal);
        let normal = normal.map(|(_, envelope)| envelope.clone());
        let Some(envelope) = normal else { return Vec::new() };
        let peers = self.peers(process);
        let busy = peers.iter().find(|peer| peer.status != Status::Idle);
        let client = busy.and_then(|p| self.clients.iter().find(|c| c.session_id == p.session_id));
        let conn = client.and_then(|client| self.conn(client.socket?));
        conn.map(|conn| push(conn, envelope)).into_iter().collect()
    }

    /// Confirmed without having been received: it was kept from its recipient.
    fn push_withheld(&mut self, effects: &mut [SeatEffect]) -> Vec<Let> {
        let mut all = Vec::new();
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
                && let Some(conn) = client.socket.and_then(|socket| self.conn(socket))
            {
                all.push(push(conn, row.envelope.clone()));
            }
        }
        all
    }

    fn conn(&self, socket: u64) -> Option<ConnId> {
        let open = self.processes.values().flat_map(|process| &process.open);
        open.into_iter().find(|(_, other)| **other == socket).map(|(conn, _)| *conn)
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

fn commits(effects: &mut [SeatEffect]) -> impl Iterator<Item = &mut MeshCommit> {
    effects.iter_mut().filter_map(|effect| match effect {
        SeatEffect::Commit { commit, .. } => Some(commit),
        _ => None,
    })
}

fn push(conn: ConnId, envelope: Arc<Envelope>) -> Let {
    Let { conns: vec![conn], item: ToEdge::Push { envelope, hide_member: false } }
}

/// What leaves for one connection each, here or elsewhere.
fn pushes(effects: &mut [SeatEffect]) -> impl Iterator<Item = (ConnId, &mut Arc<Envelope>)> {
    effects.iter_mut().filter_map(|effect| match effect {
        SeatEffect::Tell(conns, ToEdge::Push { envelope, .. })
        | SeatEffect::Say(
            _,
            Item::FromOwner(FromOwner::Down {
                down: Down::To(conns, ToEdge::Push { envelope, .. }),
                ..
            }),
        ) => Some((*conns.first()?, envelope)),
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

fn swap_pushes(effects: &mut [SeatEffect]) {
    let mut pushes = pushes(effects);
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
