//! §6: `kick` and `disconnect`. What empties the mesh comes last, and a kicked session stays out
//! for a while: the checks behind these use other sessions.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, is_event};
use super::peer::Peer;
use super::{Check, check};

/// A broker that answers at once needs a few questions until somebody is stale.
const FEW: usize = 20;

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§6", a_plain_member_may_not_moderate),
        check!("§6", a_kick_without_a_mode_does_nothing),
        check!("§6", a_kick_finds_a_session_by_name),
        check!("§6", a_kick_finds_sessions_by_their_members_key_or_its_beginning),
        check!("§6", a_kick_leaves_members_own_connections),
        check!("§6", a_disconnect_closes_members_own_connections_too),
        check!("§2.6", a_kicked_session_leaves_once, [32], "the reference says nothing"),
        check!("§2.6", a_disconnected_session_leaves_once, [32], "the reference says nothing"),
        check!("§6", a_kicked_session_is_kept_out, [10, 34], "a kick is more than a blip"),
        check!("§6", stale_sessions_are_told_that_they_are),
        check!("§6", a_disconnect_of_all_spares_the_caller),
        check!("§6", a_kick_of_all_spares_the_caller_and_members_own_connections),
    ]
}

async fn a_plain_member_may_not_moderate(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let verbs =
        [("disconnect", "disconnected"), ("kick", "kicked"), ("ban", "ban"), ("unban", "unban")];
    for (verb, word) in verbs {
        let reply = ana.ask(json!({ "type": verb, "target": ben.who.member.pubkey })).await?;
        let message = format!("only owner or admin can {word}");
        has(&reply, &json!({ "type": "error", "code": "forbidden", "message": message }))?;
    }
    ben.is_served().await
}

async fn a_kick_without_a_mode_does_nothing(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    for verb in ["kick", "disconnect"] {
        let reply = admin.ask(json!({ "type": verb })).await?;
        let kind = format!("{verb}_ack");
        has(&reply, &json!({ "type": kind, "kicked": [], "affected": [] }))?;
    }
    Ok(())
}

/// Kicks or disconnects one, as the admin, who is told whom.
async fn one(admin: &mut Peer<'_>, verb: &str, target: &str, name: &str) -> Verdict {
    let reply = admin.ask(json!({ "type": verb, "target": target })).await?;
    let kind = format!("{verb}_ack");
    has(&reply, &json!({ "type": kind, "kicked": [name], "affected": [name] }))
}

async fn a_kick_finds_a_session_by_name(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let name = bench.word("victim");
    let mut victim = Peer::session(bench, bench.stranger().named(&name)).await?;
    one(&mut admin, "kick", &name, &name).await?;
    victim.closed(4001, "kicked").await
}

async fn a_kick_finds_sessions_by_their_members_key_or_its_beginning(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    for length in [64, 12] {
        let mut victim = Peer::session(bench, bench.stranger()).await?;
        let target = victim.who.member.pubkey.get(..length).unwrap_or_default().to_owned();
        let reply = admin.ask(json!({ "type": "kick", "target": target })).await?;
        has(&reply, &json!({ "type": "kick_ack" }))?;
        let names = reply["kicked"].as_array().cloned().unwrap_or_default();
        let told = names.contains(&json!(victim.who.display_name));
        ensure(told, || format!("kicked {names:?}"))?;
        victim.closed(4001, "kicked").await?;
    }
    Ok(())
}

async fn a_kick_leaves_members_own_connections(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let name = bench.word("daemon");
    let mut own = Peer::member(bench, bench.stranger().named(&name)).await?;
    let reply = admin.ask(json!({ "type": "kick", "target": name })).await?;
    let want = json!({ "type": "kick_ack", "kicked": [], "skipped_control_plane": [name] });
    has(&reply, &want)?;
    own.is_served().await
}

async fn a_disconnect_closes_members_own_connections_too(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let name = bench.word("daemon");
    let mut own = Peer::member(bench, bench.stranger().named(&name)).await?;
    one(&mut admin, "disconnect", &name, &name).await?;
    own.closed(1000, "disconnected").await
}

async fn leaves_once(bench: &Bench, verb: &str) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    // Strangers: no one before them was kicked under their keys.
    let mut viewer = Peer::session(bench, bench.stranger()).await?;
    let name = bench.word("victim");
    let victim = Peer::session(bench, bench.stranger().named(&name)).await?;
    let key = victim.key();
    one(&mut admin, verb, &name, &name).await?;
    viewer.event("peer_left", &key).await?;
    let left = |frame: &Value| is_event(frame, "peer_left", &key);
    viewer.nothing_until_marker(&mut admin, "it left twice", left).await
}

async fn a_kicked_session_leaves_once(bench: &Bench) -> Verdict {
    leaves_once(bench, "kick").await
}

async fn a_disconnected_session_leaves_once(bench: &Bench) -> Verdict {
    leaves_once(bench, "disconnect").await
}

async fn a_kicked_session_is_kept_out(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let name = bench.word("victim");
    let who = bench.stranger().named(&name);
    let mut victim = Peer::session(bench, who.clone()).await?;
    one(&mut admin, "kick", &name, &name).await?;
    victim.closed(4001, "kicked").await?;
    let mut again = Peer::unknown(bench, who.clone()).await?;
    again.say(who.session_hello(bench.stamp())).await?;
    let error = again.until("an error", |_| true).await?;
    has(&error, &json!({ "type": "error", "code": "kicked" }))?;
    again.closed(4001, "kicked").await
}

async fn stale_sessions_are_told_that_they_are(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let modes = [("disconnect", 1000, "disconnected_stale"), ("kick", 4001, "kicked_stale")];
    for (verb, code, reason) in modes {
        let name = bench.word("stale");
        let mut victim = Peer::session(bench, bench.stranger().named(&name)).await?;
        let kind = format!("{verb}_ack");
        // Nobody has been silent for an hour, everybody for a millisecond.
        let none = admin.ask(json!({ "type": verb, "stale": 3_600_000 })).await?;
        has(&none, &json!({ "type": kind, "kicked": [] }))?;
        let mut kicked = Vec::new();
        for _ in 0..FEW {
            let reply = admin.ask(json!({ "type": verb, "stale": 1 })).await?;
            has(&reply, &json!({ "type": kind }))?;
            kicked = reply["kicked"].as_array().cloned().unwrap_or_default();
            if kicked.contains(&json!(name)) {
                break;
            }
        }
        ensure(kicked.contains(&json!(name)), || format!("{verb}: {kicked:?}"))?;
        victim.closed(code, reason).await?;
    }
    Ok(())
}

async fn a_disconnect_of_all_spares_the_caller(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let mut session = Peer::session(bench, bench.stranger()).await?;
    let mut own = Peer::member(bench, bench.stranger()).await?;
    let reply = admin.ask(json!({ "type": "disconnect", "all": true })).await?;
    has(&reply, &json!({ "type": "disconnect_ack" }))?;
    session.closed(1000, "disconnected").await?;
    own.closed(1000, "disconnected").await?;
    admin.is_served().await
}

async fn a_kick_of_all_spares_the_caller_and_members_own_connections(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let mut session = Peer::session(bench, bench.stranger()).await?;
    let mut own = Peer::member(bench, bench.stranger()).await?;
    let reply = admin.ask(json!({ "type": "kick", "all": true })).await?;
    has(&reply, &json!({ "type": "kick_ack" }))?;
    session.closed(4001, "kicked").await?;
    for peer in [&mut own, &mut admin] {
        peer.is_served().await?;
    }
    Ok(())
}
