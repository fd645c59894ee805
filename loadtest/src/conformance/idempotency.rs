//! §4.9: a retry is not another message; and recipients who are away.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, is_message, same, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.9", a_retry_has_the_first_ones_id_and_comes_once, [13], "accepted once"),
        check!(
            "§4.9",
            another_fingerprint_under_one_id_is_refused,
            [13],
            "the reference accepts any"
        ),
        check!("§4.9", one_id_of_two_members_is_two_messages),
        check!("§4.2", a_member_who_is_away_has_no_connected_peer),
        check!(
            "§4.2",
            a_message_for_a_member_who_is_away_is_held_if_asked_for,
            [14],
            "offline:queue"
        ),
    ]
}

async fn a_retry_has_the_first_ones_id_and_comes_once(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let body = bench.word("retried");
    let with = json!({ "client_message_id": body, "request_fingerprint": "f1" });
    let first = ana.send_with(&ben.key(), &body, with.clone()).await?;
    let again = ana.send_with(&ben.key(), &body, with).await?;
    has(&first, &json!({ "queued": true }))?;
    has(&again, &json!({ "queued": true, "error": null, "messageId": first["messageId"] }))?;
    ben.message(&body).await?;
    let had = |frame: &Value| is_message(frame, &body);
    ben.nothing_until_marker(&mut ana, "it came twice", had).await
}

async fn another_fingerprint_under_one_id_is_refused(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let id = bench.word("reused");
    let with =
        |fingerprint: &str| json!({ "client_message_id": id, "request_fingerprint": fingerprint });
    ana.send_with(&ben.key(), "c", with("f1")).await?;
    let error = ana.refused(&ben.key(), "c", with("f2")).await?;
    same("the error", error.as_str(), "invalid: idempotency_key_reused")
}

async fn one_id_of_two_members_is_two_messages(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut eve = Peer::session(bench, bench.anyone()).await?;
    let with = json!({ "client_message_id": bench.word("shared") });
    let (from_ana, from_ben) = (bench.word("from ana"), bench.word("from ben"));
    let first = ana.send_with(&eve.key(), &from_ana, with.clone()).await?;
    let second = ben.send_with(&eve.key(), &from_ben, with).await?;
    ensure(first["messageId"] != second["messageId"], || "they have one id".to_owned())?;
    eve.message(&from_ana).await?;
    eve.message(&from_ben).await?;
    Ok(())
}

async fn a_member_who_is_away_has_no_connected_peer(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let target = &bench.absent().member.pubkey;
    let error = ana.refused(target, "c", json!({})).await?;
    ensure(error.starts_with("no connected peer for target"), || format!("it is {error:?}"))
}

async fn a_message_for_a_member_who_is_away_is_held_if_asked_for(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let body = bench.word("held");
    let away = bench.absent();
    let with = json!({ "offline": "queue" });
    let ack = ana.send_with(&away.member.pubkey, &body, with.clone()).await?;
    has(&ack, &json!({ "queued": true, "held": true, "error": null }))?;
    let mut away = Peer::member(bench, away).await?;
    let push = away.message(&body).await?;
    same("messageId", text(&push, "messageId"), text(&ack, "messageId"))?;
    // Nobody knows this key, now or later.
    let error = ana.refused(&"0".repeat(64), "c", with).await?;
    ensure(error.starts_with("no connected peer for target"), || format!("it is {error:?}"))
}
