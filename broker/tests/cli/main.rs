//! The command line, through the real binary, each test with a directory of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

mod mesh;
mod settings;
mod support;
