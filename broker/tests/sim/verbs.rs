//! What peers ask and tell beside messages.

use serde_json::{Value, json};

use crate::client::{Kind, SESSION_GROUPS};
use crate::faults::Fault;
use crate::world::{ADMIN, OWNER, Up, World};

impl World {
    /// Something any peer may ask or tell.
    pub(crate) fn ask(&mut self, index: usize, socket: u64) {
        let id = format!("q-{}", self.fresh());
        let (fault, mut frame) = match self.rng.between(0, 60) {
            0..=5 => (Fault::ListPeers, json!({"type": "list_peers"})),
            6 | 7 => (Fault::MessageStatus, self.message_status(index)),
            8 => (Fault::AuditQuery, json!({"type": "audit_query", "limit": 5, "offset": 1})),
            9 => (Fault::AuditVerify, json!({"type": "audit_verify"})),
            10 => (Fault::ListBans, json!({"type": "list_bans"})),
            11..=22 => return self.tell_status(index, socket),
            23..=28 => {
                let summary = format!("summary-{id}");
                (Fault::SetSummary, json!({"type": "set_summary", "summary": summary}))
            }
            29..=33 => {
                let visible = !self.rng.one_in(4);
                self.clients[index].hidden |= !visible;
                (Fault::SetVisible, json!({"type": "set_visible", "visible": visible}))
            }
            34..=37 => {
                let field = *self.rng.pick(&["title", "bio"]);
                (Fault::SetProfile, json!({"type": "set_profile", field: id}))
            }
            38..=43 => return self.count(index, socket),
            44..=51 => return self.change_group(index, socket, &id),
            52 | 53 => return self.moderate(index, socket, &id),
            _ => return,
        };
        self.fire(fault);
        if matches!(fault, Fault::ListPeers | Fault::MessageStatus) {
            self.fire(Fault::Question);
        }
        frame["_reqId"] = json!(id);
        self.up(socket, Up::Text(frame.to_string()));
    }

    fn message_status(&mut self, index: usize) -> Value {
        let acked = self.clients[index].acked.values().next_back();
        let known = acked.map_or("00000001", |(message, _)| message.as_str());
        let length = *self.rng.pick(&[8, 20, 32]);
        let message: String = known.chars().take(length).collect();
        json!({"type": "message_status", "messageId": message})
    }

    fn tell_status(&mut self, index: usize, socket: u64) {
        self.fire(Fault::SetStatus);
        let status = *self.rng.pick(&["idle", "idle", "idle", "working", "working", "dnd"]);
        self.say_status(index, socket, status);
    }

    pub(crate) fn say_status(&mut self, index: usize, socket: u64, status: &str) {
        let (now, session) = (self.now, self.clients[index].session_id.clone());
        self.check.said(now, &session);
        let frame = json!({"type": "set_status", "status": status});
        self.up(socket, Up::Text(frame.to_string()));
    }

    /// Daemons count on from what they were told; whoever does not know says nothing.
    fn count(&mut self, index: usize, socket: u64) {
        let more = self.rng.between(1, 9);
        let Some(counted) = self.clients[index].counted.as_mut() else { return };
        *counted += more;
        let frame = json!({"type": "set_stats", "stats": {"messagesIn": *counted}});
        self.fire(Fault::SetStats);
        self.up(socket, Up::Text(frame.to_string()));
    }

    fn change_group(&mut self, index: usize, socket: u64, role: &str) {
        let own = self.clients[index].groups.clone();
        let frame = if !own.is_empty() && self.rng.one_in(3) {
            let name = *self.rng.pick(&own);
            self.fire(Fault::LeaveGroup);
            self.clients[index].groups.retain(|group| *group != name);
            self.check.left_group(self.clients[index].identity);
            json!({"type": "leave_group", "name": name})
        } else {
            let name = *self.rng.pick(&SESSION_GROUPS);
            self.fire(Fault::JoinGroup);
            self.clients[index].groups.retain(|group| *group != name);
            self.clients[index].groups.push(name);
            json!({"type": "join_group", "name": name, "role": role})
        };
        self.up(socket, Up::Text(frame.to_string()));
    }

    /// Whoever may not is refused.
    fn moderate(&mut self, index: usize, socket: u64, id: &str) {
        let other = self.rng.between(0, self.clients.len() as u64 - 1) as usize;
        let (member, name) = (self.clients[other].member, self.clients[other].name());
        let key = self.clients[other].member_keys.public_hex();
        let ends = *self.rng.pick(&["kick", "kick", "disconnect"]);
        let removed: Vec<_> = self.store.now.members.values().filter(|m| m.revoked).collect();
        let unban = removed.first().map(|member| member.display_name.clone());
        let mut frame = match (self.rng.between(0, 19), unban) {
            (0..=5, _) => json!({"type": ends, "target": name}),
            (6, _) => json!({"type": ends, "target": key}),
            (7, _) => json!({"type": ends, "target": key[..12]}),
            (8 | 9, _) => json!({"type": ends, "stale": 3_000}),
            (10, _) => json!({"type": ends, "all": true}),
            (11, _) => json!({"type": ends}),
            (12, None) => json!({"type": "ban", "target": format!("m{member}")}),
            (13, None) => json!({"type": "ban", "target": key[..12]}),
            (14, None) => json!({"type": "ban"}),
            (_, Some(name)) => json!({"type": "unban", "target": name}),
            (15, _) => json!({"type": "unban", "target": "m3"}),
            (16 | 17, _) => json!({"type": "unban", "target": name}),
            _ => json!({"type": ends, "target": name}),
        };
        frame["_reqId"] = json!(id);
        if frame.get("stale").is_some() {
            self.fire(Fault::KickedStale);
        }
        if ![ADMIN, OWNER].contains(&self.clients[index].member) {
            self.fire(Fault::ModerationRefused);
        }
        self.up(socket, Up::Text(frame.to_string()));
    }

    /// A moderator is told what it did.
    pub(crate) fn moderated(&mut self, frame: &Value) {
        let names = frame["kicked"].as_array().map_or(&[][..], Vec::as_slice);
        let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
        let now = self.now;
        self.check.moderated(now, &names);
        // Half of those it was come back at once.
        for name in &names {
            let kicked = self.clients.iter_mut().find(|client| client.name() == **name);
            if let Some(client) = kicked.filter(|client| client.back_at.is_some()) {
                client.hurries = client.kind != Kind::OneShot && frame["type"] == "kick_ack";
            }
        }
        let did = match frame["type"].as_str().unwrap_or_default() {
            "kick_ack" if names.len() > 3 => Fault::KickedAll,
            "kick_ack" if !names.is_empty() => Fault::Kicked,
            "disconnect_ack" if !names.is_empty() => Fault::Disconnected,
            "ban_ack" => Fault::Banned,
            "unban_ack" => Fault::Unbanned,
            _ => return,
        };
        self.fire(did);
    }

    /// A hello has been answered.
    pub(crate) fn settle_in(&mut self, index: usize, socket: u64, frame: &Value) {
        let presence = frame["presenceId"].as_str().map(str::to_owned);
        let client = &mut self.clients[index];
        if client.presence != presence {
            client.groups.clear();
            let restored = frame["restoredStats"]["messagesIn"].as_u64();
            // Without a word of what it has counted, only the first of all starts from nothing.
            let first = (client.hellos == 1).then_some(0);
            client.counted = restored.or(first).filter(|_| client.kind == Kind::Daemon);
            if let (Some(presence), Some(base)) = (&presence, client.counted) {
                self.check.counts_from(&presence.as_str().into(), base);
            }
            if restored.is_some() {
                self.fire(Fault::Restored);
            }
        }
        self.clients[index].presence = presence;
        if self.clients[index].kind == Kind::OneShot {
            self.act_and_go(index, socket);
        }
    }

    fn act_and_go(&mut self, index: usize, socket: u64) {
        for _ in 0..self.rng.between(1, 2) {
            if self.rng.one_in(2) {
                self.compose(index, socket);
            } else {
                self.ask(index, socket);
            }
        }
        let back = self.rng.between(4_000, 25_000);
        match self.rng.between(0, 10) {
            10 => self.become_another(index, socket),
            0 | 1 => {} // stays until it is done, or somebody ends it
            2 => {
                self.fire(Fault::OneShotLost);
                self.hang_up(index, false, back);
            }
            _ => {
                self.fire(Fault::OneShotBrief);
                self.hang_up(index, true, back);
            }
        }
    }

    /// When all is calm, whoever was removed is let in again, and commands have done their work.
    pub(crate) fn calm_down(&mut self, index: usize, socket: u64) {
        let client = &self.clients[index];
        if client.kind == Kind::OneShot {
            self.hang_up(index, true, 0);
            self.clients[index].back_at = None;
        } else if index.is_multiple_of(2) && self.rng.one_in(30) {
            self.say_status(index, socket, "idle");
        } else if client.member == OWNER
            && self.rng.one_in(3)
            && let Some(removed) = self.store.now.members.values().find(|member| member.revoked)
        {
            let name = removed.display_name.clone();
            let id = format!("q-{}", self.fresh());
            let frame = json!({"type": "unban", "target": name, "_reqId": id});
            self.up(socket, Up::Text(frame.to_string()));
        }
    }
}
