//! The node's parts against the real things they stand on.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should say where"
)]

mod store_sqlite;
