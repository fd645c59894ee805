//! What is posted: the status hook (protocol-core §5.3) and joining by invite
//! (protocol-features §3.1). A body is JSON, whatever it is declared to be. Errors name what is wrong
//! with the request, never the store's.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::client::Status;
use protocol::invite::Invite;
use protocol::limits::{NAME_BYTES, PATH_BYTES};
use protocol::{MemberId, id, lenient, names};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::accept::REQUEST_TIMEOUT;
use super::{Edge, address};
use crate::mesh::Hook;
use crate::model::{Joined, Joining};

/// Why a request is refused.
struct Refused(StatusCode, &'static str);

type Answer = Result<Json<Value>, Refused>;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({ "ok": false, "error": self.1 }));
        let mut response = (self.0, body).into_response();
        if matches!(self.0, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // What is still coming is not read.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn bad(error: &'static str) -> Refused {
    Refused(StatusCode::BAD_REQUEST, error)
}

fn unavailable(error: &crate::store::StoreError) -> Refused {
    tracing::warn!(%error, "a request cannot be served now");
    Refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable")
}

pub(super) async fn hook(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    edge.metrics.hook_request();
    tell_status(&edge, peer, &headers, body).await.into_response()
}

async fn tell_status(edge: &Edge, peer: SocketAddr, headers: &HeaderMap, body: Body) -> Answer {
    let from = address::client(headers, edge.address_header.as_ref(), peer);
    if !edge.hooks.admit(from, edge.clock.now().mono) {
        edge.metrics.hook_request_rate_limited();
        return Err(Refused(StatusCode::TOO_MANY_REQUESTS, "rate limited"));
    }
    if edge.hook_token.is_none() && headers.contains_key(header::ORIGIN) {
        // A page that its reader's browser lets post here is no hook.
        return Err(Refused(StatusCode::FORBIDDEN, "hooks do not come from web pages"));
    }
    if !may_hook(edge, headers) {
        return Err(Refused(StatusCode::UNAUTHORIZED, "unauthorized"));
    }
    let fields = object(edge, body).await?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    let (Some(cwd), Some(status)) = (text("cwd"), text("status")) else {
        return Ok(Json(json!({ "ok": false, "error": "cwd and status required" })));
    };
    let status = match Status::named(status) {
        Some(Status::Dnd) | None => return Err(bad("status must be idle or working")),
        Some(status) => status,
    };
    let session_id = text("session_id");
    if !fits(cwd, PATH_BYTES) || !fits(session_id.unwrap_or_default(), NAME_BYTES) {
        return Err(bad("cwd or session_id is too long"));
    }
    let pid = fields.get("pid").and_then(lenient::integer);
    let trusted = edge.hook_token.is_some();
    // As the hello that told of them was changed, or nothing would match.
    let (cwd, session_id) = (names::tidied(cwd), session_id.map(names::tidied));
    let hook = Hook { session_id, cwd, pid, status, trusted };
    if hook.targets().is_empty() {
        // As if nobody were there, and nothing waits for whoever comes.
        return Ok(Json(json!({ "ok": true, "pending": true })));
    }
    let told = edge.meshes.hook(hook).await.map_err(|error| unavailable(&error))?;
    Ok(Json(match told {
        Some(presence) => json!({ "ok": true, "presence_id": presence }),
        None => json!({ "ok": true, "pending": true }),
    }))
}

/// Digests are compared, so that the time it takes says nothing of the token.
fn may_hook(edge: &Edge, headers: &HeaderMap) -> bool {
    let Some(token) = &edge.hook_token else { return true };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    Sha256::digest(shown) == Sha256::digest(token.expose())
}

pub(super) async fn join(
    State(edge): State<Arc<Edge>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    become_member(&edge, peer, &headers, body).await.into_response()
}

async fn become_member(edge: &Edge, peer: SocketAddr, headers: &HeaderMap, body: Body) -> Answer {
    let from = address::client(headers, edge.address_header.as_ref(), peer);
    if !edge.joins.admit(from, edge.clock.now().mono) {
        return Err(Refused(StatusCode::TOO_MANY_REQUESTS, "rate limited"));
    }
    let fields = object(edge, body).await?;
    let joining = joining(&fields, edge.clock.now().wall)?;
    match edge.meshes.join(&joining).await.map_err(|error| unavailable(&error))? {
        Joined::New(member) => Ok(Json(json!({ "ok": true, "memberId": member }))),
        Joined::Already(member) => {
            Ok(Json(json!({ "ok": true, "memberId": member, "alreadyMember": true })))
        }
        Joined::Refused(error) => Err(bad(error)),
    }
}

/// The invite is what its token says; a payload beside it must say the same.
fn joining(fields: &Map<String, Value>, now: i64) -> Result<Joining, Refused> {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let token = text("invite_token");
    let invite = Invite::from_token(token).ok_or_else(|| bad("invite_bad_signature"))?;
    if let Some(payload) = fields.get("invite_payload").filter(|payload| !payload.is_null()) {
        let same = serde_json::from_value::<Invite>(payload.clone()).is_ok_and(|p| p == invite);
        if !same {
            return Err(bad("invite_mismatch"));
        }
    }
    invite.verify().map_err(|_| bad("invite_bad_signature"))?;
    let pubkey = text("peer_pubkey").to_lowercase();
    if hex::decode(&pubkey).map_or(0, |key| key.len()) != 32 {
        return Err(bad("peer_pubkey must be 64 hex characters"));
    }
    let name = text("display_name").trim();
    let shown = names::tidied(name);
    if name.is_empty() || !fits(name, NAME_BYTES) || !fits(&shown, NAME_BYTES) {
        return Err(bad("display_name required"));
    }
    if !matches!(invite.role.as_str(), "admin" | "member") {
        return Err(bad("invite_bad_signature"));
    }
    let mut entropy = [0; 16];
    getrandom::fill(&mut entropy)
        .map_err(|_| Refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable"))?;
    Ok(Joining {
        token: token.to_owned(),
        mesh: invite.mesh_id.as_str().into(),
        owner_pubkey: invite.owner_pubkey.to_lowercase(),
        role: invite.role,
        member: MemberId::from(id::row_id(u128::from_le_bytes(entropy))),
        pubkey,
        display_name: shown,
        now,
    })
}

async fn object(edge: &Edge, body: Body) -> Result<Map<String, Value>, Refused> {
    let read = timeout(REQUEST_TIMEOUT, to_bytes(body, edge.max_body_bytes)).await;
    let bytes = read
        .map_err(|_| Refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?
        .map_err(|_| Refused(StatusCode::PAYLOAD_TOO_LARGE, "payload too large"))?;
    lenient::object(&bytes).ok_or_else(|| bad("a JSON object is expected"))
}

fn fits(text: &str, most: usize) -> bool {
    text.len() <= most && !text.contains('\0')
}
