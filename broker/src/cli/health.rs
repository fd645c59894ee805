//! `health`: whether the node that these settings describe answers, for a container's health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::config::Config;

/// Docker's own default for a check is 30 s; nobody should wait that long for one on this machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the answer, what says how it went is in the first line.
const STATUS_LINE: usize = 64;

/// Asks `/health` of the node on this machine.
pub(super) async fn run(config: &Config) -> Result<String, Failure> {
    let address = SocketAddr::new(reachable(config.bind_addr), config.broker_port);
    let failed = |why: String| Failure::new(format!("no healthy broker at {address}: {why}"));
    let asked = timeout(PATIENCE, status_line(address)).await;
    let line = asked.map_err(|_| failed("no answer".to_owned()))?;
    let line = line.map_err(|error| failed(error.to_string()))?;
    if line.starts_with("HTTP/1.1 200") {
        return Ok(format!("A broker answers at {address}\n"));
    }
    Err(failed(format!("it answered {line:?}")))
}

async fn status_line(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = Vec::new();
    stream.take(STATUS_LINE as u64).read_to_end(&mut start).await?;
    let text = String::from_utf8_lossy(&start);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A node that listens everywhere listens here, too.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}
