//! What each commit must be, unit by unit, in the order of the rules' decisions.

use std::collections::BTreeSet;

use broker::model::{LeaseRow, Recipient, Unit, Write};
use protocol::MemberId;
use protocol::client::Status;

use super::leases::Body;
use super::presences::Cause;
use super::{Checker, audit, recipients};
use crate::faults::Fault;
use crate::peer::ONE_SHOTS;
use crate::store::{Durable, Gone};

/// What others wrote beside the broker counts on live connections within 5 s, and a step.
const OUT_MS: u64 = 5_100;

impl Checker {
    /// These units have landed.
    pub(crate) fn committed(&mut self, now: u64, units: &[Unit], store: &Durable) {
        // The store is as it is behind all of them.
        for write in units.iter().flat_map(|unit| &unit.0) {
            if let Write::Revoke { member, .. } | Write::Reinstate { member } = write {
                self.removal_changed(now, member);
            }
        }
        // Before the leases go whose member somebody was kept from.
        for gone in &store.gone {
            let verdict = self.confirmed(now, gone, store);
            self.note("P2", now, verdict);
        }
        for unit in units {
            let verdict = audit::complete(unit).and_then(|()| audit::describes(unit));
            self.note("audit", now, verdict);
            if unit.0.iter().any(|write| matches!(write, Write::LiftKicks(_))) {
                self.fire(Fault::KickLifted);
            }
            let verdict = {
                let settled = |member: &MemberId| self.windows.role_settled(now, member);
                self.removals.landed(now, unit, &self.leases, settled, store)
            };
            self.note("moderation", now, verdict);
            for (place, write) in unit.0.iter().enumerate() {
                self.written(now, (unit, place), write, store);
            }
        }
        let verdict = self.queues_fit(units, store);
        self.note("bounds", now, verdict);
        if self.chain.entries != store.audit.len() {
            self.fail(|| format!("audit: {now}: entries came with no commit"));
        }
    }

    fn written(&mut self, now: u64, (unit, place): (&Unit, usize), write: &Write, store: &Durable) {
        match write {
            Write::Audit(row) => {
                let verdict = self.chain.follow(row);
                self.note("audit", now, verdict);
                if row.event == "peer_joined" {
                    let verdict = self.joined(now, unit);
                    self.note("P5", now, verdict);
                }
            }
            Write::SaveLease(row) => {
                let verdict = self.lease_saved(now, row);
                self.note("leases", now, verdict);
                let verdict = self.leases.claim(row, store);
                self.note("claims", now, verdict);
            }
            Write::SaveState(change) => {
                let behind = unit.0[place + 1..].iter().find(|w| !matches!(w, Write::Audit(_)));
                let saved = &mut self.saved;
                let verdict = behind.map(|behind| saved.saved(change, behind, &self.leases));
                self.note("peer_state", now, verdict.unwrap_or(Err("a lonely state".to_owned())));
            }
            Write::DropLease(presence) => {
                let commanded = unit.0.iter().any(|write| matches!(write, Write::Done { .. }));
                let member = self.leases.all.get(presence).map(|body| body.member.clone());
                let beside = member.is_some_and(|member| self.may_end(now, &member, store));
                if beside && !commanded {
                    self.fire(Fault::EndedBeside);
                }
                let moderated = commanded || beside;
                let cause = if moderated { Cause::Moderated } else { Cause::Grace };
                let verdict = self.presences.left(now, presence.as_str(), cause);
                self.watchers.went(now, presence.as_str());
                self.note("P5", now, verdict);
                self.leases.all.remove(presence);
            }
            Write::Accept(accept) => {
                let from = accept.envelope.sender.member.clone();
                let verdict = self.may_act(now, &from, "sends");
                self.note("removals", now, verdict);
                let sender = self.traffic.sender(&accept.envelope.ciphertext);
                let sender = sender.and_then(|identity| self.presences.presence(identity));
                let sender = sender.map(Into::into);
                let (leases, windows) = (&self.leases, &self.windows);
                let verdict =
                    recipients::check(unit, accept, sender.as_ref(), leases, windows, store);
                self.note("recipients", now, verdict);
            }
            Write::RecordKey { key, .. } => {
                self.leases.proven.insert(key.to_string());
            }
            Write::UsePending(_) => {
                self.fire(Fault::PendingUsed);
                let told = unit.0.iter().any(|write| {
                    matches!(write, Write::SaveLease(row) if row.body.contains(r#""source":"hook""#))
                });
                let verdict = if told { Ok(()) } else { Err("a hook's word is lost".to_owned()) };
                self.note("status", now, verdict);
            }
            _ => {}
        }
    }

    /// Whether others wrote a moment ago what ends the presences of a member.
    fn may_end(&self, now: u64, member: &MemberId, store: &Durable) -> bool {
        let recently = |at: &u64| at + OUT_MS + self.presences.troubled(*at, now) >= now;
        store.archived
            || store.members[member].revoked
            || self.windows.removed.get(member).is_some_and(recently)
            || self.windows.archived.as_ref().is_some_and(recently)
    }

    /// Whoever was removed beside the broker is out in time.
    pub(super) fn may_act(&self, now: u64, member: &MemberId, does: &str) -> Result<(), String> {
        match self.removals.out_since(member) {
            Some(at) if at + OUT_MS + self.presences.troubled(at, now) < now => {
                Err(format!("{member} is removed since {at} and {does}"))
            }
            _ => Ok(()),
        }
    }

    /// What was accepted fits. What a member inherits may be beyond its own bound.
    fn queues_fit(&self, units: &[Unit], store: &Durable) -> Result<(), String> {
        let accepts = units.iter().flat_map(|unit| &unit.0).filter_map(|write| match write {
            Write::Accept(accept) if !accept.recipients.is_empty() => Some(accept),
            _ => None,
        });
        let to: BTreeSet<_> = accepts.flat_map(|accept| &accept.recipients).collect();
        if !self.windows.short_queues || to.is_empty() {
            return Ok(());
        }
        let waits = store.queue_bytes();
        let (mesh, most) = self.queue_limits;
        let long = waits.recipients.iter().find(|(recipient, bytes)| {
            let inherits = matches!(recipient, Recipient::Member(_));
            *bytes > most && to.contains(recipient) && !inherits
        });
        match long {
            Some((recipient, bytes)) => Err(format!("{bytes} bytes wait for {recipient}")),
            None if waits.mesh > mesh => Err(format!("{} bytes wait in the mesh", waits.mesh)),
            None => Ok(()),
        }
    }

    fn joined(&mut self, now: u64, unit: &Unit) -> Result<(), String> {
        let row = unit.0.iter().find_map(|write| match write {
            Write::SaveLease(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or("a join without a lease")?;
        let body: Body = serde_json::from_str(&row.body).map_err(|error| error.to_string())?;
        let subject = (body.address().to_owned(), body.name.clone());
        let whose = (row.member.as_str(), body.proven, body.pid >= ONE_SHOTS);
        self.watchers.came(now, row.presence.as_str(), subject, whose);
        self.presences.joined(row.place.pid.unsigned_abs(), row.presence.as_str())
    }

    fn lease_saved(&mut self, now: u64, row: &LeaseRow) -> Result<(), String> {
        let before = self.leases.save(row)?;
        if before.is_some() {
            self.may_act(now, &row.member, "keeps its lease")?;
        }
        let Some(body) = self.leases.all.get(&row.presence) else { return Ok(()) };
        self.saved.changed(&row.presence, before.as_ref(), body);
        if let Some(before) = &before
            && (before.status, body.status) == (Status::Working, Status::Idle)
            && body.source == "jsonl"
        {
            let hooked = before.source == "hook";
            self.fire(if hooked { Fault::HookStale } else { Fault::WorkingSwept });
        }
        if row.away {
            return Ok(());
        }
        self.removals.came(now, &row.presence, &self.leases)
    }

    /// P2: what is confirmed has been received, or was kept from its recipient by its grants.
    fn confirmed(&mut self, now: u64, gone: &Gone, store: &Durable) -> Result<(), String> {
        let Gone { queue, seq } = gone;
        let envelope = &store.envelopes[seq].envelope;
        let (member, received) = match &queue.recipient {
            Recipient::Session(key) => {
                let member = store.keys.get(key).cloned();
                (member, self.traffic.session_has(key, envelope.id.as_str()))
            }
            Recipient::Presence(presence) => {
                let member = self.leases.all.get(presence).map(|body| body.member.clone());
                let identity = self.presences.identity(presence.as_str());
                (member, identity.is_some_and(|who| self.traffic.has(who, envelope.id.as_str())))
            }
            Recipient::Member(member) => {
                (Some(member.clone()), self.traffic.member_has(member, envelope.id.as_str()))
            }
        };
        if received {
            return Ok(());
        }
        if member.is_some_and(|to| self.windows.may_withhold(&to, envelope, now)) {
            self.fire(Fault::Withheld);
            self.traffic.withheld(&queue.recipient, *seq);
            return Ok(());
        }
        Err(format!("{} is confirmed by {}, who never got it", envelope.id, queue.recipient))
    }
}
