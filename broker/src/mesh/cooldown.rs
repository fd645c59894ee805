//! Sessions that were kicked, and until when they stay out.
//!
//! A proven key stays out by the store's word: it is written with the kick, and the next owner
//! reads what is left of its time. A connection without a proven key stays out as long as its owner
//! remembers.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::MemberId;

use super::io::Ms;
use super::limits::Limits;
use super::roster::{Record, session_presence_key};
use crate::model::{KICKED_MOST, Kicked, Member, Write};

#[derive(Debug)]
struct Out {
    until: Ms,
    /// If it was proven.
    session: Option<Arc<str>>,
    member: MemberId,
    name: Arc<str>,
}

/// By the key that a returning session is recognized by; see the module.
#[derive(Debug, Default)]
pub(crate) struct Cooldowns(HashMap<String, Out>);

impl Cooldowns {
    /// A presence has been kicked: answers what is to be written of it.
    pub(super) fn start(&mut self, record: &Record, now: Ms, limits: &Limits) -> Option<Write> {
        self.0.retain(|_, out| out.until > now);
        let session = record.session_pubkey.clone().filter(|_| record.proven);
        let ms = if session.is_some() { limits.kick_session_ms } else { limits.kick_cooldown_ms };
        if ms == 0 {
            return None;
        }
        let member = record.member.clone();
        let kicked = session.map(|key| Kicked {
            key,
            member: member.clone(),
            name: record.name.to_string(),
            left_ms: ms,
        });
        let session = kicked.as_ref().map(|kicked| kicked.key.clone());
        let name = record.name.clone();
        self.insert(record.key.clone(), Out { until: now + ms, session, member, name });
        kicked.map(Write::Kick)
    }

    /// What the store remembers replaces what was known of proven keys.
    pub(super) fn load(&mut self, kicked: Vec<Kicked>, now: Ms) {
        self.0.retain(|_, out| out.session.is_none());
        for Kicked { key, member, name, left_ms } in kicked {
            let (until, name) = (now + left_ms, name.into());
            let out = Out { until, session: Some(key.clone()), member, name };
            self.insert(session_presence_key(&key), out);
        }
    }

    fn insert(&mut self, key: String, out: Out) {
        if self.0.len() >= KICKED_MOST {
            let first = self.0.iter().min_by_key(|(_, out)| out.until).map(|(key, _)| key.clone());
            first.map(|key| self.0.remove(&key));
        }
        self.0.insert(key, out);
    }

    /// How long a key still stays out.
    pub(super) fn left(&self, key: &str, now: Ms) -> Option<Ms> {
        self.0.get(key)?.until.checked_sub(now).filter(|left| *left > 0)
    }

    /// Those that answer to this name or session key, or are of these members, may come back.
    /// Answers the name of one, and the proven keys.
    pub(super) fn lift(
        &mut self,
        now: Ms,
        target: &str,
        members: &[Member],
    ) -> Option<(String, Vec<Arc<str>>)> {
        let theirs = |out: &Out| {
            out.until > now
                && (*out.name == *target
                    || out.session.as_ref().is_some_and(|key| key.eq_ignore_ascii_case(target))
                    || members.iter().any(|member| member.id == out.member))
        };
        let lifted: Vec<_> = self.0.extract_if(|_, out| theirs(out)).map(|(_, out)| out).collect();
        let name = lifted.first()?.name.to_string();
        Some((name, lifted.into_iter().filter_map(|out| out.session).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_remembered_than_the_store_keeps() {
        let mut cooldowns = Cooldowns::default();
        let kicked = |n: usize| Kicked {
            key: format!("key-{n}").into(),
            member: "m".into(),
            name: "n".to_owned(),
            left_ms: 1_000 + n as u64,
        };
        cooldowns.load((0..=KICKED_MOST).map(kicked).collect(), 5);
        assert_eq!(cooldowns.0.len(), KICKED_MOST);
        assert_eq!(cooldowns.left(&session_presence_key("key-0"), 5), None);
        assert_eq!(cooldowns.left(&session_presence_key("key-1"), 5), Some(1_001));
        assert_eq!(cooldowns.left(&session_presence_key("key-1"), 1_006), None);
        let (name, keys) = cooldowns.lift(5, "KEY-2", &[]).unwrap();
        assert_eq!((name.as_str(), keys), ("n", vec![Arc::from("key-2")]));
        assert_eq!(cooldowns.lift(5, "key-2", &[]), None);
    }
}
