//! Asking the node that these settings describe, on this machine, over its port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Config;

/// Docker's own default for a check is 30 s; nobody should wait that long for a node on this machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER_BYTES: u64 = 64 << 10;

/// Where the node listens; one that listens everywhere listens here, too.
pub(super) fn address(config: &Config) -> SocketAddr {
    let address = match config.bind_addr {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    SocketAddr::new(address, config.broker_port)
}

/// What it answers to a GET: the status and the body. Else why there is no answer.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let exchange = timeout(PATIENCE, exchange(address, path)).await;
    let text = exchange.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let mut words = text.split(' ');
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/"));
    let status = words.next().and_then(|word| word.parse().ok()).filter(|_| is_http);
    let status = status.ok_or_else(|| "it does not speak HTTP".to_owned())?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

async fn exchange(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // 1.0: the answer ends with the connection, and comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
