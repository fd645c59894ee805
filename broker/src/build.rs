//! Which build this is. Known of release builds; see `build.rs` beside `Cargo.toml`.

/// The version, with the commit and its date where they are known: `0.1.0 (6660452a1b2c, 2026-11-30)`.
pub const VERSION: &str = env!("BUILD_VERSION");

/// The commit, or nothing.
pub const COMMIT: &str = env!("BUILD_COMMIT");
