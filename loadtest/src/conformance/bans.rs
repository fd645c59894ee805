//! §6: `ban`, `unban` and `list_bans`. Whoever is banned here is unbanned in the end.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_event, is_iso_ms, text};
use super::peer::Peer;
use super::persona::Persona;
use super::{Check, check, join};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§6", a_ban_needs_a_target_that_is_another_member),
        check!("§6", a_name_of_several_members_is_ambiguous, [26], "the reference bans one"),
        check!("§6", a_ban_closes_all_connections_of_the_member),
        check!("§2.2", the_hello_of_a_banned_member_is_revoked),
        check!("§6", the_bans_are_listed_for_every_member),
        check!("§6", a_banned_key_cannot_join_by_invite, [26], "the reference lets it in"),
        check!("§6", an_unbanned_member_is_back),
        check!("§6", an_unban_of_nobody_is_not_found),
        check!("§2.6", a_banned_session_leaves_once, [32], "the reference says nothing"),
    ]
}

/// Asks the admin's connection and expects this error.
async fn error(admin: &mut Peer<'_>, ask: Value, code: &str, message: &str) -> Verdict {
    let reply = admin.ask(ask).await?;
    has(&reply, &json!({ "type": "error", "code": code, "message": message }))
}

/// Bans, hands on, and unbans whatever happened.
async fn while_banned<F>(bench: &Bench, who: &Persona, then: F) -> Verdict
where
    F: AsyncFnOnce(&mut Peer<'_>) -> Verdict,
{
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let ban = json!({ "type": "ban", "target": who.member.pubkey });
    let banned = admin.ask(ban).await?;
    let want = json!({ "type": "ban_ack", "banned": who.member.display_name });
    let outcome = match has(&banned, &want) {
        Ok(()) => then(&mut admin).await,
        Err(fault) => Err(fault),
    };
    let unban = json!({ "type": "unban", "target": who.member.pubkey });
    let unbanned = admin.ask(unban).await?;
    outcome?;
    let want = json!({ "type": "unban_ack", "unbanned": who.member.display_name });
    has(&unbanned, &want)
}

async fn a_ban_needs_a_target_that_is_another_member(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let own = admin.who.member.pubkey.clone();
    error(&mut admin, json!({ "type": "ban" }), "invalid", "target required").await?;
    let nobody = json!({ "type": "ban", "target": "nobody at all" });
    error(&mut admin, nobody, "not_found", "peer \"nobody at all\" not found").await?;
    // The first member is the owner, too: that it cannot be banned is as good a reason.
    let reply = admin.ask(json!({ "type": "ban", "target": own })).await?;
    let code = text(&reply, "code");
    ensure(matches!(code, "invalid" | "forbidden"), || format!("the code is {code:?}"))?;
    admin.is_served().await
}

async fn a_name_of_several_members_is_ambiguous(bench: &Bench) -> Verdict {
    let name = bench.spender(0).member.display_name;
    join::joined(bench, 1, &name).await?;
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let reply = admin.ask(json!({ "type": "ban", "target": name })).await?;
    if reply["type"] == "ban_ack" {
        admin.ask(json!({ "type": "unban", "target": name })).await?;
    }
    has(&reply, &json!({ "type": "error", "code": "ambiguous" }))
}

async fn a_ban_closes_all_connections_of_the_member(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    let mut session = Peer::session(bench, who.clone()).await?;
    let mut own = Peer::member(bench, who.clone()).await?;
    while_banned(bench, &who, async |_| {
        session.closed(4002, "banned").await?;
        own.closed(4002, "banned").await
    })
    .await
}

async fn the_hello_of_a_banned_member_is_revoked(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    while_banned(bench, &who, async |_| {
        for hello in [who.hello(bench.stamp()), who.session_hello(bench.stamp())] {
            let mut peer = Peer::unknown(bench, who.clone()).await?;
            peer.say(hello).await?;
            let error = peer.until("an error", |_| true).await?;
            has(&error, &json!({ "type": "error", "code": "revoked" }))?;
            let message = text(&error, "message");
            let told = message.starts_with("You've been removed from \"")
                && message.ends_with("\". Contact the mesh owner to rejoin.");
            ensure(told, || format!("the message is {message:?}"))?;
            peer.closed(4002, "banned").await?;
        }
        Ok(())
    })
    .await
}

async fn the_bans_are_listed_for_every_member(bench: &Bench) -> Verdict {
    let (who, other) = (bench.anyone(), bench.anyone());
    while_banned(bench, &who, async |_| {
        let mut other = Peer::session(bench, other.clone()).await?;
        let reply = other.ask(json!({ "type": "list_bans" })).await?;
        has(&reply, &json!({ "type": "list_bans_result" }))?;
        let bans = reply["bans"].as_array().cloned().unwrap_or_default();
        let row = bans.iter().find(|ban| ban["pubkey"] == *who.member.pubkey);
        let row = row.ok_or_else(|| Fault::failed("the ban is not listed"))?;
        has(row, &json!({ "name": who.member.display_name }))?;
        let at = text(row, "revokedAt");
        ensure(is_iso_ms(at), || format!("revokedAt is {at:?}"))
    })
    .await
}

async fn a_banned_key_cannot_join_by_invite(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    while_banned(bench, &who, async |_| {
        join::refused(bench, &who.member.pubkey, "member_banned").await
    })
    .await
}

async fn an_unbanned_member_is_back(bench: &Bench) -> Verdict {
    let who = bench.anyone();
    while_banned(bench, &who, async |_| Ok(())).await?;
    Peer::session(bench, who).await?;
    Ok(())
}

async fn an_unban_of_nobody_is_not_found(bench: &Bench) -> Verdict {
    let mut admin = Peer::member(bench, bench.admin()).await?;
    let who = bench.anyone();
    for target in ["nobody", who.member.pubkey.as_str()] {
        let message = format!("no banned peer \"{target}\"");
        let ask = json!({ "type": "unban", "target": target });
        error(&mut admin, ask, "not_found", &message).await?;
    }
    Ok(())
}

async fn a_banned_session_leaves_once(bench: &Bench) -> Verdict {
    let mut viewer = Peer::session(bench, bench.anyone()).await?;
    let mut sender = Peer::session(bench, bench.anyone()).await?;
    let who = bench.anyone();
    let session = Peer::session(bench, who.clone()).await?;
    let key = session.key();
    while_banned(bench, &who, async |_| viewer.event("peer_left", &key).await.map(drop)).await?;
    let left = |frame: &Value| is_event(frame, "peer_left", &key);
    viewer.nothing_until_marker(&mut sender, "it left twice", left).await
}
