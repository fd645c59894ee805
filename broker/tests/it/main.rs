//! Tests against real servers: what the broker and its stores promise while things around them break.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should say where"
)]

mod accepting;
mod adoption;
mod audit;
mod beside;
mod claims;
mod cluster;
mod conformance;
mod crowds;
mod databases;
mod fallback;
mod growth;
mod hostile;
mod identities;
mod javascript;
mod joining;
mod legacy;
mod lifecycle;
mod moderation;
mod names;
mod p1_ack_means_durable;
mod p2_nothing_acked_is_lost;
mod p3_accepted_once;
mod p4_order;
mod p5_presence;
mod p6_one_writer;
mod p7_counts_are_sets;
mod p8_bounds;
mod p9_bad_input;
mod pauses;
mod presence_verbs;
mod questions;
mod replays;
mod status;
mod store_postgres;
mod store_postgres_faults;
mod store_postgres_speed;
mod store_sqlite;
mod support;
mod topics_and_grants;
mod unfinished;
mod wire;
