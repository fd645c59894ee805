//! §2.4, §2.6: a member that comes anew finds what its last connection left.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, is_event, is_iso_ms, same, text};
use super::peer::Peer;
use super::persona::Persona;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§2.4", a_member_that_comes_anew_is_told_what_it_left),
        check!("§2.6", a_member_that_comes_anew_is_announced_as_returned),
    ]
}

/// A member's connection says all this of itself and goes, and all of it is saved.
async fn leave_behind(bench: &Bench, who: &Persona, said: &[Value]) -> Verdict {
    let mut own = Peer::member(bench, who.clone()).await?;
    for frame in said {
        own.say(frame.clone()).await?;
    }
    own.is_served().await?;
    own.leave().await;
    // What is accepted now is stored behind what was saved then.
    let mut other = Peer::session(bench, bench.anyone()).await?;
    other.send(&format!("@{}", bench.word("nobody")), "c").await?;
    Ok(())
}

async fn a_member_that_comes_anew_is_told_what_it_left(bench: &Bench) -> Verdict {
    let who = bench.fresh(&bench.daemon());
    let (group, summary) = (bench.word("group"), bench.word("summary"));
    let said = [
        json!({ "type": "join_group", "name": group, "role": "lead" }),
        json!({ "type": "set_summary", "summary": summary }),
        json!({ "type": "set_stats", "stats": { "messagesIn": 5, "toolCalls": 7 } }),
    ];
    leave_behind(bench, &who, &said).await?;
    let mut anew = Peer::member(bench, bench.fresh(&who)).await?;
    anew.say(json!({ "type": "leave_group", "name": group })).await?;
    let greeting = &anew.greeting;
    has(greeting, &json!({ "restored": true, "lastSummary": summary }))?;
    let at = text(greeting, "lastSeenAt");
    ensure(is_iso_ms(at), || format!("lastSeenAt is {at:?}"))?;
    let groups = greeting["restoredGroups"].as_array().cloned().unwrap_or_default();
    let ours = groups.contains(&json!({ "name": group, "role": "lead" }));
    ensure(ours, || format!("restoredGroups are {groups:?}"))?;
    for (count, least) in [("messagesIn", 5), ("messagesOut", 0), ("toolCalls", 7), ("errors", 0)] {
        let stats = &greeting["restoredStats"];
        ensure(stats[count].as_u64() >= Some(least), || format!("restoredStats are {stats}"))?;
    }
    anew.is_served().await?;
    Ok(())
}

async fn a_member_that_comes_anew_is_announced_as_returned(bench: &Bench) -> Verdict {
    let mut viewer = Peer::session(bench, bench.anyone()).await?;
    let who = bench.fresh(&bench.daemon());
    let summary = bench.word("summary");
    let said = [json!({ "type": "set_summary", "summary": summary })];
    leave_behind(bench, &who, &said).await?;
    let anew = Peer::member(bench, bench.fresh(&who)).await?;
    // Connections before these may have returned, too: of the last one speaks its summary.
    let key = &anew.who.member.pubkey;
    let returned = |frame: &Value| {
        is_event(frame, "peer_returned", key) && frame["eventData"]["summary"] == *summary
    };
    let event = viewer.until("peer_returned with the summary", returned).await?;
    let data = &event["eventData"];
    has(data, &json!({ "name": who.display_name }))?;
    let at = text(data, "lastSeenAt");
    ensure(is_iso_ms(at), || format!("lastSeenAt is {at:?}"))?;
    same("groups is a list", data["groups"].is_array(), true)
}
