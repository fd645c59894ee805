//! What the rules ask.

use std::sync::Arc;

use broker::mesh::io::{Answer, Question};
use broker::model::*;
use protocol::{MemberId, MessageId};

use super::{OWNER_KEY, SimStore};
use crate::faults::Planted;

impl SimStore {
    /// The answer as of `wall`.
    pub(crate) fn answer(&self, wall: i64, question: &Question) -> Answer {
        match question {
            Question::Identity(claim) => {
                Answer::Identity(Some(Box::new(self.identify(wall, claim))))
            }
            Question::Grants { claims } => {
                let taken = claims.iter().filter(|key| self.is_taken(key)).cloned().collect();
                Answer::Grants { grants: self.grants(), taken }
            }
            Question::QueueBytes => Answer::QueueBytes(self.now.queue_bytes()),
            Question::Topic { spec } => {
                let living = |member: &MemberId| !self.now.members[member].revoked;
                let topic = self.now.topic(spec).cloned().map(|mut topic| {
                    topic.members.retain(living);
                    topic
                });
                Answer::Topic(topic)
            }
            Question::Moderation { caller, command, target } => {
                let done = self.now.done.get(command);
                let mut caller = self.now.members.get(caller).cloned();
                if let Some(caller) =
                    caller.as_mut().filter(|_| self.plants(Planted::EveryoneModerates))
                {
                    "admin".clone_into(&mut caller.role);
                }
                Answer::Moderation(Box::new(Moderation {
                    caller,
                    done: done.cloned().filter(|_| !self.plants(Planted::DoneIgnored)),
                    matching: target.as_ref().map_or_else(Vec::new, |target| self.matching(target)),
                }))
            }
            Question::Bans => Answer::Bans(self.bans()),
            Question::Audit(query) => self.audit(query),
            Question::VerifyAudit(from) => {
                let entries = self.now.audit.len() as u64;
                let so_far = Verified { entries, ..from.clone() };
                Answer::AuditVerified(VerifiedSlice { so_far, broken_at: None, ended: true })
            }
            Question::Accepted { member, key } => {
                Answer::Accepted(self.now.accepted.get(&(member.clone(), key.clone())).cloned())
            }
            Question::Messages { prefix } => Answer::Messages(self.messages(prefix)),
            Question::Page { queue, after, limit } => {
                Answer::Page(self.page(queue, *after, limit.rows))
            }
        }
    }

    fn identify(&self, wall: i64, claim: &Claim) -> Identity {
        let mut member = self.now.member_of(&claim.pubkey).cloned();
        self.forge(member.as_mut());
        let known = member.as_ref().filter(|_| claim.place.is_some());
        let saved = known.and_then(|member| self.now.saved.get(&member.id)).cloned();
        let place = claim.place.as_ref().filter(|_| known.is_some_and(|member| !member.revoked));
        Identity {
            mesh_name: "sim".to_owned(),
            archived: self.now.archived,
            self_editable: None,
            member,
            key_member: claim.session.as_ref().and_then(|key| self.now.keys.get(key)).cloned(),
            key_taken: claim.session.as_ref().is_some_and(|key| self.is_taken(key)),
            seen_by: claim.hello.as_ref().and_then(|hello| self.seen_by(wall, hello)),
            alone: false,
            saved,
            pending: place.and_then(|place| self.pending(wall, place)),
        }
    }

    /// Whether a session key is a member's or the owner's, or somebody has proven it.
    fn is_taken(&self, key: &Arc<str>) -> bool {
        let owned = self.now.member_of(key).is_some() || **key == *OWNER_KEY;
        let taken = owned || self.now.keys.contains_key(key);
        taken && !self.plants(Planted::ClaimBelieved)
    }

    fn seen_by(&self, wall: i64, hello: &str) -> Option<String> {
        let (conn, at) = self.now.hellos.get(hello)?;
        let fresh = wall - at <= HELLO_SEEN_MS && !self.plants(Planted::HelloForgotten);
        fresh.then(|| conn.clone())
    }

    fn pending(&self, wall: i64, place: &Place) -> Option<Pending> {
        let fits = |told: &NewPending| {
            let by_session = told.session_id.as_ref() == Some(&place.session_id);
            by_session || (told.cwd == place.cwd && told.pid == Some(place.pid))
        };
        let waiting = self.now.pendings.iter().rev().find(|waiting| {
            let told = &waiting.status;
            !waiting.used && wall - told.created_at <= PENDING_MS && fits(told)
        });
        waiting.map(|waiting| Pending { id: waiting.id, status: waiting.status.status })
    }

    /// Plants what a hello may be told wrong.
    fn forge(&self, member: Option<&mut Member>) {
        let Some(member) = member else { return };
        if self.plants(Planted::RemovedLetIn) {
            member.revoked = false;
        }
        if self.plants(Planted::GrantsUnread) {
            member.grants = Grants::default();
        }
    }

    fn grants(&self) -> Vec<(MemberId, Grants)> {
        if self.plants(Planted::GrantsUnread) {
            return Vec::new();
        }
        let members = self.now.members.values().filter(|member| !member.grants.is_empty());
        members.map(|member| (member.id.clone(), member.grants.clone())).collect()
    }

    fn matching(&self, target: &Target) -> Vec<Member> {
        let all = || self.now.members.values().filter(|m| m.revoked == target.revoked);
        let text = target.text.as_str();
        let found = |fits: &dyn Fn(&Member) -> bool| -> Vec<Member> {
            all().filter(|member| fits(member)).take(MATCHES).cloned().collect()
        };
        let by_key = found(&|member| *member.pubkey == *text);
        if !by_key.is_empty() {
            return by_key;
        }
        let by_name = found(&|member| member.display_name == text);
        if !by_name.is_empty() || target.revoked {
            return by_name;
        }
        found(&|member| member.pubkey.starts_with(text))
    }

    fn bans(&self) -> Vec<Ban> {
        let revoked = self.now.members.values().filter(|member| member.revoked);
        let ban = |member: &Member| Ban {
            name: member.display_name.clone(),
            pubkey: member.pubkey.to_string(),
            revoked_at: self.now.revoked_at.get(&member.id).copied().unwrap_or(0),
        };
        revoked.map(ban).collect()
    }

    fn audit(&self, query: &AuditQuery) -> Answer {
        let shown = |row: &&AuditRow| {
            let kind = query.event.as_deref().is_none_or(|event| event == row.event);
            let own = query.reader.is_none() || row.actor == query.reader;
            kind && (row.event != "message_sent" || own)
        };
        let entry = |(id, row): (usize, &AuditRow)| AuditEntry {
            id: id as i64,
            event: row.event.to_owned(),
            actor: row.actor.as_ref().map(ToString::to_string),
            actor_name: row.actor_name.as_ref().map(ToString::to_string),
            payload: serde_json::from_str(&row.payload).expect("canonical JSON"),
            prev_hash: row.prev_hash.clone(),
            hash: row.hash.clone(),
            created_at: row.created_at,
        };
        let rows: Vec<_> = self.now.audit.iter().enumerate().filter(|(_, r)| shown(r)).collect();
        let total = rows.len() as u64;
        let newest = rows.into_iter().rev().skip(query.offset as usize);
        Answer::Audit(newest.take(query.limit as usize).map(entry).collect(), total)
    }

    fn messages(&self, prefix: &str) -> Vec<StoredMessage> {
        let Some(row) = MessageId::position(prefix).and_then(|seq| self.now.envelopes.get(&seq))
        else {
            return Vec::new();
        };
        let waiting = row.recipients.iter().filter(|recipient| {
            self.now
                .deliveries
                .iter()
                .any(|(q, seq)| *seq == row.envelope.seq && q.recipient == **recipient)
        });
        vec![StoredMessage {
            id: row.envelope.id.clone(),
            sender: row.envelope.sender.member.clone(),
            members: row
                .recipients
                .iter()
                .filter_map(|to| match to {
                    Recipient::Session(key) => self.now.keys.get(key).cloned(),
                    _ => None,
                })
                .collect(),
            target: row.envelope.target.clone(),
            recipients: row.recipients.clone(),
            waiting: waiting.cloned().collect(),
            delivered_at: row.delivered_at,
            undeliverable: self.now.undeliverable.contains(&row.envelope.seq),
        }]
    }

    /// Small pages, so that a modest backlog is read in several.
    fn page(&self, queue: &QueueId, after: Seq, rows: usize) -> Page {
        let rows = rows.min(4);
        let mut seqs: Vec<Seq> = self
            .now
            .deliveries
            .range((queue.clone(), after + 1)..=(queue.clone(), Seq::MAX))
            .map(|(_, seq)| *seq)
            .collect();
        let depth = seqs.len();
        if self.plants(Planted::PageUnordered) {
            seqs.reverse();
        }
        seqs.truncate(rows);
        let more = depth > seqs.len();
        let envelopes = seqs.iter().map(|seq| {
            let row = &self.now.envelopes[seq];
            let mut envelope = (*row.envelope).clone();
            if !row.body {
                envelope.ciphertext = String::new();
            }
            Arc::new(envelope)
        });
        Page { envelopes: envelopes.collect(), more, depth }
    }
}
