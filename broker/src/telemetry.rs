//! What a node says about itself: log lines on stderr ([`log`]) and metrics ([`Metrics`]).
//!
//! Guarantees: stdout is never written to; an observation never fails, and allocates nothing but
//! for the first of a label's value. Left to others: what is worth a line or a count, and serving
//! the text over HTTP.

mod exposition;
pub mod labels;
pub mod log;
mod metrics;

pub use metrics::Metrics;
