//! The audit chain, entry by entry as it lands, and that each happening has exactly one.

use broker::model::{AuditRow, Unit, Write};
use sha2::{Digest, Sha256};

use crate::client::MESH;

#[derive(Clone)]
pub(super) struct Chain {
    last: String,
    pub(super) entries: usize,
}

impl Chain {
    pub(super) fn new() -> Self {
        Self { last: "genesis".to_owned(), entries: 0 }
    }

    /// Protocol-core §7, worked out anew.
    pub(super) fn follow(&mut self, row: &AuditRow) -> Result<(), String> {
        let actor = row.actor.as_ref().map_or("null", |member| member.as_str());
        let at = protocol::time::iso(row.created_at);
        let (event, payload) = (row.event, &row.payload);
        let text = format!("{}|{MESH}|{event}|{actor}|{payload}|{at}", self.last);
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        let right = row.prev_hash == self.last && row.hash == hash;
        self.last = hash;
        self.entries += 1;
        if right { Ok(()) } else { Err(format!("the audit chain breaks at {event} of {actor}")) }
    }
}

/// Each happening of a unit has one entry there, and there are no others.
pub(super) fn complete(unit: &Unit) -> Result<(), String> {
    let count = |wanted: &dyn Fn(&Write) -> bool| unit.0.iter().filter(|w| wanted(w)).count();
    let entries =
        |event: &str| count(&|write| matches!(write, Write::Audit(row) if row.event == event));
    let sent = count(&|write| matches!(write, Write::Accept(_)));
    let left = count(&|write| matches!(write, Write::DropLease(_)));
    let banned = count(&|write| matches!(write, Write::Revoke { .. }));
    let reinstated = count(&|write| matches!(write, Write::Reinstate { .. }));
    let unbanned = reinstated.max(count(&|write| matches!(write, Write::LiftKicks(_))));
    let all = count(&|write| matches!(write, Write::Audit(_)));
    let joined = entries("peer_joined");
    for (event, happened) in [
        ("message_sent", sent),
        ("peer_left", left),
        ("member_banned", banned),
        ("member_unbanned", unbanned),
    ] {
        if entries(event) != happened {
            return Err(format!("{happened} happenings have {} entries {event}", entries(event)));
        }
    }
    if joined > 1 || all != joined + sent + left + banned + unbanned {
        return Err(format!("{all} entries of the audit in one unit: {unit:?}"));
    }
    Ok(())
}

/// The one entry of an accepted envelope says whom it was for.
pub(super) fn describes(unit: &Unit) -> Result<(), String> {
    let accepted = unit.0.iter().find_map(|write| match write {
        Write::Accept(accept) => Some(&accept.envelope),
        _ => None,
    });
    let Some(envelope) = accepted else { return Ok(()) };
    let wanted = serde_json::json!({
        "priority": envelope.priority.as_str(),
        "targetSpec": envelope.target,
    })
    .to_string();
    let right = unit.0.iter().any(|write| match write {
        Write::Audit(row) => wanted == row.payload,
        _ => false,
    });
    if right { Ok(()) } else { Err(format!("{} is not in the audit as sent", envelope.id)) }
}
