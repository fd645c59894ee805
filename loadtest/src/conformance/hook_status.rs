//! §5.2–5.4: what a hook does to a status, and to what waits behind it.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Verdict, has, is_message, same};
use super::hook::hook;
use super::peer::Peer;
use super::persona::Persona;
use super::presence::{row, told};
use super::{Check, check};

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§5.2", a_hook_never_touches_dnd),
        check!("§4.6", a_hook_that_says_idle_lets_go_what_waited),
        check!("§5.4", a_pending_status_is_applied_to_the_next_hello),
    ]
}

fn says(who: &Persona, status: &str) -> Value {
    json!({ "cwd": who.cwd, "pid": who.pid, "session_id": who.session_id, "status": status })
}

async fn a_hook_never_touches_dnd(bench: &Bench) -> Verdict {
    let mut peer = Peer::session(bench, bench.stranger()).await?;
    told(&mut peer, json!({ "type": "set_status", "status": "dnd" })).await?;
    let presence = peer.greeting["presenceId"].clone();
    let reply = hook(bench, says(&peer.who, "working")).await?;
    has(&reply, &json!({ "ok": true, "presence_id": presence }))?;
    let key = peer.key();
    same("status", &row(&mut peer, &key).await?["status"], "dnd")
}

async fn a_hook_that_says_idle_lets_go_what_waited(bench: &Bench) -> Verdict {
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    let mut ben = Peer::session(bench, bench.stranger()).await?;
    hook(bench, says(&ben.who, "working")).await?;
    same("status", &row(&mut ana, &ben.key()).await?["status"], "working")?;
    let body = bench.word("waits");
    ana.send(&ben.key(), &body).await?;
    let early = |frame: &Value| is_message(frame, &body);
    ben.nothing_until(&mut ana, "now", "it came at once", early).await?;
    hook(bench, says(&ben.who, "idle")).await?;
    ben.message(&body).await?;
    Ok(())
}

async fn a_pending_status_is_applied_to_the_next_hello(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let body = json!({ "cwd": who.cwd, "pid": who.pid, "status": "working" });
    has(&hook(bench, body).await?, &json!({ "ok": true, "pending": true }))?;
    let mut peer = Peer::session(bench, who).await?;
    let key = peer.key();
    same("status", &row(&mut peer, &key).await?["status"], "working")
}
