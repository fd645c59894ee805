//! Whom the reference's targets meant, as far as its tables tell.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::client::Group;
use protocol::{MemberId, MeshId};
use sqlx::PgConnection;

use super::TASK;
use crate::model::Recipient;
use crate::store::StoreError;
use crate::store::postgres::error::bounded;
use crate::store::postgres::session::STATEMENT_LIMIT;

/// Whom a message is for.
#[derive(Default)]
pub(super) struct Meant {
    pub(super) recipients: Vec<Recipient>,
    /// Session keys among them, and who has proven them.
    pub(super) keys: Vec<(Arc<str>, MemberId)>,
    /// The name of the topic it was sent to.
    pub(super) topic: Option<Arc<str>>,
}

impl Meant {
    fn only(recipient: Recipient) -> Self {
        Self { recipients: vec![recipient], ..Self::default() }
    }

    fn members<'m>(members: impl Iterator<Item = &'m MemberId>) -> Self {
        let recipients = members.cloned().map(Recipient::Member).collect();
        Self { recipients, ..Self::default() }
    }
}

/// A mesh's living members, its topics, and the sessions asked about so far.
pub(super) struct Directory {
    members: Vec<(MemberId, String, HashSet<String>)>,
    topics: HashMap<String, (Arc<str>, Vec<MemberId>)>,
    sessions: HashMap<String, (MemberId, bool)>,
}

impl Directory {
    pub(super) async fn read(conn: &mut PgConnection, mesh: &MeshId) -> Result<Self, StoreError> {
        let members = sqlx::query_as::<_, (String, String, Option<String>, Option<String>)>(
            "SELECT m.id, m.peer_pubkey, m.default_groups::text, s.groups::text
             FROM mesh.member m
             LEFT JOIN mesh.peer_state s ON s.mesh_id = m.mesh_id AND s.member_id = m.id
             WHERE m.mesh_id = $1 AND m.revoked_at IS NULL
             ORDER BY m.joined_at, m.id",
        )
        .bind(mesh.as_str());
        let topics = sqlx::query_as::<_, (String, String, Vec<String>)>(
            "SELECT t.id, t.name, ARRAY(
                SELECT tm.member_id FROM mesh.topic_member tm
                JOIN mesh.member m ON m.id = tm.member_id
                WHERE tm.topic_id = t.id AND m.mesh_id = $1 AND m.revoked_at IS NULL
                ORDER BY tm.joined_at, tm.member_id)
             FROM mesh.topic t
             WHERE t.mesh_id = $1",
        )
        .bind(mesh.as_str());
        let members = bounded(TASK, STATEMENT_LIMIT, members.fetch_all(&mut *conn)).await?;
        let topics = bounded(TASK, STATEMENT_LIMIT, topics.fetch_all(&mut *conn)).await?;
        let member =
            |(id, key, standing, last): (String, String, Option<String>, Option<String>)| {
                (
                    id.into(),
                    key,
                    groups(standing.as_deref()).chain(groups(last.as_deref())).collect(),
                )
            };
        let topic = |(id, name, members): (String, String, Vec<String>)| {
            (id, (name.into(), members.into_iter().map(MemberId::from).collect()))
        };
        Ok(Self {
            members: members.into_iter().map(member).collect(),
            topics: topics.into_iter().map(topic).collect(),
            sessions: HashMap::new(),
        })
    }

    /// Looks up those targets that may be session keys.
    pub(super) async fn learn_sessions(
        &mut self,
        conn: &mut PgConnection,
        mesh: &MeshId,
        targets: impl Iterator<Item = &str>,
    ) -> Result<(), StoreError> {
        let new = |target: &&str| {
            !target.starts_with(['@', '#', '*'])
                // What separates recipients where they are stored.
                && !target.contains(' ')
                && !self.sessions.contains_key(*target)
        };
        let keys: Vec<String> = targets.filter(new).map(str::to_owned).collect();
        let found =
            sqlx::query_as::<_, (String, String, bool)>(include_str!("../sql/adopt_sessions.sql"))
                .bind(mesh.as_str())
                .bind(keys);
        for (key, member, proven) in bounded(TASK, STATEMENT_LIMIT, found.fetch_all(conn)).await? {
            self.sessions.insert(key, (member.into(), proven));
        }
        Ok(())
    }

    /// Nothing if nobody can be told. What was for many may have found nobody: that is told.
    pub(super) fn resolve(&self, target: &str, sender: &MemberId) -> Option<Meant> {
        let others = || self.members.iter().filter(|(id, ..)| id != sender);
        if target == "*" || target == "@all" {
            return Some(Meant::members(others().map(|(id, ..)| id)));
        }
        if let Some(group) = target.strip_prefix('@') {
            let in_group = others().filter(|(.., groups)| groups.iter().any(|g| is_in(g, group)));
            return Some(Meant::members(in_group.map(|(id, ..)| id)));
        }
        if let Some(topic) = target.strip_prefix('#') {
            let (name, members) = self.topics.get(topic)?;
            let meant = Meant::members(members.iter().filter(|member| *member != sender));
            return Some(Meant { topic: Some(Arc::clone(name)), ..meant });
        }
        if let Some((id, ..)) = self.members.iter().find(|(_, key, _)| key == target) {
            return Some(Meant::only(Recipient::Member(id.clone())));
        }
        let (member, proven) = self.sessions.get(target)?;
        if !proven {
            return Some(Meant::only(Recipient::Member(member.clone())));
        }
        let key: Arc<str> = target.into();
        let keys = vec![(Arc::clone(&key), member.clone())];
        Some(Meant { keys, ..Meant::only(Recipient::Session(key)) })
    }
}

/// Names of groups, from a column that others write.
fn groups(text: Option<&str>) -> impl Iterator<Item = String> {
    let groups = text.and_then(|text| serde_json::from_str::<Vec<Group>>(text).ok());
    groups.unwrap_or_default().into_iter().map(|group| group.name)
}

/// Whether `group` is `whole` or below it.
fn is_in(group: &str, whole: &str) -> bool {
    group.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
