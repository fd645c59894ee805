//! §4.4: what a `push` says.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, is_iso_ms, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.4", a_direct_push_says_what_was_sent_and_when),
        check!("§4.4", a_direct_push_says_who_sent_it, [36], "the reference names no member"),
        check!("§4.4", a_multicast_push_says_who_sent_it),
        check!("§4.4", a_push_carries_the_senders_ids, [36], "in multicasts, too"),
        check!("§4.4", a_push_says_what_it_answers, [36], "in direct messages, too"),
        check!("§4.4", what_a_member_sends_comes_from_its_members_key),
        check!(
            "§11.2",
            a_members_own_connection_is_not_told_that_a_push_is_its_members,
            [36],
            "daemons drop what says so"
        ),
    ]
}

async fn a_direct_push_says_what_was_sent_and_when(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    for priority in ["now", "next", "low"] {
        let body = bench.word("said");
        let with = json!({ "priority": priority, "nonce": "bm8=" });
        let ack = ana.send_with(&ben.key(), &body, with).await?;
        let push = ben.message(&body).await?;
        let want = json!({
            "type": "push", "messageId": ack["messageId"], "meshId": ana.who.mesh_id,
            "senderPubkey": ana.key(), "priority": priority, "nonce": "bm8=",
        });
        has(&push, &want)?;
        let at = text(&push, "createdAt");
        ensure(is_iso_ms(at), || format!("createdAt is {at:?}"))?;
    }
    let body = bench.word("by default");
    ana.send(&ben.key(), &body).await?;
    has(&ben.message(&body).await?, &json!({ "priority": "next" }))
}

fn sender(peer: &Peer<'_>) -> Value {
    json!({
        "senderPubkey": peer.key(), "senderMemberPubkey": peer.who.member.pubkey,
        "senderMemberId": peer.who.member.id, "senderName": peer.who.display_name,
    })
}

async fn a_direct_push_says_who_sent_it(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let body = bench.word("signed");
    ana.send(&ben.key(), &body).await?;
    has(&ben.message(&body).await?, &sender(&ana))
}

async fn a_multicast_push_says_who_sent_it(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let body = bench.word("signed");
    ana.send("*", &body).await?;
    has(&ben.message(&body).await?, &sender(&ana))
}

async fn a_push_carries_the_senders_ids(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    for target in [ben.key(), "*".to_owned()] {
        let body = bench.word("numbered");
        let ids = json!({ "client_message_id": body, "request_fingerprint": "f" });
        ana.send_with(&target, &body, ids.clone()).await?;
        has(&ben.message(&body).await?, &ids)?;
    }
    Ok(())
}

async fn a_push_says_what_it_answers(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    for target in [ben.key(), "*".to_owned()] {
        let body = bench.word("answer");
        let with = json!({ "replyToId": "0123456789abcdef0123456789abcdef" });
        ana.send_with(&target, &body, with.clone()).await?;
        has(&ben.message(&body).await?, &with)?;
    }
    Ok(())
}

async fn what_a_member_sends_comes_from_its_members_key(bench: &Bench) -> Verdict {
    let mut ana = Peer::member(bench, bench.anyone()).await?;
    let mut ben = Peer::session(bench, bench.anyone()).await?;
    let body = bench.word("from a member");
    ana.send(&ben.key(), &body).await?;
    has(&ben.message(&body).await?, &json!({ "senderPubkey": ana.who.member.pubkey }))
}

async fn a_members_own_connection_is_not_told_that_a_push_is_its_members(bench: &Bench) -> Verdict {
    // Had the member another session, that could be preferred.
    let mut own = Peer::member(bench, bench.daemon()).await?;
    let mut session = Peer::session(bench, bench.daemon()).await?;
    let body = bench.word("to my daemon");
    session.send(&own.who.member.pubkey, &body).await?;
    let push = own.message(&body).await?;
    has(&push, &json!({ "senderPubkey": session.key(), "senderMemberPubkey": null }))
}
