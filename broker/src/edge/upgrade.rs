//! The WebSocket handshake (RFC 6455 §4.2).

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::metered::{Metered, Unfinished};

/// A connection as its task holds it.
pub(super) type Socket = WebSocketStream<Metered<TokioIo<Upgraded>>>;

/// A request to become a WebSocket.
pub(super) struct Upgrade {
    accept: String,
    upgrade: OnUpgrade,
}

impl Upgrade {
    /// What the request asks for, if it is a handshake.
    pub(super) fn of(parts: &mut Parts) -> Option<Self> {
        let asked = parts.method == Method::GET
            && names(&parts.headers, &header::CONNECTION, "upgrade")
            && names(&parts.headers, &header::UPGRADE, "websocket")
            && names(&parts.headers, &header::SEC_WEBSOCKET_VERSION, "13");
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
        let accept = derive_accept_key(key.as_bytes());
        Some(Self { accept, upgrade: parts.extensions.remove::<OnUpgrade>()? })
    }

    /// The answer to the request.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }

    /// The socket, once the answer has been written; nothing if the peer has gone meanwhile.
    pub(super) async fn socket(
        self,
        config: WebSocketConfig,
        unfinished: Unfinished,
    ) -> Option<Socket> {
        let stream = Metered::new(TokioIo::new(self.upgrade.await.ok()?), unfinished);
        Some(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await)
    }
}

/// Whether a header has this word in its list.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}
