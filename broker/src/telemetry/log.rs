//! Log lines on stderr: for people when they watch, JSON when a machine collects them.

use std::fmt;
use std::io::{IsTerminal, Write};

use crate::clock::wall_ms;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::{Layer, Registry};

/// The `component` of every line, as the reference has it.
const COMPONENT: &str = "broker";

/// Libraries that say at `info` what nobody asked; a filter that names them overrules this.
const QUIET: &str = "opentelemetry=warn,opentelemetry_sdk=warn,sqlx=warn";

/// Starts logging for the whole process; a second call changes nothing. `filter` is what
/// `LOG_LEVEL` allows; one that cannot be read logs at `info`.
pub fn init(filter: &str) {
    let targets = format!("{QUIET},{filter}")
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(tracing::level_filters::LevelFilter::INFO));
    let stderr = std::io::stderr;
    let result = if stderr().is_terminal() {
        // A terminal that was closed cannot be written to: the layer's own complaint about that
        // would panic.
        let human = tracing_subscriber::fmt::layer().compact().with_target(false);
        let human = human.log_internal_errors(false);
        tracing::subscriber::set_global_default(
            Registry::default().with(human.with_writer(stderr).with_filter(targets)),
        )
    } else {
        tracing::subscriber::set_global_default(
            Registry::default().with(JsonLines { out: stderr }.with_filter(targets)),
        )
    };
    // A test binary may have set one already; its lines go there.
    drop(result);
}

/// One JSON object per event: `ts`, `level`, `component`, `msg`, then the fields of the spans
/// around it, outermost first, and its own.
struct JsonLines<F> {
    out: F,
}

impl<S, F, W> Layer<S> for JsonLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn() -> W + 'static,
    W: Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut context = Map::new();
        for span in ctx.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                context.extend(fields.0.clone());
            }
        }
        context.extend(own.0);
        let line = line(wall_ms(), *event.metadata().level(), context);
        // One write, so that lines of several threads do not mix. Nobody to tell if it fails.
        let _ = (self.out)().write_all(line.as_bytes());
    }
}

/// The line, with its newline. Context cannot displace the four leading keys.
fn line(now_ms: i64, level: tracing::Level, mut context: Map<String, Value>) -> String {
    let message = context.remove("message");
    for taken in ["ts", "level", "component", "msg"] {
        context.remove(taken);
    }
    let text = |value: &str| Value::from(value).to_string();
    let mut line = format!(
        r#"{{"ts":"{}","level":"{}","component":"{COMPONENT}","msg":{}"#,
        protocol::time::iso(now_ms),
        level.as_str().to_ascii_lowercase(),
        text(message.as_ref().and_then(Value::as_str).unwrap_or_default()),
    );
    for (name, value) in context {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut line, format_args!(",{}:{value}", text(&name)));
    }
    line.push_str("}\n");
    line
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object_with_the_context_of_its_spans() {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let layer = JsonLines { out: move || out.clone() };
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let span = tracing::info_span!("mesh", mesh.id = "m1", ts = "taken");
            let _inside = span.enter();
            tracing::warn!(peers = 3, ok = true, name = "a\"b", "peer {}\nleft", 7);
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "warn");
        assert_eq!(line["component"], "broker");
        assert_eq!(line["msg"], "peer 7\nleft");
        assert_eq!((&line["mesh.id"], &line["peers"]), (&"m1".into(), &3.into()));
        assert_eq!((&line["ok"], &line["name"]), (&true.into(), &"a\"b".into()));
        let ts = line["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && ts.ends_with('Z') && text.starts_with(r#"{"ts":"#), "{text}");
    }
}
