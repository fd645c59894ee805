//! The bytes that are signed (protocol-core §2.1, protocol-features §3.1): UTF-8 fields joined by
//! `|`, numbers as plain decimals, no newline.

/// A `hello`, signed by the member.
pub fn hello(mesh: &str, member: &str, pubkey: &str, timestamp_ms: i64) -> String {
    format!("{mesh}|{member}|{pubkey}|{timestamp_ms}")
}

/// The parent member's word that a session key is its own, until `expires_at_ms`.
pub fn session_attestation(parent: &str, session: &str, expires_at_ms: i64) -> String {
    format!("claudemesh-session-attest|{parent}|{session}|{expires_at_ms}")
}

/// A `session_hello`, signed by the session key.
pub fn session_hello(mesh: &str, parent: &str, session: &str, timestamp_ms: i64) -> String {
    format!("claudemesh-session-hello|{mesh}|{parent}|{session}|{timestamp_ms}")
}
