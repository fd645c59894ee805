//! What others change in the store beside us, and what hooks say.

use broker::mesh::io::Input;
use broker::model::{Capability, Grants, NewPending, Topic};
use broker::seat::SeatInput;
use protocol::MemberId;
use protocol::client::Status;
use serde_json::json;

use crate::client::wall;
use crate::faults::Fault;
use crate::store::Waiting;
use crate::world::{ADMIN, Event, World};

/// As clients write them: by name, by id, and of nobody.
pub(crate) const TOPIC_SPECS: [&str; 4] =
    ["general", "topic-of-operations-0001", "topic-of-generalities", "nowhere"];

/// What the mesh starts with.
pub(crate) fn topics() -> Vec<Topic> {
    let topic = |id: &str, name: &str, members: &[usize]| Topic {
        id: id.into(),
        name: name.into(),
        members: members.iter().map(|member| format!("member-{member}").into()).collect(),
    };
    vec![
        topic("topic-of-generalities", "general", &[0, 1, 2, 3]),
        topic("topic-of-operations-0001", "ops", &[0, 2, 4]),
    ]
}

const STATUSES: [Status; 4] = [Status::Idle, Status::Working, Status::Working, Status::Dnd];

impl World {
    /// Somebody else writes to the store.
    pub(crate) fn interfere(&mut self) {
        match self.rng.between(0, 11) {
            0..=3 => self.change_grants(),
            4 | 5 => self.change_topic(),
            6 => self.remove_or_reinstate(),
            10 => self.change_role(),
            11 if self.rng.one_in(8) => {
                self.archive(true);
                let until = self.rng.between(500, 12_000);
                self.at(until, Event::Unarchive);
            }
            _ => self.hook(),
        }
    }

    fn any_member(&mut self) -> MemberId {
        let members: Vec<_> = self.store.now.members.keys().cloned().collect();
        self.rng.pick(&members).clone()
    }

    fn change_grants(&mut self) {
        let (to, from) = (self.any_member(), self.any_member());
        if to == from {
            return;
        }
        self.fire(Fault::GrantsChanged);
        let granted: Option<&[&str]> = match self.rng.between(0, 5) {
            0 => Some(&[]),
            1 => Some(&["dm"]),
            2 => Some(&["broadcast", "read"]),
            _ => None,
        };
        self.grant(&to, &from, granted);
    }

    /// From now on `to` lets `from` do what is listed, or anything.
    fn grant(&mut self, to: &MemberId, from: &MemberId, granted: Option<&[&str]>) {
        let now = self.now;
        for (capability, word) in [(Capability::Dm, "dm"), (Capability::Broadcast, "broadcast")] {
            let denied = granted.is_some_and(|list| !list.contains(&word));
            self.check.granted(now, (to, from, capability), denied);
        }
        let lists = self.grants.entry(to.clone()).or_default();
        match granted {
            Some(list) => lists.insert(from.clone(), json!(list)),
            None => lists.remove(from),
        };
        let members = &self.store.now.members;
        let stored: serde_json::Map<_, _> = lists
            .iter()
            .map(|(from, list)| (members[from].pubkey.to_string(), list.clone()))
            .collect();
        let grants = Grants::from_json(&stored.into());
        if let Some(member) = self.store.now.members.get_mut(to) {
            member.grants = grants;
        }
    }

    fn change_topic(&mut self) {
        self.fire(Fault::TopicChanged);
        let member = self.any_member();
        let now = self.now;
        let which = self.rng.between(0, 1) as usize;
        let topic = &mut self.store.now.topics[which];
        if topic.members.contains(&member) {
            topic.members.retain(|other| *other != member);
        } else {
            topic.members.push(member.clone());
        }
        let id = topic.id.clone();
        self.check.topic_changed(now, &id, &member);
    }

    /// A plain member is removed, or let in again, without a word to us.
    fn remove_or_reinstate(&mut self) {
        let member = self.any_member();
        let at = wall(self.now);
        let now = self.now;
        let durable = &mut self.store.now;
        let Some(row) = durable.members.get_mut(&member) else { return };
        if row.may_moderate() {
            return;
        }
        if !row.revoked {
            row.revoked = true;
            durable.revoked_at.insert(member.clone(), at);
            self.check.removal_changed(now, &member);
            self.check.removed_beside(now, &member);
            self.fire(Fault::RemovedBeside);
        } else if !self.check.is_banned(&member) {
            row.revoked = false;
            durable.revoked_at.remove(&member);
            self.check.removal_changed(now, &member);
            self.fire(Fault::ReinstatedBeside);
        }
    }

    /// A plain member may moderate from now on, or no more.
    fn change_role(&mut self) {
        let member = self.any_member();
        let Some(row) = self.store.now.members.get_mut(&member) else { return };
        if row.id.as_str() == format!("member-{ADMIN}") || row.owner || row.revoked {
            return;
        }
        let role = if row.role == "admin" { "member" } else { "admin" };
        role.clone_into(&mut row.role);
        self.fire(Fault::RoleChangedBeside);
        self.check.role_changed(self.now, &member);
    }

    /// The mesh is archived, or opened again.
    pub(crate) fn archive(&mut self, archived: bool) {
        if self.store.now.archived != archived {
            self.store.now.archived = archived;
            self.check.archived(self.now, archived);
            if archived {
                self.fire(Fault::ArchivedBeside);
            }
        }
    }

    /// A hook tells a status: of a presence that is here, was here, or never was.
    fn hook(&mut self) {
        let index = self.rng.between(0, self.clients.len() as u64 - 1) as usize;
        let status = *self.rng.pick(&STATUSES);
        let presence = self.clients[index].presence.clone().unwrap_or_else(|| "none".to_owned());
        if let Some(process) = self.pick_node() {
            self.fire(Fault::Hook);
            let (now, session) = (self.now, self.clients[index].session_id.clone());
            self.check.said(now, &session);
            let presence = presence.as_str().into();
            self.input(process, SeatInput::Local(Input::Hook { presence, status }));
        }
    }

    /// A hook told the status of a session before that says hello.
    pub(crate) fn tell_before(&mut self, index: usize) {
        if !self.chaos || !self.rng.one_in(6) {
            return;
        }
        let by_session = self.rng.one_in(2);
        let ago = self.rng.between(0, 12_000) as i64;
        let id = self.fresh() as i64;
        let status = *self.rng.pick(&STATUSES);
        let client = &self.clients[index];
        let status = NewPending {
            session_id: by_session.then(|| client.session_id.clone()),
            cwd: client.cwd(),
            pid: (!by_session).then_some(client.identity as i64),
            status,
            created_at: wall(self.now) - ago,
        };
        self.store.now.pendings.push(Waiting { id, status, used: false });
    }

    /// Everybody lets everybody write.
    pub(crate) fn grant_all(&mut self) {
        let members: Vec<_> = self.store.now.members.keys().cloned().collect();
        for (to, from) in members.iter().flat_map(|to| members.iter().map(move |from| (to, from))) {
            self.grant(to, from, None);
        }
    }
}
