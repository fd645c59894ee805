//! What a check expects, and how it says that it was something else.

use std::fmt::Debug;

use serde_json::Value;

/// How a check ends.
pub(crate) type Verdict<T = ()> = Result<T, Fault>;

/// Why a check did not pass.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The broker did something else.
    Failed(String),
    /// It could not be tried here.
    Skipped(String),
}

impl Fault {
    /// The broker did something else.
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// It could not be tried here.
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }
}

/// Fails with `why` unless `held`.
pub(crate) fn ensure(held: bool, why: impl FnOnce() -> String) -> Verdict {
    if held { Ok(()) } else { Err(Fault::Failed(why())) }
}

/// Fails unless the two are equal.
#[expect(clippy::needless_pass_by_value, reason = "values made for the call")]
pub(crate) fn same<A: PartialEq<B> + Debug, B: Debug>(what: &str, got: A, want: B) -> Verdict {
    ensure(got == want, || format!("{what} is {got:?}, expected {want:?}"))
}

/// Fails unless `got` has everything that `want` has: objects may have more keys.
pub(crate) fn has(got: &Value, want: &Value) -> Verdict {
    match difference(got, want, "") {
        None => Ok(()),
        Some(why) => Err(Fault::Failed(format!("{why} in {}", brief(got)))),
    }
}

fn difference(got: &Value, want: &Value, at: &str) -> Option<String> {
    if let (Value::Object(got), Value::Object(want)) = (got, want) {
        return want.iter().find_map(|(key, want)| {
            let got = got.get(key).unwrap_or(&Value::Null);
            difference(got, want, &format!("{at}.{key}"))
        });
    }
    (got != want).then(|| format!("{at} is {got}, expected {want}"))
}

/// A frame short enough to print.
pub(crate) fn brief(frame: &Value) -> String {
    const MOST: usize = 300;
    let text = frame.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A string field; empty if it is none.
pub(crate) fn text<'a>(frame: &'a Value, key: &str) -> &'a str {
    frame[key].as_str().unwrap_or_default()
}

/// Whether it reads like `2026-01-31T08:15:00.000Z`.
pub(crate) fn is_iso_ms(text: &str) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == pattern.len()
        && text.bytes().zip(pattern).all(|(byte, like)| match like {
            b'd' => byte.is_ascii_digit(),
            like => byte == *like,
        })
}

/// Whether it is a row id: 32 characters of `[0-9A-Za-z]`.
pub(crate) fn is_row_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether it reads like a UUID of version 4.
pub(crate) fn is_uuid_v4(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts[2].starts_with('4')
        && parts.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether it is the message with this body.
pub(crate) fn is_message(frame: &Value, body: &str) -> bool {
    frame["type"] == "push" && frame["ciphertext"] == *body
}

/// Whether it is this event about the peer with this key.
pub(crate) fn is_event(frame: &Value, event: &str, key: &str) -> bool {
    frame["event"] == *event && frame["eventData"]["pubkey"] == *key
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_keys_are_fine_and_other_values_are_not() {
        let got = json!({"a": 1, "b": {"c": "x", "d": 2}});
        assert!(has(&got, &json!({"b": {"c": "x"}})).is_ok());
        assert!(has(&got, &json!({"e": null})).is_ok());
        let Err(Fault::Failed(why)) = has(&got, &json!({"b": {"c": "y"}})) else { panic!() };
        assert!(why.starts_with(r#".b.c is "x", expected "y""#), "{why}");
        assert!(has(&got, &json!({"f": 1})).is_err());
    }

    #[test]
    fn shapes_are_told_apart() {
        assert!(is_iso_ms("2026-01-31T08:15:00.000Z"));
        assert!(!is_iso_ms("2026-01-31 08:15:00.000Z") && !is_iso_ms("2026-01-31T08:15:00Z"));
        assert!(is_row_id(&"aZ09".repeat(8)) && !is_row_id(&"-".repeat(32)));
        assert!(is_uuid_v4("01234567-89ab-4def-8123-456789abcdef"));
        assert!(!is_uuid_v4("01234567-89ab-1def-8123-456789abcdef"));
    }

    #[test]
    fn long_frames_are_cut() {
        assert!(brief(&json!({ "a": "é".repeat(999) })).chars().count() < 310);
    }
}
