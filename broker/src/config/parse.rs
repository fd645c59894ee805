//! From text, already trimmed, to values. An error says what was expected.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;

/// What a parser answers; the error completes the sentence "… is expected".
pub(super) type Parsed<T> = Result<T, String>;

/// A whole number in decimal.
pub(super) fn whole<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Parsed<T> {
    let (min, max) = (range.start(), range.end());
    match text.parse::<u64>() {
        Ok(number) if number > *max => Err(format!("a whole number ≤ {max}")),
        Ok(number) if number >= *min => {
            T::try_from(number).map_err(|_| format!("a whole number ≤ {max}"))
        }
        _ => Err(format!("a whole number ≥ {min}")),
    }
}

/// Whole seconds.
pub(super) fn seconds(text: &str, range: RangeInclusive<u64>) -> Parsed<Duration> {
    whole(text, range).map(Duration::from_secs)
}

/// Whole milliseconds.
pub(super) fn millis(text: &str, range: RangeInclusive<u64>) -> Parsed<Duration> {
    whole(text, range).map(Duration::from_millis)
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    })
}

/// `1` is on. The reference takes anything else as off; words that plainly mean one or the other
/// are read so, and the rest is refused rather than guessed.
pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("1 (on) or 0 (off)".into()),
    }
}

/// A URL with one of the schemes and something behind it.
pub(super) fn url(text: &str, schemes: &[&str], example: &str) -> Parsed<Secret> {
    let rest = text.split_once("://").filter(|(scheme, rest)| {
        schemes.contains(scheme) && !rest.is_empty() && !text.contains(char::is_whitespace)
    });
    if rest.is_some() {
        return Ok(text.into());
    }
    let schemes: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
    Err(format!("a URL that starts with {} (like {example})", schemes.join(" or ")))
}

/// One word: it is used as a name in tables, keys and logs.
pub(super) fn name(text: &str) -> Parsed<Arc<str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if !text.is_empty() && text.len() <= 128 && text.chars().all(plain) {
        Ok(text.into())
    } else {
        Err("at most 128 letters, digits and -_.:@".into())
    }
}

/// Levels for the log: `info`, or `warn,broker::mesh=debug`. Stricter than the library, which
/// takes a misspelt level as the name of a module and then logs nothing else.
pub(super) fn log_filter(text: &str) -> Parsed<Arc<str>> {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| level.eq_ignore_ascii_case(word))
    };
    let directive = |part: &str| match part.trim().split_once('=') {
        Some((target, word)) => !target.trim().is_empty() && level(word.trim()),
        None => level(part.trim()),
    };
    if text.split(',').all(directive) {
        Ok(text.split(',').map(str::trim).collect::<Vec<_>>().join(",").into())
    } else {
        Err("a level (off, error, warn, info, debug, trace), or several like info,broker=debug"
            .into())
    }
}
