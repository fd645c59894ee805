//! HTTP/1.1 as far as checks need it: one request a connection, the answer read to its end.

use std::fmt::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use crate::Error;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer; metrics are the longest.
const MOST: usize = 1 << 20;

/// Where the broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(String);

impl Address {
    /// Reads `http://host:port` or `ws://host:port/ws`.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let failed = |why: &str| Error::Connect { url: url.to_owned(), why: why.to_owned() };
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://"));
        let rest = rest.ok_or_else(|| failed("not an http:// or ws:// address"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() || !matches!(path, "" | "ws") {
            return Err(failed("give http://host:port or ws://host:port/ws"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self(if has_port { host.to_owned() } else { format!("{host}:80") }))
    }

    /// A WebSocket's address.
    pub(crate) fn ws(&self, path: &str) -> String {
        format!("ws://{}{path}", self.0)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
}

/// What is answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
        let mut response = Self { status, headers: headers.collect(), body: String::new() };
        let body = &bytes[end + 4..];
        let chunked = response.header("transfer-encoding").eq_ignore_ascii_case("chunked");
        let body = if chunked { unchunked(body) } else { body.to_vec() };
        response.body = String::from_utf8_lossy(&body).into_owned();
        Some(response)
    }

    /// Whether nothing more is to come on a connection that stays open.
    fn is_whole(bytes: &[u8]) -> bool {
        let Some(response) = Self::parse(bytes) else { return false };
        let length = response.header("content-length").parse();
        matches!(response.status, 101 | 204) || length.is_ok_and(|all| response.body.len() >= all)
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text, 16).ok()).unwrap_or(0);
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    body
}

/// Asks and reads the answer.
pub(crate) async fn fetch(address: &Address, request: Request<'_>) -> Result<Response, String> {
    let asking = async {
        let mut stream = TcpStream::connect(&address.0).await?;
        let Request { method, path, headers, body } = request;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", address.0);
        if !headers.iter().any(|(key, _)| key.eq_ignore_ascii_case("connection")) {
            head += "Connection: close\r\n";
        }
        if !body.is_empty() {
            let length = body.len();
            head += "Content-Type: application/json\r\n";
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        // Writing into a String cannot fail.
        for (key, value) in headers {
            let _ = write!(head, "{key}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        // A broker that refuses a body may hang up while it is written: the answer counts.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut bytes = Vec::new();
        while bytes.len() < MOST && !Response::is_whole(&bytes) {
            match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok::<_, std::io::Error>(bytes)
    };
    let what = format!("{} {}", request.method, request.path);
    match timeout(PATIENCE, asking).await {
        Ok(Ok(bytes)) => Response::parse(&bytes).ok_or_else(|| format!("{what}: no response")),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_both_spellings() {
        for url in ["http://127.0.0.1:7900", "ws://127.0.0.1:7900/ws", "http://127.0.0.1:7900/"] {
            assert_eq!(Address::parse(url).unwrap().ws("/x"), "ws://127.0.0.1:7900/x");
        }
        assert_eq!(Address::parse("ws://host/ws").unwrap().ws(""), "ws://host:80");
        for url in ["", "127.0.0.1:7900", "wss://host/ws", "http://", "ws://host/other"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn answers_are_read_with_a_length_in_chunks_or_to_the_end() {
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b \r\n\r\n{}";
        let response = Response::parse(length).unwrap();
        assert_eq!((response.status, response.header("x-a")), (200, "b"));
        assert_eq!(response.json(), serde_json::json!({}));
        assert!(Response::is_whole(length) && !Response::is_whole(&length[..length.len() - 1]));
        let chunks = b"HTTP/1.1 404 N\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n6\r\n found\r\n0\r\n\r\n";
        assert_eq!(Response::parse(chunks).unwrap().body, "not found");
        assert_eq!(Response::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().status, 204);
        assert!(Response::parse(b"").is_none() && Response::parse(b"what\r\n\r\n").is_none());
    }
}
