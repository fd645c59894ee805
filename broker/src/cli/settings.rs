//! `check-config` and `print-config`.

use super::Failure;
use crate::config::{Group, Purpose, Reading, Source, Value};
use crate::store::open;

/// Whether a node would start with these settings.
pub(super) fn check(reading: &Reading) -> Result<String, Failure> {
    let config = reading.config(Purpose::Serve)?;
    Ok(format!("ok: would keep everything in {}\n", open::describe(&config)))
}

/// Every value in effect; also of settings with mistakes, which then fail behind it.
pub(super) fn print(reading: &Reading) -> Result<String, Failure> {
    let rows: Vec<[String; 3]> = reading.values().iter().filter(|v| matters(v)).map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (names, values) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let lines = rows
        .iter()
        .map(|[name, value, source]| format!("{name:names$}  {value:values$}  {source}\n"));
    let text: String = lines.collect();
    match reading.config(Purpose::Serve) {
        Ok(_) => Ok(text),
        Err(mistakes) => Err(Failure::with_answer(mistakes.to_string(), text)),
    }
}

/// Settings without effect are shown only where somebody set them.
fn matters(value: &Value) -> bool {
    value.setting.group != Group::Accepted || value.source != Source::Default
}

fn row(value: &Value) -> [String; 3] {
    let shown = match value.shown() {
        text if text.is_empty() => "(not set)".to_owned(),
        text => text,
    };
    let effect = if value.setting.group == Group::Accepted { ", without effect here" } else { "" };
    [value.setting.name.to_owned(), shown, format!("{}{effect}", value.source.name())]
}
