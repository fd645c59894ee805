//! §5, §4.6: what a status holds back, and lets go.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, is_message, same};
use super::peer::Peer;
use super::presence::{row, told};
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§5", a_status_is_listed_and_nothing_is_answered),
        check!("§5", a_status_that_is_none_changes_nothing),
        check!("§4.6", who_works_gets_only_what_is_urgent, [7], "a manual status gates, too"),
        check!("§4.6", who_is_not_to_be_disturbed_gets_only_what_is_urgent),
    ]
}

async fn set(peer: &mut Peer<'_>, status: &str) -> Verdict<Value> {
    told(peer, json!({ "type": "set_status", "status": status })).await
}

async fn a_status_is_listed_and_nothing_is_answered(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    for status in ["working", "dnd", "idle"] {
        same("status", &set(&mut ana, status).await?["status"], status)?;
        same("seen by another", &row(&mut ben, &ana.key()).await?["status"], status)?;
    }
    Ok(())
}

async fn a_status_that_is_none_changes_nothing(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    set(&mut ana, "dnd").await?;
    ana.say(json!({ "type": "set_status", "status": "asleep" })).await?;
    let key = ana.key();
    same("status", &row(&mut ana, &key).await?["status"], "dnd")
}

async fn who_works_gets_only_what_is_urgent(bench: &Bench) -> Verdict {
    holds_back(bench, "working").await
}

async fn who_is_not_to_be_disturbed_gets_only_what_is_urgent(bench: &Bench) -> Verdict {
    holds_back(bench, "dnd").await
}

/// `next` and `low` wait, `now` comes; all that waited comes as soon as the peer is idle.
async fn holds_back(bench: &Bench, status: &str) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    set(&mut ben, status).await?;
    let (next, low) = (bench.word("next"), bench.word("low"));
    ana.send(&ben.key(), &next).await?;
    ana.send_with(&ben.key(), &low, json!({ "priority": "low" })).await?;
    let early = |frame: &Value| is_message(frame, &next) || is_message(frame, &low);
    // The marker is urgent.
    let held = ben.nothing_until(&mut ana, "now", "it came at once", early).await;
    set(&mut ben, "idle").await?;
    held?;
    ben.message(&next).await?;
    ben.message(&low).await?;
    Ok(())
}
