//! §8: health, metrics, CORS and what is not there.

use serde_json::json;

use super::bench::Bench;
use super::expect::{Verdict, ensure, has, same};
use super::peer::Peer;
use super::web::{Request, Response};
use super::{Check, check};

const METRICS: [&str; 12] = [
    "broker_connections_total",
    "broker_connections_active",
    "broker_queue_depth",
    "broker_db_healthy",
    "broker_legacy_auth_hits_total",
    "broker_hook_requests_total",
    "broker_hook_requests_rate_limited_total",
    "broker_connections_rejected_total",
    "broker_messages_routed_total",
    "broker_messages_rejected_total",
    "broker_messages_dropped_by_grant_total",
    "broker_ttl_sweeps_total",
];

pub(super) fn checks() -> Vec<Check> {
    vec![
        check!("§8", health_says_ok_and_how_the_store_is),
        check!("§8", a_broker_that_serves_is_ready),
        check!("§8", the_metrics_have_their_names),
        check!("§8", refusals_are_counted_by_their_reason),
        check!("§8", every_answer_allows_any_origin),
        check!("§8", options_of_any_path_is_204),
        check!("§8", another_path_is_404),
    ]
}

async fn get(bench: &Bench, path: &str) -> Verdict<Response> {
    bench.http(Request { method: "GET", path, ..Request::default() }).await
}

async fn health_says_ok_and_how_the_store_is(bench: &Bench) -> Verdict {
    let response = get(bench, "/health").await?;
    same("status", response.status, 200)?;
    let health = response.json();
    has(&health, &json!({ "status": "ok", "db": "up" }))?;
    let whole = health["version"].is_string() && health["gitSha"].is_string();
    ensure(whole && health["uptime"].is_number(), || format!("it says {health}"))?;
    let kind = response.header("content-type");
    ensure(kind.starts_with("application/json"), || format!("content type {kind:?}"))
}

async fn a_broker_that_serves_is_ready(bench: &Bench) -> Verdict {
    let response = get(bench, "/health/ready").await?;
    same("status", response.status, 200)?;
    has(&response.json(), &json!({ "status": "ready" }))
}

async fn the_metrics_have_their_names(bench: &Bench) -> Verdict {
    let response = get(bench, "/metrics").await?;
    same("status", response.status, 200)?;
    same("content type", response.header("content-type"), "text/plain; version=0.0.4")?;
    let sample = |line: &str, name: &str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    let missing: Vec<_> = METRICS
        .iter()
        .filter(|name| !response.body.lines().any(|line| sample(line, name)))
        .collect();
    same("missing", missing, Vec::<&&str>::new())
}

/// The value of a series, 0 if there is none.
async fn count(bench: &Bench, series: &str) -> Verdict<f64> {
    let body = get(bench, "/metrics").await?.body;
    let value = body.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    Ok(value.unwrap_or(0.0))
}

async fn refusals_are_counted_by_their_reason(bench: &Bench) -> Verdict {
    let hello = "broker_connections_rejected_total{reason=\"bad_signature\"}";
    let send = "broker_messages_rejected_total{reason=\"no_recipient\"}";
    let before = (count(bench, hello).await?, count(bench, send).await?);
    let mut ana = Peer::session(bench, bench.anyone()).await?;
    ana.refused("nobody", "c", json!({})).await?;
    let who = bench.anyone();
    let mut spoilt = who.hello(bench.stamp());
    bench.anyone().sign_member(&mut spoilt);
    let mut refused = Peer::unknown(bench, who).await?;
    refused.say(spoilt).await?;
    refused.ending().await?;
    let after = (count(bench, hello).await?, count(bench, send).await?);
    ensure(after.0 > before.0, || format!("{hello} stays {}", after.0))?;
    ensure(after.1 > before.1, || format!("{send} stays {}", after.1))
}

async fn every_answer_allows_any_origin(bench: &Bench) -> Verdict {
    for path in ["/health", "/health/ready", "/metrics", "/no/such/path", "/ws"] {
        allows(path, &get(bench, path).await?)?;
    }
    let post = Request { method: "POST", path: "/join", headers: &[], body: "{" };
    allows("a refused join", &bench.http(post).await?)
}

fn allows(what: &str, response: &Response) -> Verdict {
    let origin = response.header("access-control-allow-origin");
    same(&format!("origin allowed by {what}"), origin, "*")?;
    let methods = response.header("access-control-allow-methods");
    for method in ["POST", "GET", "OPTIONS"] {
        ensure(methods.contains(method), || format!("{what}: methods {methods:?}"))?;
    }
    let headers = response.header("access-control-allow-headers").to_ascii_lowercase();
    for header in ["content-type", "x-mesh-id", "x-member-id", "x-file-name", "x-tags"] {
        ensure(headers.contains(header), || format!("{what}: headers {headers:?}"))?;
    }
    Ok(())
}

async fn options_of_any_path_is_204(bench: &Bench) -> Verdict {
    for path in ["/health", "/hook/set-status", "/no/such/path"] {
        let response =
            bench.http(Request { method: "OPTIONS", path, ..Request::default() }).await?;
        same(path, response.status, 204)?;
        allows(path, &response)?;
    }
    Ok(())
}

async fn another_path_is_404(bench: &Bench) -> Verdict {
    for path in ["/", "/healthz", "/health/", "/no/such/path"] {
        let response = get(bench, path).await?;
        same(path, response.status, 404)?;
        same("body", response.body.as_str(), "not found")?;
    }
    Ok(())
}
