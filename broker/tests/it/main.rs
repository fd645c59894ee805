//! Tests against real servers: what the broker and its stores promise while things around them break.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should say where"
)]

mod store_postgres;
mod store_postgres_faults;
mod store_sqlite;
mod support;
