//! Accepting connections: bounds and timeouts before a request is understood.
//!
//! A client needs no credentials to connect, and each connection costs a file descriptor. Guarantees:
//! a connection has a place in [`HalfOpen`](super::HalfOpen) from its first moment, or is closed at
//! once; it gives the place back when a hello is accepted, or when it ends; unless it becomes a
//! WebSocket it ends after [`CONNECTION_TIME`], whatever it does. Accepting goes on when the
//! process has no more file descriptors.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Edge, address, routes};
use crate::telemetry::labels::ConnectionRejected;

/// A request's head must have come in this time, and its body in as much again; a connection
/// without a request is closed after it, too. A head fits one packet, so this is for a peer whose
/// packets are lost a few times; the default of `HELLO_TIMEOUT_SECONDS` is the same.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is no WebSocket by then ends: behind the head and the body of a request it
/// bounds a peer that does not read its answer, and keep-alives.
pub const CONNECTION_TIME: Duration = Duration::from_mins(1);
/// Bytes of a request's head: as much as proxies in common use let through.
const HEAD_BYTES: usize = 32 * 1024;
/// Connections of a node without a hello, beyond which new ones are closed: 8,192 that send nothing
/// cost 100 MiB. Fewer if the process may not have so many files: see [`most_half_open`].
pub const HALF_OPEN_MOST: usize = 8192;
/// When connections cannot be accepted: most often there are no file descriptors, which others
/// give back. As axum does.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// What an outsider can cause is logged so often at most.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// How many connections may be without a hello: three of four file descriptors, so that peers,
/// the store and Redis have the fourth whatever outsiders do.
pub fn most_half_open() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files: Option<usize> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    files.map_or(HALF_OPEN_MOST, |files| HALF_OPEN_MOST.min(files / 4 * 3))
}

/// Accepts until it is told to stop. Requests that have begun are answered behind that.
pub async fn accept(edge: Arc<Edge>, listener: TcpListener, stop: CancellationToken) {
    let service = TowerToHyperService::new(routes(edge.clone()));
    let connections = TaskTracker::new();
    let (mut refused, mut failed) = (Seldom::default(), Seldom::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let number = edge.sockets.fetch_add(1, Ordering::Relaxed);
                let named = edge.address_header.is_none().then(|| address::of(peer.ip()));
                let Some(place) = edge.half_open.accept(number, named) else {
                    edge.metrics.connection_rejected(ConnectionRejected::HalfOpen);
                    if let Some(count) = refused.is_due() {
                        tracing::warn!(count, from = %peer.ip(), "connections are closed: too many without a hello");
                    }
                    continue;
                };
                let place = Arc::new(place);
                let service = service.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(ConnectInfo(peer));
                    request.extensions_mut().insert(place.clone());
                    service.call(request)
                });
                connections.spawn(serve(stream, service, stop.clone()));
            }
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                if let Some(count) = failed.is_due() {
                    tracing::error!(%error, count, "connections cannot be accepted");
                }
                stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// Whether only the connection that was to be accepted is gone.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection, until it ends or has become a WebSocket.
async fn serve<S>(stream: TcpStream, service: S, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    // Without it, small frames wait for the ack of the one before (RFC 896 and 1122).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return log(ended),
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_TIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(REQUEST_TIMEOUT, connection).await {
        log(ended);
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended");
    }
}

/// Counts what happens, and says how often at most once in [`LOG_INTERVAL`].
#[derive(Default)]
struct Seldom {
    count: u64,
    next: Option<Instant>,
}

impl Seldom {
    /// It has happened; how often since it was last logged, if it is to be logged now.
    fn is_due(&mut self) -> Option<u64> {
        self.count += 1;
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + LOG_INTERVAL);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_logged_once_a_minute() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.is_due(), Some(1));
        assert!((0..99).all(|_| seldom.is_due().is_none()));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!((seldom.is_due(), seldom.is_due()), (Some(100), None));
    }
}
