//! The HTTP side: the upgrade at `/ws`, health, metrics, and CORS on everything (protocol-core §8).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use router::membership::State as NodeState;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::half_open::Place;
use super::readiness::{Service, Verdict};
use super::socket::Connection;
use super::upgrade::Upgrade;
use super::{Edge, address, posts};
use crate::mesh::io::LONG_ANSWER;
use crate::telemetry::labels::ConnectionRejected;

/// Read buffer of a socket. The library's default of 128 KiB stays resident for each.
const READ_BUFFER: usize = 2048;
/// Bytes fed before they are written without waiting for a flush. What a burst makes of it stays
/// resident, too.
const WRITE_BUFFER: usize = 1024;
/// Most that the library may hold of what was fed: what is written before more is fed, and a frame
/// that is not long, with its header.
const MAX_WRITE_BUFFER: usize = WRITE_BUFFER + 2 * LONG_ANSWER;

/// Everything a node answers.
pub fn routes(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/ws", get(upgrade))
        .route("/health", get(health))
        .route("/health/ready", get(ready))
        .route("/health/full", get(full))
        .route("/metrics", get(metrics))
        .route("/hook/set-status", post(posts::hook))
        .route("/join", post(posts::join))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(middleware::from_fn(cors))
        .with_state(edge)
}

async fn upgrade(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(place): Extension<Arc<Place>>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Some(replay) = replay(&edge, &parts.uri, &parts.headers) {
        return replay;
    }
    let Some(upgrade) = Upgrade::of(&mut parts) else { return not_found().await };
    if edge.refuses.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "this node is going away").into_response();
    }
    let from = address::client(&parts.headers, edge.address_header.as_ref(), peer);
    if !place.upgrade(from) {
        edge.metrics.connection_rejected(ConnectionRejected::HalfOpen);
        let text = "too many sockets without hello from this address";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    let response = upgrade.response();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(edge.max_frame_bytes))
        .max_frame_size(Some(edge.max_frame_bytes));
    edge.tasks.clone().spawn(async move {
        if let Some(socket) = upgrade.socket(config, edge.unfinished.clone()).await {
            Connection::new(edge, socket, place).run().await;
        }
    });
    response
}

/// Asks Fly.io's proxy to bring the upgrade to the node that runs its mesh, if the request names it
/// (`/ws?mesh=ID`). Never twice: views differ for a moment, and any node will do.
fn replay(edge: &Edge, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    if !edge.replays || headers.contains_key("fly-replay-src") {
        return None;
    }
    let mesh = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("mesh="))?;
    let owner = &edge.meshes.elsewhere(mesh)?.id;
    let owner = format!("prefer_instance={owner};fallback=prefer_self");
    let owner = HeaderValue::from_str(&owner).ok()?;
    Some(
        (StatusCode::CONFLICT, [("fly-replay", owner)], "another node runs this mesh")
            .into_response(),
    )
}

async fn health(State(edge): State<Arc<Edge>>) -> Response {
    Json(json!({
        "status": "ok",
        "db": up(&edge, Service::Store),
        "version": env!("CARGO_PKG_VERSION"),
        "gitSha": edge.git_sha,
        "uptime": edge.clock.now().mono / 1000,
    }))
    .into_response()
}

async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let now = edge.clock.now().mono;
    match edge.readiness.verdict(now) {
        Verdict::Ready { degraded } => Json(json!({
            "status": "ready",
            "degraded": degraded,
            "version": env!("CARGO_PKG_VERSION"),
            "gitSha": edge.git_sha,
            "uptime": now / 1000,
        }))
        .into_response(),
        Verdict::NotReady(reason) => {
            let body = Json(json!({ "status": "not_ready", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// For alerts: 503 if anything is wrong, shared or not.
async fn full(State(edge): State<Arc<Edge>>) -> Response {
    let verdict = edge.readiness.verdict(edge.clock.now().mono);
    let fine = verdict == Verdict::Ready { degraded: Vec::new() };
    let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let redis = edge.readiness.is_clustered().then(|| up(&edge, Service::Redis));
    let report = edge.report();
    let body = json!({
        "status": if fine { "ok" } else { "failing" },
        "db": up(&edge, Service::Store),
        "redis": redis,
        "node": {
            "id": &edge.node_id,
            "state": if edge.readiness.is_draining() { NodeState::Draining } else { NodeState::Serving },
            "region": report.region,
            "version": report.version,
            "meshes": report.meshes,
            "connections": report.connections,
        },
        "reason": match verdict {
            Verdict::NotReady(reason) => Some(reason),
            Verdict::Ready { .. } => None,
        },
    });
    (status, Json(body)).into_response()
}

fn up(edge: &Edge, service: Service) -> &'static str {
    if edge.readiness.reaches(service) { "up" } else { "down" }
}

async fn metrics(State(edge): State<Arc<Edge>>) -> Response {
    let half_open = edge.half_open.sockets();
    edge.metrics.set_half_open(half_open as u64);
    edge.metrics.set_connections_active(edge.tasks.len().saturating_sub(half_open) as u64);
    let text = edge.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn not_found() -> Response {
    let mut response = Response::new(Body::from("not found"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn cors(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    allow(response.headers_mut());
    response
}

/// The reference's list, and the methods and headers that its own routes need beside.
fn allow(headers: &mut HeaderMap) {
    const ALLOWED: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PATCH, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Content-Type, X-Mesh-Id, X-Member-Id, X-File-Name, X-Tags, X-Persistent, \
             X-Target-Spec, Authorization",
        ),
    ];
    for (name, value) in ALLOWED {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
