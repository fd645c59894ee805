//! §4.1–4.3: whom a `send` reaches, its ack, and its limits.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_message, is_row_id, same, text};
use super::peer::Peer;
use super::{Check, check};

const NO_RECIPIENT: &str = "no connected peer for target \
    (not online, or targetSpec is your own key without another session)";
/// Far above any burst a broker would allow one member.
const TOO_MANY: usize = 40;

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.1", a_session_key_reaches_that_session_only),
        check!("§4.1", a_member_key_reaches_the_member),
        check!("§4.1", a_members_own_key_reaches_its_other_session),
        check!("§4.1", names_prefixes_and_tags_are_no_targets),
        check!("§4.2", ones_own_key_without_another_session_has_no_recipient),
        check!("§4.3", an_ack_has_the_sends_id_and_a_message_id),
        check!("§4.3", a_send_without_an_id_is_acked_with_an_empty_one),
        check!("§4.2", a_payload_above_the_limit_is_refused_and_one_at_it_is_not),
    ]
}

pub(super) fn late_checks() -> Vec<Check> {
    vec![check!("§4.2", a_member_that_sends_too_much_is_told_the_rate)]
}

async fn a_session_key_reaches_that_session_only(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ben.who)).await?;
    let body = bench.word("direct");
    ana.send(&ben.key(), &body).await?;
    ben.message(&body).await?;
    let had = |frame: &Value| is_message(frame, &body);
    sibling.nothing_until_marker(&mut ana, "its sibling has it", had).await?;
    ben.has_not("it came twice", had)
}

async fn a_member_key_reaches_the_member(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut own = Peer::member(bench, ben.who.clone()).await?;
    let body = bench.word("to the member");
    ana.send(&ben.who.member.pubkey, &body).await?;
    // Which of its connections gets it is the broker's to choose.
    let had = |frame: &Value| is_message(frame, &body);
    tokio::select! {
        got = ben.until("a push", had) => got.map(drop),
        got = own.until("a push", had) => got.map(drop),
    }
}

async fn a_members_own_key_reaches_its_other_session(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ana.who)).await?;
    let body = bench.word("to myself");
    ana.send(&sibling.key(), &body).await?;
    sibling.message(&body).await?;
    Ok(())
}

async fn names_prefixes_and_tags_are_no_targets(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let key = ben.key();
    for target in [&ben.who.display_name, &key[..16], &key.to_uppercase(), "tag:crew"] {
        let error = ana.refused(target, "c", json!({})).await?;
        same(&format!("the error for {target}"), error.as_str(), NO_RECIPIENT)?;
    }
    Ok(())
}

async fn ones_own_key_without_another_session_has_no_recipient(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.stranger()).await?;
    let key = ana.key();
    let error = ana.refused(&key, "c", json!({})).await?;
    same("the error", error.as_str(), NO_RECIPIENT)
}

async fn an_ack_has_the_sends_id_and_a_message_id(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let ack = ana.send_with(&ben.key(), &bench.word("acked"), json!({})).await?;
    has(&ack, &json!({ "type": "ack", "queued": true, "error": null }))?;
    let id = text(&ack, "messageId");
    ensure(is_row_id(id), || format!("messageId is {id:?}"))
}

async fn a_send_without_an_id_is_acked_with_an_empty_one(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let with = json!({ "id": null });
    ana.launch(&ben.key(), &bench.word("nameless"), with).await?;
    let ack = ana.until("an ack", |frame| frame["type"] == "ack").await?;
    has(&ack, &json!({ "id": "", "queued": true }))
}

async fn a_payload_above_the_limit_is_refused_and_one_at_it_is_not(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let rest = "bm9uY2U=".len() + ben.key().len();
    let long = "x".repeat(1_000_000);
    let error = ana.refused(&ben.key(), &long, json!({})).await?;
    let cap = error.rsplit_once('=').and_then(|(_, cap)| cap.parse::<usize>().ok());
    let cap = cap.ok_or_else(|| Fault::Failed(format!("no limit in {error:?}")))?;
    let said = |size: usize| format!("payload too large: {size} bytes > MAX_MESSAGE_BYTES={cap}");
    same("the error", &error, &said(long.len() + rest))?;
    let fits = "x".repeat(cap - rest);
    ana.send(&ben.key(), &fits).await?;
    ben.message(&fits).await?;
    let error = ana.refused(&ben.key(), &format!("{fits}x"), json!({})).await?;
    same("the error", error, said(cap + 1))
}

async fn a_member_that_sends_too_much_is_told_the_rate(bench: &Bench) -> Verdict {
    // Two connections of one member: the allowance is the member's.
    let mut first = Peer::session(bench, bench.spender(0)).await?;
    let mut second = Peer::session(bench, bench.spender(1)).await?;
    let mut ben = Peer::session(bench, bench.stranger()).await?;
    let mut accepted = 0;
    for turn in 0..TOO_MANY {
        let peer = if turn % 2 == 0 { &mut first } else { &mut second };
        let id = bench.word("burst");
        peer.say(json!({
            "type": "send", "id": id, "targetSpec": ben.key(), "nonce": "n", "ciphertext": id,
        }))
        .await?;
        let ack = peer.until("an ack", |frame| frame["id"] == *id).await?;
        if ack["queued"] == true {
            accepted += 1;
            ben.message(&id).await?;
            continue;
        }
        return told(text(&ack, "error"), accepted);
    }
    Err(Fault::Failed(format!("{TOO_MANY} sends at once were accepted")))
}

/// Whether the text is the contract's, and names what was accepted.
fn told(error: &str, accepted: usize) -> Verdict {
    let numbers = error.strip_prefix("rate_limit: max ").and_then(|rest| {
        let (rate, rest) = rest.split_once(" msg/min (burst ")?;
        let burst = rest.strip_suffix(") — slow down")?;
        Some((rate.parse::<u32>().ok()?, burst.parse::<usize>().ok()?))
    });
    let (_, burst) = numbers.ok_or_else(|| Fault::Failed(format!("the error is {error:?}")))?;
    // A second's refill may have come meanwhile.
    ensure((burst..=burst + 5).contains(&accepted), || {
        format!("{accepted} were accepted, and the error is {error:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_error() {
        let error = "rate_limit: max 60 msg/min (burst 10) — slow down";
        assert!(told(error, 10).is_ok() && told(error, 11).is_ok());
        assert!(told(error, 9).is_err() && told(error, 40).is_err());
        assert!(told("rate limited", 10).is_err());
    }
}
