//! Ending connections, sessions and memberships (protocol-core §6).
//!
//! The store says whether the caller may, whom a target means, and whether this very command was
//! executed under an epoch before: then it is answered as it was then. What follows is one unit:
//! the departures, the ban, the entry of the audit, and the note that the command is done.

use std::collections::HashSet;
use std::sync::Arc;

use protocol::client::{Request, Selection, Verb};
use protocol::server::{self, Ended, Frame};
use protocol::{Close, EchoId, MemberId, close, names, time};
use router::link::RESULT_TIMEOUT_MS;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit;
use super::beside::Removal;
use super::io::{ConnId, Ms, Now, Question};
use super::pipeline::{Left, Then};
use super::query::{Asked, NoAnswer, error};
use super::roster::{Lease, LeaseNo};
use super::state::Mesh;
use crate::model::{Ban, Member, Moderation, Sender, Seq, Target, Write};

/// How long what was read of a member before its ban may be on its way: the wait for an answer,
/// and a read that began at its end.
pub(super) const REVOKED_MS: Ms = 2 * RESULT_TIMEOUT_MS;

/// What became of a command, as its repetition is told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    names: Vec<String>,
    skipped: Vec<String>,
}

impl Mesh {
    /// What the same connection asks behind it waits until it is decided.
    pub(super) fn moderate(&mut self, conn: ConnId, number: u64, request: &Request) {
        let Some(caller) = self.member_of(conn) else {
            let frame = error("forbidden", "not a member", request.req_id.clone());
            return self.too_late(conn, number, Some(frame));
        };
        let target = match &request.verb {
            Verb::Ban { target } => Some((target, false)),
            Verb::Unban { target } => Some((target, true)),
            _ => None,
        };
        let target = match target {
            None => None,
            Some((Some(text), revoked)) if !text.is_empty() => {
                Some(Target { text: self.as_shown(text), revoked })
            }
            Some(_) => {
                let frame = error("invalid", "target required", request.req_id.clone());
                return self.reply(conn, number, frame);
            }
        };
        self.stalled.entry(conn).or_default();
        let question = Question::Moderation { caller, command: command_key(conn, number), target };
        self.ask(question, Asked::Moderation { conn, number, request: request.clone() });
    }

    /// A row that others wrote may hold characters that nobody is shown: the store does not know its
    /// name by what is shown instead, so the peer's key is asked for.
    fn as_shown(&self, target: &str) -> String {
        let shown = |lease: &Lease| &*lease.record.name == target;
        let peer =
            self.roster.iter().find(|(_, lease)| target.contains('\u{fffd}') && shown(lease));
        peer.map_or_else(|| target.to_owned(), |(_, l)| l.record.member_pubkey.to_string())
    }

    pub(super) fn moderated(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        request: &Request,
        answer: Result<Moderation, NoAnswer>,
    ) {
        if let Err((code, text)) = self.judge(now, (conn, number), request, answer) {
            self.reply(conn, number, error(code, &text, request.req_id.clone()));
        }
        self.go_on(now, conn);
    }

    fn judge(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        request: &Request,
        answer: Result<Moderation, NoAnswer>,
    ) -> Result<(), (&'static str, String)> {
        let Ok(mut known) = answer else {
            return Err(("unavailable", "the store cannot be asked now".to_owned()));
        };
        let here = self.member_of(conn);
        known.tidy();
        let may = |caller: &Member| {
            let is_here = here.as_ref() == Some(&caller.id);
            let barred = self.may_not_moderate(&caller.id, is_here);
            caller.may_moderate() && !caller.revoked && !barred
        };
        let caller = known.caller.filter(may);
        let Some(caller) = caller else {
            let what = match &request.verb {
                Verb::Disconnect(_) => "disconnected",
                Verb::Kick(_) => "kicked",
                Verb::Ban { .. } => "ban",
                _ => "unban",
            };
            return Err(("forbidden", format!("only owner or admin can {what}")));
        };
        let done = known.done.and_then(|done| serde_json::from_str::<Done>(&done).ok());
        if let Some(done) = done {
            self.reply(conn, number, done.frame(request));
            return Ok(());
        }
        match &request.verb {
            Verb::Disconnect(selection) | Verb::Kick(selection) => {
                self.end_selected(now, (conn, number), request, selection);
                Ok(())
            }
            Verb::Ban { target } => {
                let target = target.as_deref().unwrap_or_default();
                self.ban(now, (conn, number), request, target, &caller, &known.matching)
            }
            Verb::Unban { target } => {
                let target = target.as_deref().unwrap_or_default();
                self.unban(now, (conn, number), request, target, &caller, &known.matching)
            }
            _ => Ok(()),
        }
    }

    fn end_selected(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        request: &Request,
        selection: &Selection,
    ) {
        let kick = matches!(request.verb, Verb::Kick(_));
        let stale = selection.all != Some(true) && selection.stale.is_some_and(|ms| ms != 0.0);
        let selected = self.select(now.mono, conn, selection);
        let (kept, ended): (Vec<_>, Vec<_>) =
            selected.into_iter().partition(|no| kick && !self.is_session(*no));
        let done = Done { names: self.names(&ended), skipped: self.names(&kept) };
        let close = match (kick, stale) {
            (true, false) => close::KICKED,
            (true, true) => close::KICKED_STALE,
            (false, false) => close::DISCONNECTED,
            (false, true) => close::DISCONNECTED_STALE,
        };
        let mut kicks = Vec::new();
        for no in ended.iter().filter(|_| kick) {
            if let Some(lease) = self.roster.get(*no) {
                kicks.extend(self.cooldowns.start(&lease.record, now.mono, &self.limits));
            }
        }
        let reply = Some((conn, number, Some(done.frame(request))));
        let (mut writes, left) = self.end(now, ended, close, Left { reply, ..Left::default() });
        writes.extend(kicks);
        writes.push(done.write(conn, number));
        self.pipeline.push(writes, Then::Left(Box::new(left)));
    }

    fn select(&self, now: Ms, caller: ConnId, selection: &Selection) -> Vec<LeaseNo> {
        let caller = self.roster.of_conn(caller);
        let fits = |no: LeaseNo, lease: &Lease| -> bool {
            let record = &lease.record;
            match selection {
                Selection { all: Some(true), .. } => caller != Some(no),
                #[expect(clippy::cast_precision_loss, reason = "of milliseconds since the start")]
                Selection { stale: Some(ms), .. } if *ms != 0.0 => {
                    caller != Some(no) && now.saturating_sub(lease.heard) as f64 > *ms
                }
                Selection { target: Some(target), .. } if !target.is_empty() => {
                    *record.name == **target
                        || record.member_pubkey.starts_with(target.as_str())
                        || record.session_pubkey.as_deref() == Some(target)
                }
                _ => false,
            }
        };
        let all = self.roster.iter().filter(|(_, lease)| lease.is_eligible());
        all.filter(|(no, lease)| fits(*no, lease)).map(|(no, _)| no).collect()
    }

    /// The departures of these leases, their connections closed when it is durable.
    pub(super) fn end(
        &mut self,
        now: Now,
        leases: Vec<LeaseNo>,
        close: Close,
        mut left: Left,
    ) -> (Vec<Write>, Left) {
        let mut writes = Vec::new();
        for no in &leases {
            let conn = self.roster.get(*no).and_then(Lease::conn);
            left.conns.extend(conn.map(|conn| (conn, close)));
            self.ending.extend(conn);
            writes.extend(self.departure(now, *no));
        }
        left.leases = leases;
        (writes, left)
    }

    fn ban(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        request: &Request,
        target: &str,
        caller: &Member,
        matching: &[Member],
    ) -> Result<(), (&'static str, String)> {
        let not_found = || ("not_found", format!("peer \"{target}\" not found"));
        let found = matching.first().ok_or_else(not_found)?;
        only_one(target, matching)?;
        if found.pubkey == caller.pubkey {
            return Err(("invalid", "cannot ban yourself".to_owned()));
        }
        if matching.iter().any(|member| member.owner) {
            return Err(("forbidden", "the owner cannot be banned".to_owned()));
        }
        // A key may have several rows: what holds for one holds for all of them.
        let mut members: HashSet<MemberId> = matching.iter().map(|m| m.id.clone()).collect();
        let theirs = |lease: &Lease| lease.record.member_pubkey == found.pubkey;
        let leases = self.roster.iter().filter(|(_, l)| theirs(l) && l.is_eligible());
        let leases = leases.inspect(|(_, lease)| {
            members.insert(lease.record.member.clone());
        });
        let (leases, presences): (Vec<_>, Vec<_>) =
            leases.map(|(no, lease)| (no, lease.presence.clone())).unzip();
        let done = Done { names: vec![found.display_name.clone()], skipped: Vec::new() };
        let reply = Some((conn, number, Some(done.frame(request))));
        let banned = members.iter().cloned().collect();
        let left = Left { reply, banned, ..Left::default() };
        let (mut writes, left) = self.end(now, leases, close::BANNED, left);
        for member in members {
            writes.push(Write::Revoke { member: member.clone(), at: now.wall });
            let presences = presences.clone();
            writes.push(Write::Purge { member: member.clone(), presences });
            let until = now.mono + REVOKED_MS;
            self.revoked.insert(member, Removal { until, up_to: Seq::MAX, by_command: true });
        }
        let payload = json!({ "target": found.display_name, "targetPubkey": found.pubkey });
        writes.push(self.audited(conn, caller, "member_banned", &payload, now));
        writes.push(done.write(conn, number));
        self.pipeline.push(writes, Then::Left(Box::new(left)));
        Ok(())
    }

    fn unban(
        &mut self,
        now: Now,
        (conn, number): (ConnId, u64),
        request: &Request,
        target: &str,
        caller: &Member,
        matching: &[Member],
    ) -> Result<(), (&'static str, String)> {
        only_one(target, matching)?;
        let found = matching.first();
        let lifted = self.cooldowns.lift(now.mono, target, matching);
        let name = found.map(|member| member.display_name.clone());
        let name = name.or_else(|| lifted.as_ref().map(|(name, _)| name.clone()));
        let Some(name) = name else {
            return Err(("not_found", format!("no banned peer \"{target}\"")));
        };
        let mut writes = Vec::new();
        writes.extend(found.map(|member| Write::Reinstate { member: member.id.clone() }));
        let keys = lifted.map(|(_, keys)| keys).filter(|keys| !keys.is_empty());
        writes.extend(keys.map(Write::LiftKicks));
        for member in matching {
            self.revoked.remove(&member.id);
        }
        let payload = json!({ "target": name });
        let done = Done { names: vec![name], skipped: Vec::new() };
        writes.push(self.audited(conn, caller, "member_unbanned", &payload, now));
        writes.push(done.write(conn, number));
        let reinstated = found.is_some();
        if reinstated {
            self.reinstated.begin();
        }
        let reply = Some((conn, number, Some(done.frame(request))));
        let left = Left { reply, reinstated, ..Left::default() };
        self.pipeline.push(writes, Then::Left(Box::new(left)));
        Ok(())
    }

    /// In the name of the caller's connection, or of the member should that have gone meanwhile.
    fn audited(
        &self,
        conn: ConnId,
        caller: &Member,
        event: &'static str,
        payload: &serde_json::Value,
        now: Now,
    ) -> Write {
        let lease = self.roster.of_conn(conn).and_then(|no| self.roster.get(no));
        let member = || Sender {
            member: caller.id.clone(),
            member_pubkey: caller.pubkey.clone(),
            session_pubkey: None,
            name: caller.display_name.as_str().into(),
        };
        let actor = lease.map_or_else(|| Arc::new(member()), |lease| lease.sender.clone());
        Write::Audit(audit::entry(event, &actor, payload, now.wall))
    }

    fn member_of(&self, conn: ConnId) -> Option<MemberId> {
        let lease = self.roster.get(self.roster.of_conn(conn)?)?;
        Some(lease.record.member.clone())
    }

    fn is_session(&self, no: LeaseNo) -> bool {
        self.roster.get(no).is_some_and(|lease| lease.record.proven)
    }

    fn names(&self, leases: &[LeaseNo]) -> Vec<String> {
        let leases = leases.iter().filter_map(|no| self.roster.get(*no));
        leases.map(|lease| lease.record.name.to_string()).collect()
    }
}

impl Done {
    fn frame(&self, request: &Request) -> Frame {
        let req_id = request.req_id.clone();
        let name = || self.names.first().cloned().unwrap_or_default();
        let ended = |req_id| Ended {
            kicked: self.names.clone(),
            affected: self.names.clone(),
            skipped_control_plane: self.skipped.clone(),
            req_id,
        };
        match request.verb {
            Verb::Kick(_) => Frame::KickAck(ended(req_id)),
            Verb::Ban { .. } => Frame::BanAck { banned: name(), req_id },
            Verb::Unban { .. } => Frame::UnbanAck { unbanned: name(), req_id },
            _ => Frame::DisconnectAck(ended(req_id)),
        }
    }

    fn write(&self, conn: ConnId, number: u64) -> Write {
        // A struct of lists of texts always serializes.
        let reply = serde_json::to_string(self).unwrap_or_default();
        Write::Done { command: command_key(conn, number), reply }
    }
}

fn command_key(conn: ConnId, number: u64) -> String {
    format!("{conn}:{number}")
}

/// Rows of one key are one peer, however often it was invited.
fn only_one(target: &str, matching: &[Member]) -> Result<(), (&'static str, String)> {
    let keys: HashSet<&str> = matching.iter().map(|member| &*member.pubkey).collect();
    if keys.len() > 1 {
        return Err(("ambiguous", format!("several peers answer to \"{target}\": use a key")));
    }
    Ok(())
}

/// `list_bans_result`.
pub(super) fn bans(found: Vec<Ban>, req_id: Option<EchoId>) -> Frame {
    let ban = |ban: Ban| server::Ban {
        name: names::tidied(&ban.name),
        pubkey: ban.pubkey,
        revoked_at: time::iso(ban.revoked_at),
    };
    Frame::ListBansResult { bans: found.into_iter().map(ban).collect(), req_id }
}
