//! §5.3: `POST /hook/set-status`, case by case. Hooks are few: an address may call thirty a
//! minute.

use serde_json::{Value, json};

use super::bench::Bench;
use super::expect::{Fault, Verdict, ensure, has, same};
use super::peer::Peer;
use super::web::{Request, Response};
use super::{Check, check};

/// Above what an address may call in a minute.
const TOO_MANY: usize = 80;

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§5.3", a_hook_without_cwd_or_status_is_told_so),
        check!("§5.3", a_hook_that_is_no_json_is_a_bad_request, [23], "400 without database text"),
        check!("§5.3", a_hook_with_another_status_is_a_bad_request, [18], "never stored"),
        check!("§5.3", a_hook_that_is_too_large_is_413),
        check!("§5.3", a_hook_for_nobody_is_pending),
        check!("§5.3", a_hook_finds_the_presence_by_cwd_and_pid),
        check!(
            "§5.3",
            a_hook_finds_the_presence_by_its_session_id,
            [18],
            "the reference ignores it"
        ),
        check!(
            "§5.3",
            a_hook_that_fits_two_members_touches_neither,
            [18, 23],
            "the reference picks one"
        ),
        check!("§5.3", a_hook_needs_the_token_if_there_is_one, [23], "HOOK_TOKEN"),
    ]
}

pub(super) fn late_checks() -> Vec<Check> {
    vec![check!(
        "§5.3",
        an_address_with_too_many_hooks_is_rate_limited,
        [23],
        "counted by address, not by what the body says"
    )]
}

/// Calls the hook with this body.
pub(super) async fn post(bench: &Bench, body: &str) -> Verdict<Response> {
    let bearer = bench.hook_token.as_ref().map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    let path = "/hook/set-status";
    bench.http(Request { method: "POST", path, headers: &headers, body }).await
}

/// Calls the hook for a presence; gives the answer's JSON.
pub(super) async fn hook(bench: &Bench, body: Value) -> Verdict<Value> {
    let response = post(bench, &body.to_string()).await?;
    same("status", response.status, 200)?;
    Ok(response.json())
}

async fn a_hook_without_cwd_or_status_is_told_so(bench: &Bench) -> Verdict {
    let want = json!({ "ok": false, "error": "cwd and status required" });
    has(&hook(bench, json!({ "status": "idle" })).await?, &want)?;
    has(&hook(bench, json!({ "cwd": "/x" })).await?, &want)
}

async fn refused(bench: &Bench, body: &str) -> Verdict {
    let response = post(bench, body).await?;
    same("status", response.status, 400)?;
    has(&response.json(), &json!({ "ok": false }))?;
    let named = response.json()["error"].as_str().is_some_and(|error| !error.is_empty());
    ensure(named, || format!("no error in {:?}", response.body))
}

async fn a_hook_that_is_no_json_is_a_bad_request(bench: &Bench) -> Verdict {
    refused(bench, "{").await?;
    refused(bench, "null").await
}

async fn a_hook_with_another_status_is_a_bad_request(bench: &Bench) -> Verdict {
    refused(bench, r#"{"cwd":"/x","status":"asleep"}"#).await?;
    refused(bench, r#"{"cwd":"/x","status":"dnd"}"#).await
}

async fn a_hook_that_is_too_large_is_413(bench: &Bench) -> Verdict {
    let response = post(bench, &json!({ "cwd": "x".repeat(70_000) }).to_string()).await?;
    same("status", response.status, 413)?;
    has(&response.json(), &json!({ "ok": false, "error": "payload too large" }))
}

async fn a_hook_for_nobody_is_pending(bench: &Bench) -> Verdict {
    let body = json!({ "cwd": bench.word("/nowhere"), "status": "working", "pid": 1 });
    has(&hook(bench, body).await?, &json!({ "ok": true, "pending": true }))
}

async fn a_hook_finds_the_presence_by_cwd_and_pid(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let peer = Peer::session(bench, who.clone()).await?;
    let body = json!({ "cwd": who.cwd, "pid": who.pid, "status": "idle" });
    let presence = &peer.greeting["presenceId"];
    has(&hook(bench, body).await?, &json!({ "ok": true, "presence_id": presence }))
}

async fn a_hook_finds_the_presence_by_its_session_id(bench: &Bench) -> Verdict {
    let who = bench.stranger();
    let peer = Peer::session(bench, who.clone()).await?;
    let body = json!({
        "cwd": bench.word("/elsewhere"), "pid": 1, "session_id": who.session_id, "status": "idle",
    });
    let presence = &peer.greeting["presenceId"];
    has(&hook(bench, body).await?, &json!({ "ok": true, "presence_id": presence }))
}

async fn a_hook_that_fits_two_members_touches_neither(bench: &Bench) -> Verdict {
    let one = bench.stranger();
    let mut two = bench.stranger();
    two.cwd.clone_from(&one.cwd);
    two.pid = one.pid;
    let mut peers = [Peer::session(bench, one.clone()).await?, Peer::session(bench, two).await?];
    let body = json!({ "cwd": one.cwd, "pid": one.pid, "status": "working" });
    has(&hook(bench, body).await?, &json!({ "ok": true, "pending": true }))?;
    for peer in &mut peers {
        let key = peer.key();
        same("status", &super::presence::row(peer, &key).await?["status"], "idle")?;
    }
    Ok(())
}

async fn a_hook_needs_the_token_if_there_is_one(bench: &Bench) -> Verdict {
    if bench.hook_token.is_none() {
        return Err(Fault::skipped("no --hook-token given"));
    }
    let body = r#"{"cwd":"/x","status":"idle"}"#;
    let request = Request { method: "POST", path: "/hook/set-status", headers: &[], body };
    same("status", bench.http(request).await?.status, 401)
}

async fn an_address_with_too_many_hooks_is_rate_limited(bench: &Bench) -> Verdict {
    for call in 0..TOO_MANY {
        // Every one speaks of another session: only the address is the same.
        let cwd = bench.word("/many");
        let body = json!({ "cwd": cwd, "pid": call, "status": "idle" }).to_string();
        let response = post(bench, &body).await?;
        if response.status == 429 {
            return has(&response.json(), &json!({ "ok": false, "error": "rate limited" }));
        }
        same("status", response.status, 200)?;
    }
    Err(Fault::Failed(format!("{TOO_MANY} hooks at once were let in")))
}
