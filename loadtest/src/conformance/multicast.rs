//! §4.1, §4.4: broadcasts and groups.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, has, is_message};
use super::peer::Peer;
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§4.1", a_broadcast_reaches_other_members_and_not_ones_own),
        check!("§4.1", at_all_is_a_broadcast_too),
        check!("§4.4", a_multicast_reaches_each_session_of_a_member, [9], "nobody is skipped"),
        check!("§4.1", a_group_reaches_its_members_only),
        check!("§4.1", a_group_above_reaches_those_below, [12], "a/b/c is in @a/b and in @a"),
        check!("§4.4", a_multicast_reaches_a_peer_in_grace, [9], "the reference misses it"),
        check!("§4.3", a_multicasts_ack_says_how_many_it_is_for, [], "additive"),
    ]
}

async fn a_broadcast_reaches_other_members_and_not_ones_own(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ana.who)).await?;
    let body = bench.word("broadcast");
    ana.send("*", &body).await?;
    ben.message(&body).await?;
    let had = |frame: &Value| is_message(frame, &body);
    sibling.nothing_until_marker(&mut ben, "the sender's member has it", had).await?;
    ana.has_not("the sender has it", had)
}

async fn at_all_is_a_broadcast_too(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let body = bench.word("broadcast");
    ana.send("@all", &body).await?;
    ben.message(&body).await?;
    Ok(())
}

async fn a_multicast_reaches_each_session_of_a_member(bench: &Bench) -> Verdict {
    let (mut ana, mut ben) = bench.pair().await?;
    let mut sibling = Peer::session(bench, bench.sibling(&ben.who)).await?;
    let body = bench.word("broadcast");
    ana.send("*", &body).await?;
    ben.message(&body).await?;
    sibling.message(&body).await?;
    Ok(())
}

async fn a_group_reaches_its_members_only(bench: &Bench) -> Verdict {
    let (mut ana, mut eve) = bench.pair().await?;
    let group = bench.word("group");
    let mut ben = Peer::session(bench, bench.stranger().within(&group)).await?;
    let body = bench.word("to the group");
    ana.send(&format!("@{group}"), &body).await?;
    ben.message(&body).await?;
    eve.nothing_until_marker(&mut ana, "an outsider has it", |frame| is_message(frame, &body)).await
}

async fn a_group_above_reaches_those_below(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let top = bench.word("top");
    let mut ben = Peer::session(bench, bench.stranger().within(&format!("{top}/b/c"))).await?;
    for above in [format!("@{top}/b"), format!("@{top}")] {
        let body = bench.word("to those below");
        ana.send(&above, &body).await?;
        ben.message(&body).await?;
    }
    for beside in [format!("@{top}/b/c/d"), format!("@{top}/x"), format!("@{top}/b/")] {
        let body = bench.word("beside");
        ana.send(&beside, &body).await?;
        let had = |frame: &Value| is_message(frame, &body);
        ben.nothing_until_marker(&mut ana, &format!("{beside} reached it"), had).await?;
    }
    Ok(())
}

async fn a_multicasts_ack_says_how_many_it_is_for(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let group = bench.word("group");
    let _inside = Peer::session(bench, bench.stranger().within(&group)).await?;
    for (to, count) in [(format!("@{group}"), 1), (format!("@{}", bench.word("nobody")), 0)] {
        let ack = ana.send_with(&to, &bench.word("counted"), json!({})).await?;
        has(&ack, &json!({ "queued": true, "recipients": count }))?;
    }
    let ack = ana.send_with(&ben.key(), &bench.word("to one"), json!({})).await?;
    has(&ack, &json!({ "queued": true, "recipients": null }))
}

async fn a_multicast_reaches_a_peer_in_grace(bench: &Bench) -> Verdict {
    let (mut ana, ben) = bench.pair().await?;
    let who = ben.who.clone();
    ben.leave().await;
    let body = bench.word("broadcast");
    ana.send_with("*", &body, json!({})).await?;
    let mut ben = Peer::session(bench, who).await?;
    ben.message(&body).await?;
    Ok(())
}
