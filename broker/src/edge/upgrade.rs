//! The upgrade to a WebSocket. axum checks the request; the stream is ours, because a long answer is
//! written to it without a copy for each socket ([`socket`](super::socket)).

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::task::TaskTracker;

/// A WebSocket, at this end.
pub(super) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// A request that may become a WebSocket.
pub(super) struct Upgrade {
    stream: OnUpgrade,
    accept: HeaderValue,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let stream = parts.extensions.get::<OnUpgrade>().cloned();
        let checked = WebSocketUpgrade::from_request_parts(parts, state).await;
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let (Ok(_), Some(stream), Some(key)) = (checked, stream, key) else {
            return Err(StatusCode::NOT_FOUND);
        };
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
        let accept = accept.map_err(|_| StatusCode::NOT_FOUND)?;
        Ok(Self { stream, accept })
    }
}

impl Upgrade {
    /// Switches protocols, and serves what comes of it in a task of its own.
    pub(super) fn accept<F>(
        self,
        config: WebSocketConfig,
        tasks: &TaskTracker,
        serve: impl FnOnce(WebSocket) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { stream, accept } = self;
        tasks.spawn(async move {
            // The client is gone before it has read the answer.
            let Ok(stream) = stream.await else { return };
            let stream = TokioIo::new(stream);
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
            serve(socket).await;
        });
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        response
    }
}
