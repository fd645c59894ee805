//! §4.7, §4.8: confirmations, and what became of a message.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, is_iso_ms, same, text};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.8", a_message_is_held_until_it_is_confirmed),
        check!("§4.7", a_message_is_confirmed_by_the_clients_id, [35], "siblings are told apart"),
        check!("§4.7", a_stranger_confirms_nothing, [24], "only the recipient can"),
        check!("§4.7", a_confirmation_of_nothing_is_ignored),
        check!(
            "§4.6",
            what_was_not_confirmed_comes_again_on_return,
            [6],
            "at once, not after 30 s"
        ),
        check!("§4.8", whom_a_message_concerns_finds_it_by_the_beginning_of_its_id),
        check!("§4.8", an_id_of_another_shape_is_an_invalid_argument),
        check!("§4.8", an_unknown_message_is_not_found),
    ]
}

async fn status(peer: &mut Peer<'_>, message: &str) -> Verdict<Value> {
    let ask = json!({ "type": "message_status", "messageId": message });
    let reply = peer.ask(ask).await?;
    has(&reply, &json!({ "type": "message_status_result", "messageId": message }))?;
    Ok(reply)
}

/// Sends, and the recipient has it but does not confirm; gives the push.
async fn unconfirmed(ana: &mut Peer<'_>, ben: &mut Peer<'_>, with: Value) -> Verdict<Value> {
    ben.confirms = false;
    let body = ana.bench.word("unconfirmed");
    ana.send_with(&ben.key(), &body, with).await?;
    ben.message(&body).await
}

async fn a_message_is_held_until_it_is_confirmed(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let push = unconfirmed(&mut ana, &mut ben, json!({})).await?;
    let id = text(&push, "messageId");
    let row = |status: &str| json!([{ "name": ben.who.display_name, "pubkey": ben.key(), "status": status }]);
    let (held, delivered) = (row("held"), row("delivered"));
    let want = json!({
        "targetSpec": ben.key(), "delivered": false, "deliveredAt": null, "recipients": held,
    });
    has(&status(&mut ana, id).await?, &want)?;
    ben.say(json!({ "type": "client_ack", "brokerMessageId": id })).await?;
    let reply = confirmed(&mut ana, &mut ben, id).await?;
    has(&reply, &json!({ "delivered": true, "recipients": delivered }))?;
    let at = text(&reply, "deliveredAt");
    ensure(is_iso_ms(at), || format!("deliveredAt is {at:?}"))
}

/// The status once the recipient's confirmation, which nothing answers, has been handled: what it
/// asks behind it is answered after it.
async fn confirmed(ana: &mut Peer<'_>, ben: &mut Peer<'_>, id: &str) -> Verdict<Value> {
    ben.is_served().await?;
    let mut reply = status(ana, id).await?;
    // The answer may overtake the commit of the confirmation, but not often.
    for _ in 0..50 {
        if reply["delivered"] == true {
            break;
        }
        tokio::time::sleep(tokio::time::Duration::from_millis(20)).await;
        reply = status(ana, id).await?;
    }
    Ok(reply)
}

async fn a_message_is_confirmed_by_the_clients_id(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let client_id = bench.word("mine");
    let with = json!({ "client_message_id": client_id });
    let push = unconfirmed(&mut ana, &mut ben, with).await?;
    ben.say(json!({ "type": "client_ack", "clientMessageId": client_id })).await?;
    let reply = confirmed(&mut ana, &mut ben, text(&push, "messageId")).await?;
    same("delivered", &reply["delivered"], true)
}

async fn a_stranger_confirms_nothing(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut eve = Peer::session(bench, bench.anyone()).await?;
    let client_id = bench.word("theirs");
    let with = json!({ "client_message_id": client_id });
    let push = unconfirmed(&mut ana, &mut ben, with).await?;
    let id = text(&push, "messageId");
    let ack = json!({
        "type": "client_ack", "brokerMessageId": id, "clientMessageId": client_id,
    });
    eve.say(ack).await?;
    // A confirmation of the stranger's own, behind it, is through when it counts.
    let own = unconfirmed(&mut ana, &mut eve, json!({})).await?;
    let own = text(&own, "messageId");
    eve.say(json!({ "type": "client_ack", "brokerMessageId": own })).await?;
    let reply = confirmed(&mut ana, &mut eve, own).await?;
    same("the stranger's own is delivered", &reply["delivered"], true)?;
    same("delivered", &status(&mut ana, id).await?["delivered"], false)
}

async fn a_confirmation_of_nothing_is_ignored(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    ana.say(json!({ "type": "client_ack" })).await?;
    ana.say(json!({ "type": "client_ack", "brokerMessageId": bench.word("none") })).await?;
    ana.is_served().await?;
    ana.has_not("answered", |frame| frame["type"] != "push")
}

async fn what_was_not_confirmed_comes_again_on_return(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let push = unconfirmed(&mut ana, &mut ben, json!({})).await?;
    let who = ben.who.clone();
    ben.leave().await;
    let mut ben = Peer::session(bench, who).await?;
    let again = ben.message(text(&push, "ciphertext")).await?;
    same("messageId", &again["messageId"], &push["messageId"])
}

async fn whom_a_message_concerns_finds_it_by_the_beginning_of_its_id(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut admin = Peer::session(bench, bench.admin()).await?;
    let id = ana.send(&ben.key(), &bench.word("found")).await?;
    let start = id.get(..31).ok_or_else(|| Fault::Failed(format!("the id is {id:?}")))?;
    for peer in [&mut ana, &mut ben, &mut admin] {
        status(peer, start).await?;
    }
    Ok(())
}

async fn an_id_of_another_shape_is_an_invalid_argument(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    for (id, len) in [("short", 5), ("not-base62-at-all", 17), (&"a".repeat(33), 33)] {
        let error = ana.ask(json!({ "type": "message_status", "messageId": id })).await?;
        let message = format!("messageId must be 8-32 base62 chars (got {len})");
        let want = json!({ "type": "error", "code": "invalid_argument", "message": message });
        has(&error, &want)?;
    }
    Ok(())
}

async fn an_unknown_message_is_not_found(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let ask = json!({ "type": "message_status", "messageId": "zzzzzzzzNoSuchMessage" });
    let want = json!({ "type": "error", "code": "not_found", "message": "message not found" });
    has(&ana.ask(ask).await?, &want)
}
