//! README tells the limits and the close codes that the code has. The settings' table has its test
//! beside the settings.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test of texts; its numbers are small and positive"
)]

use std::fmt::Write;
use std::time::Duration;

use broker::edge;
use broker::edge::auth::{ATTESTATION_MOST_MS, CLOCK_SKEW_MS};
use broker::edge::session::{COST_BURST, COST_PER_SECOND, COST_WAIT_MS};
use broker::edge::session::{PING_MS, STALE_MS, VERB_BURST, VERBS_PER_SECOND};
use broker::mesh::io::LONG_ANSWER;
use broker::mesh::{self, CONTEST_MS, CONTEST_TIMES, FRESH_MS, LIST_BYTES, MESH_BYTES};
use broker::mesh::{
    ANNOUNCE_MS, GONE_KEPT, MISSED_BYTES, REPLAY_MS, REPUSH_MOST_MS, REPUSH_MS, SHORT_LIVED_MS,
};
use broker::model::{
    AUDIT_ROWS, ENVELOPE_TTL_MS, KICKED_MOST, PENDING_MS, QUEUE_QUOTA, SESSION_KEY_TTL_MS,
};
use broker::seat::LINK_BYTES;
use broker::store::committer::{MAX_BATCH_BYTES, MAX_BATCH_UNITS};
use protocol::close::{self, Close};
use protocol::limits::{
    CAPABILITIES, GROUPS, HELLO_BYTES, ID_BYTES, MENTIONS, NAME_BYTES, PATH_BYTES, TARGET_BYTES,
    TEXT_BYTES,
};
use router::link;

const README: &str = include_str!("../../README.md");

fn between(name: &str) -> &'static str {
    let (begin, end) = (format!("<!-- {name}:begin -->\n\n"), format!("<!-- {name}:end -->"));
    let (_, rest) = README.split_once(&begin).expect("README has the marker");
    rest.split_once(&end).expect("README has the marker").0
}

fn bytes(count: usize) -> String {
    match count {
        count if count.is_multiple_of(1024 * 1024) => format!("{} MiB", count / 1024 / 1024),
        count if count.is_multiple_of(1024) => format!("{} KiB", count / 1024),
        count => format!("{count} bytes"),
    }
}

fn time(ms: u64) -> String {
    match ms {
        ms if ms.is_multiple_of(86_400_000) => match ms / 86_400_000 {
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        },
        ms if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

type Row = (&'static str, String, &'static str);

fn of_a_hello() -> Vec<Row> {
    vec![
        ("An id or key chosen by a client", bytes(ID_BYTES), "`malformed`"),
        ("A name: peer, host, group, channel, model", bytes(NAME_BYTES), "`malformed`"),
        ("A target", bytes(TARGET_BYTES), "`malformed`"),
        ("A directory", bytes(PATH_BYTES), "`malformed`"),
        ("A summary, a bio, an avatar", bytes(TEXT_BYTES), "`malformed`"),
        ("Groups of a peer", GROUPS.to_string(), "`malformed`, `invalid`"),
        ("Capabilities a peer tells", CAPABILITIES.to_string(), "`malformed`"),
        ("Mentions of a message", MENTIONS.to_string(), "`malformed`"),
        ("A frame before a hello is accepted", bytes(HELLO_BYTES), "closed: `frame_too_large`"),
        ("A hello's clock, either way", time(CLOCK_SKEW_MS.unsigned_abs()), "`timestamp_skew`"),
        ("An attestation's life", time(ATTESTATION_MOST_MS as u64), "`ttl_too_long`"),
        (
            "A hello's signature, from another socket",
            format!("once in {}", time(REPLAY_MS)),
            "`replayed`",
        ),
    ]
}

fn of_a_connection() -> Vec<Row> {
    vec![
        (
            "Verbs of a connection but `send` and `client_ack`, and its control frames; as many tiny pieces of messages",
            format!("{VERBS_PER_SECOND} a second, {VERB_BURST} at once"),
            "closed: `flood`",
        ),
        (
            "Requests of a connection without an answer",
            format!("{}, or {}", link::WINDOW_COMMANDS, bytes(link::WINDOW_BYTES)),
            "the socket is not read until there is room",
        ),
        (
            "Requests of a connection whose answers are lists",
            "1 at a time".to_owned(),
            "the socket is not read until it is answered",
        ),
        (
            "What the requests of a connection cost: answers, changes of its lease",
            format!(
                "{} a second, {} at once",
                bytes(COST_PER_SECOND as usize),
                bytes(COST_BURST as usize)
            ),
            "the next waits; the socket is not read meanwhile",
        ),
        (
            "The wait of a request for what the ones before cost",
            time(COST_WAIT_MS),
            "what is owed beyond it is let off",
        ),
        (
            "A `peers_list`",
            bytes(LIST_BYTES),
            "rows that take more than their share come without summary, groups, directory, stats and profile",
        ),
        (
            "The wait for an answer",
            time(link::RESULT_TIMEOUT_MS),
            "refused as `unavailable`: retry with the same id",
        ),
        (
            "Pushes of a connection without a confirmation",
            format!("{}, or {}", mesh::WINDOW_ENVELOPES, bytes(mesh::WINDOW_BYTES)),
            "the rest waits in the queue",
        ),
        (
            "A push without a confirmation",
            format!("{}, doubling to {}", time(REPUSH_MS), time(REPUSH_MOST_MS)),
            "pushed again; at once when the peer returns",
        ),
    ]
}

fn of_a_queue() -> Vec<Row> {
    vec![
        (
            "Messages waiting for one recipient",
            format!("{QUEUE_QUOTA} in each lane"),
            "refused as `queue_full`; in a broadcast, left out",
        ),
        (
            "A short-lived session that is not announced",
            format!("within {}", time(SHORT_LIVED_MS)),
            "it is announced like other peers",
        ),
        (
            "Grants and topics written beside the broker",
            format!("known within {}", time(FRESH_MS)),
            "",
        ),
        (
            "Members, roles and meshes changed beside the broker",
            "looked at every second".to_owned(),
            "who is removed, or in an archived mesh, is disconnected",
        ),
        (
            "Sessions of a mesh that are kicked",
            KICKED_MOST.to_string(),
            "the one with the shortest time may come back",
        ),
        (
            "A session key that nobody proves, holds or is awaited at",
            time(SESSION_KEY_TTL_MS.unsigned_abs()),
            "forgotten",
        ),
        ("A text in an entry of the audit", bytes(mesh::AUDIT_TEXT_BYTES), "cut"),
        ("A hook's status without its session", time(PENDING_MS.unsigned_abs()), "forgotten"),
        ("Entries of one `audit_query`", AUDIT_ROWS.to_string(), "the rest with `offset`"),
        (
            "A message without a confirmation",
            time(ENVELOPE_TTL_MS.unsigned_abs()),
            "removed, and its id with it",
        ),
    ]
}

fn of_a_message_or_request() -> Vec<Row> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    vec![
        (
            "A message from its first byte to its last, while the socket is read",
            time(ms(edge::MESSAGE_TIMEOUT)),
            "closed: `flood`",
        ),
        (
            "Bytes of a node's unfinished messages, but for the first of each",
            format!(
                "{} × `MAX_FRAME_BYTES`, of which {} for each mesh and for all before a hello; {} are free",
                edge::UNFINISHED_FRAMES,
                edge::UNFINISHED_PART_FRAMES,
                bytes(edge::UNFINISHED_FREE)
            ),
            "closed: `unavailable`",
        ),
        (
            "A request's head, its body, and a connection without a request",
            format!("{} each", time(ms(edge::REQUEST_TIMEOUT))),
            "the connection is closed; for a body, 408",
        ),
        (
            "A connection that does not become a WebSocket",
            time(ms(edge::CONNECTION_TIME)),
            "it is closed, after a request that it is at",
        ),
        (
            "Connections of a node without a hello",
            format!("{}, or three of four files it may open", edge::HALF_OPEN_MOST),
            "new ones are closed at once",
        ),
    ]
}

fn of_a_node() -> Vec<Row> {
    vec![
        (
            "Bytes waiting for one socket, besides the one answer that is a list",
            "2 × `MAX_FRAME_BYTES`".to_owned(),
            "closed: `slow_consumer`",
        ),
        (
            "An answer that is written in chunks, and shared by those who wait for it",
            format!("from {}", bytes(LONG_ANSWER)),
            "",
        ),
        (
            "A peer that takes nothing",
            time(edge::WRITE_TIMEOUT.as_millis() as u64),
            "closed: `slow_consumer`",
        ),
        (
            "A peer that sends nothing, not even pongs",
            format!("{}, pinged every {}", time(STALE_MS), time(PING_MS)),
            "the socket is dropped, the grace begins",
        ),
        (
            "Departures kept for sessions that are away",
            GONE_KEPT.to_string(),
            "the oldest are told to nobody",
        ),
        (
            "What a returning session is told of others",
            bytes(MISSED_BYTES),
            "the rest is not told: `list_peers` has it",
        ),
        (
            "Takeovers of one presence",
            format!("{CONTEST_TIMES} in {}", time(CONTEST_MS)),
            "without a proven key a second presence, never a third; with one the newest wins, and the \
             conflict is logged and counted",
        ),
        ("Messages of one mesh in memory", bytes(MESH_BYTES), "read back from the store when due"),
        (
            "What waits for another node, in one mesh",
            bytes(LINK_BYTES),
            "said again from the start",
        ),
        (
            "A lease whose grace is over, under a new owner",
            time(ANNOUNCE_MS),
            "until every node has said whom it holds",
        ),
        (
            "One commit of a node",
            format!("{MAX_BATCH_UNITS} writes, or {}", bytes(MAX_BATCH_BYTES)),
            "the rest goes with the next",
        ),
    ]
}

fn limits() -> String {
    let rows =
        [of_a_hello(), of_a_connection(), of_a_message_or_request(), of_a_queue(), of_a_node()]
            .concat();
    let mut text = "| Of what | How much | Beyond it |\n|---|---|---|\n".to_owned();
    for (what, how_much, beyond) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {what} | {how_much} | {beyond} |");
    }
    text
}

/// When this fails, paste what it prints between the markers.
#[test]
fn readme_tells_the_limits() {
    assert!(between("limits") == limits(), "README should say:\n{}", limits());
}

#[test]
fn readme_tells_the_close_codes() {
    let table = between("closes");
    for Close { code, reason } in [
        close::SESSION_REPLACED,
        close::DISCONNECTED,
        close::SHUTTING_DOWN,
        close::NODE_SUPERSEDED,
        close::HELLO_TIMEOUT,
        close::FLOOD,
        close::FRAME_TOO_LARGE,
        close::SLOW_CONSUMER,
        close::UNAVAILABLE,
        close::KICKED,
        close::BANNED,
    ] {
        assert!(table.contains(&format!("| {code} | `{reason}`")), "{code} {reason}");
    }
}
