//! Prometheus text (format 0.0.4) of everything registered, and zeros for what has not happened.

use std::fmt::Write;

use prometheus::{Encoder, Registry, TextEncoder};

/// A labelled counter or a histogram: without a sample the exporter says nothing about it.
pub(super) struct Silent {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// The bounds of a histogram's buckets; none for a counter.
    pub(super) bounds: &'static [f64],
}

impl Silent {
    /// A counter's zero is a series without labels, as the reference prints it; a histogram's is
    /// one without observations, as `<name> 0` would be no histogram.
    fn write_zero(&self, text: &mut String) {
        let Self { name, help, bounds } = self;
        // Writing to a String cannot fail.
        if bounds.is_empty() {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} 0\n");
            return;
        }
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        for bound in *bounds {
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} 0");
        }
        let _ = write!(text, "{name}_bucket{{le=\"+Inf\"}} 0\n{name}_sum 0\n{name}_count 0\n");
    }
}

/// The whole text.
pub(super) fn render(registry: &Registry, silent: &[Silent]) -> String {
    let families = registry.gather();
    let mut bytes = Vec::with_capacity(8 << 10);
    if let Err(error) = TextEncoder::new().encode(&families, &mut bytes) {
        tracing::warn!(%error, "metrics cannot be encoded");
    }
    let mut text = String::from_utf8(bytes).unwrap_or_default();
    for series in silent {
        if !families.iter().any(|family| family.name() == series.name) {
            series.write_zero(&mut text);
        }
    }
    text
}
