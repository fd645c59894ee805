//! JSON as JavaScript writes it, made into what the types of frames read.
//!
//! A client's `1.0` may be an integer, its `null` may be a field that is not there, its strings may hold
//! half of a surrogate pair, of a field that comes twice the last counts, and what nobody reads may be
//! nested deeply. None of this is looked for in a frame that can be read as it
//! is; one that cannot be is rewritten as a text and read again, so that no field has to know of it
//! and none can be forgotten. What is written is never much longer than what was read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Fields of a frame whose value may be any JSON, which is kept: state, stream data, grants.
const ANY_JSON: [&str; 3] = ["value", "data", "grants"];

/// Deeper than any field that is read, and than serde_json would follow: what lies below is `null`.
const DEPTH: usize = 64;

/// The object that a text holds, without fields that are `null`, if it holds one: a body that was
/// posted. Frames have types of their own and are read by [`parse`](crate::client::parse).
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let text = String::from_utf8_lossy(bytes);
    let text = mend(text.strip_prefix('\u{feff}').unwrap_or(&text));
    match serde_json::from_str(&plain(&text)?) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

/// The integer that a field holds: as a number, or as the digits that a shell script makes of it.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The text with every half of a surrogate pair that stands alone written as `U+FFFD`.
pub(crate) fn mend(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        let half = escaped(bytes, at);
        let step = match half {
            Some(0xd800..=0xdbff) => match escaped(bytes, at + 6) {
                Some(0xdc00..=0xdfff) => 12,
                _ => 0,
            },
            Some(0xdc00..=0xdfff) => 0,
            Some(_) => 6,
            None => 2,
        };
        if step == 0 {
            out.push_str(&text[copied..at]);
            out.push_str("\\ufffd");
            copied = at + 6;
        }
        at = bytes.len().min(at + if step == 0 { 6 } else { step });
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// The code unit of a `\uXXXX` at this place.
fn escaped(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let hex = |unit: u16, digit: &u8| {
        let value = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(value).ok()?)
    };
    digits.iter().try_fold(0, hex)
}

/// The text without fields that are `null` and those that come again behind them, and with whole
/// numbers as integers; nothing if it is no JSON.
pub(crate) fn plain(text: &str) -> Option<String> {
    let mut out = Out { text: Vec::with_capacity(text.len()), dropped: Vec::new() };
    let mut from = serde_json::Deserializer::from_str(text);
    Rewrite { out: &mut out, depth: 0, verbatim: false }.deserialize(&mut from).ok()?;
    from.end().ok()?;
    String::from_utf8(out.finish()).ok()
}

/// What has been written.
struct Out {
    text: Vec<u8>,
    /// Places of it that are left out at the end, once for all: moving the rest up each time would
    /// cost the square of a text that repeats itself.
    dropped: Vec<Range<usize>>,
}

impl Out {
    fn finish(mut self) -> Vec<u8> {
        if self.dropped.is_empty() {
            return self.text;
        }
        self.dropped.sort_unstable_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
        let (mut kept, mut at) = (Vec::with_capacity(self.text.len()), 0);
        for Range { start, end } in self.dropped {
            if start > at {
                kept.extend_from_slice(&self.text[at..start]);
            }
            at = at.max(end);
        }
        kept.extend_from_slice(&self.text[at..]);
        kept
    }
}

/// Copies one value.
struct Rewrite<'o> {
    out: &'o mut Out,
    depth: usize,
    verbatim: bool,
}

/// What was copied.
#[derive(PartialEq)]
enum Copied {
    Null,
    Other,
}

impl Rewrite<'_> {
    fn write<E: Error>(self, value: &impl serde::Serialize) -> Result<Copied, E> {
        serde_json::to_writer(&mut self.out.text, value).map_err(E::custom)?;
        Ok(Copied::Other)
    }
}

impl<'de> DeserializeSeed<'de> for Rewrite<'_> {
    type Value = Copied;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Copied, D::Error> {
        if self.depth < DEPTH {
            return from.deserialize_any(self);
        }
        IgnoredAny::deserialize(from)?;
        self.write(&())
    }
}

impl<'de> Visitor<'de> for Rewrite<'_> {
    type Value = Copied;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Copied, E> {
        self.write::<E>(&())?;
        Ok(Copied::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Copied, E> {
        self.write(&truth)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Copied, E> {
        self.write(&number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Copied, E> {
        self.write(&number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Copied, E> {
        match whole(number).filter(|_| !self.verbatim) {
            Some(whole) => self.write(&whole),
            None => self.write(&number),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Copied, E> {
        self.write(&text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Copied, A::Error> {
        let Self { out, depth, verbatim } = self;
        out.text.push(b'[');
        let mut mark = out.text.len();
        while items.next_element_seed(Rewrite { out, depth: depth + 1, verbatim })?.is_some() {
            mark = out.text.len();
            out.text.push(b',');
        }
        out.text.truncate(mark);
        out.text.push(b']');
        Ok(Copied::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Copied, A::Error> {
        let Self { out, depth, verbatim } = self;
        out.text.push(b'{');
        // Where the last of each name is, with the comma before it.
        let mut last: HashMap<String, Range<usize>> = HashMap::new();
        let (mut first, mut repeated) = (true, false);
        while let Some(name) = fields.next_key::<String>()? {
            let start = out.text.len();
            if !first {
                out.text.push(b',');
            }
            serde_json::to_writer(&mut out.text, &name).map_err(A::Error::custom)?;
            out.text.push(b':');
            let verbatim = verbatim || (depth == 0 && ANY_JSON.contains(&&*name));
            let value = fields.next_value_seed(Rewrite { out, depth: depth + 1, verbatim })?;
            if let Some(earlier) = last.remove(&name) {
                out.dropped.push(earlier);
                repeated = true;
            }
            if value == Copied::Null && !verbatim {
                out.text.truncate(start);
            } else {
                first = false;
                last.insert(name, start..out.text.len());
            }
        }
        let begin = last.values().map(|place| place.start).min().filter(|_| repeated);
        if let Some(begin) = begin.filter(|begin| out.text[*begin] == b',') {
            out.dropped.push(begin..begin + 1);
        }
        out.text.push(b'}');
        Ok(Copied::Other)
    }
}

/// The integer that a float is, if it is one.
pub(crate) fn whole(number: f64) -> Option<i64> {
    let exact = number.fract() == 0.0 && number.abs() < 9_223_372_036_854_775_808.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^63")]
    exact.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_of_pairs_are_replaced_and_nothing_else() {
        for (text, mended) in [
            (r#"{"a":"\ud83e\udd80"}"#, r#"{"a":"\ud83e\udd80"}"#),
            (r#"{"a":"\ud83e"}"#, r#"{"a":"\ufffd"}"#),
            (r#"{"a":"\udd80\ud83e\udd80"}"#, r#"{"a":"\ufffd\ud83e\udd80"}"#),
            (r#"{"a":"\ud83e\ud83e\udd80x"}"#, r#"{"a":"\ufffd\ud83e\udd80x"}"#),
            (r#"{"\uDBFFa":"\\ud83e\\\ud83e\u00e9"}"#, r#"{"\ufffda":"\\ud83e\\\ufffd\u00e9"}"#),
            (r#""\ud83"#, r#""\ud83"#),
            (r"\", r"\"),
            ("\"é\\ud800é", "\"é\\ufffdé"),
        ] {
            assert_eq!(mend(text), mended);
        }
    }

    #[test]
    fn null_fields_go_and_whole_numbers_become_integers() {
        let read = r#" {"a":null,"b":[null,1.0,1.5,1e3,-2E0,1e300,-0.0],"c":{"d":null},"e":null} "#;
        assert_eq!(plain(read).unwrap(), r#"{"b":[null,1,1.5,1000,-2,1e+300,0],"c":{}}"#);
        assert_eq!(plain("[]").unwrap(), "[]");
        for bad in ["", "{", "{}{}", "{\"a\":1,}", "[1,]", "nul"] {
            assert_eq!(plain(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_of_a_name_stays_and_what_is_deep_goes() {
        for (read, kept) in [
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":1,"b":0,"\u0061":[1],"a":{"b":1,"b":2}}"#, r#"{"b":0,"a":{"b":2}}"#),
            (r#"{"a":1,"a":null}"#, "{}"),
            (r#"{"a":1,"a":null,"b":2,"c":3}"#, r#"{"b":2,"c":3}"#),
            (r#"{"a":{"b":1,"b":2},"a":3,"c":[{"d":1,"d":2}]}"#, r#"{"a":3,"c":[{"d":2}]}"#),
            (r#"{"value":1,"value":null}"#, r#"{"value":null}"#),
        ] {
            assert_eq!(plain(read).unwrap(), kept, "{read}");
        }
        let nested =
            |depth, core: &str| format!("{}{core}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(plain(&nested(63, "1")).unwrap(), nested(63, "1"));
        assert_eq!(plain(&nested(100_000, "1")).unwrap(), nested(64, "null"));
        assert_eq!(plain(&nested(100_000, "")[1..]), None);
    }

    proptest! {
        /// What is left says the same, without fields that are `null`.
        #[test]
        fn a_rewritten_text_says_what_the_text_says(text in any_json()) {
            let read: Value = serde_json::from_str(&text).unwrap();
            let kept: Value = serde_json::from_str(&plain(&text).unwrap()).unwrap();
            prop_assert_eq!(kept, without_null(read));
        }
    }

    /// Objects with few names, so that they repeat.
    fn any_json() -> impl Strategy<Value = String> {
        let scalar = prop_oneof!["[0-9]", Just("null".to_owned()), Just("\",{}\"".to_owned())];
        scalar.prop_recursive(5, 64, 6, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4);
            let fields = prop::collection::vec(("[a-c]", inner), 0..6);
            let object = fields.prop_map(|fields| {
                let fields = fields.iter().map(|(name, value)| format!("\"{name}\":{value}"));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            });
            prop_oneof![list.prop_map(|items| format!("[{}]", items.join(","))), object]
        })
    }

    fn without_null(value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(without_null).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                fields.map(|(name, value)| (name, without_null(value))).collect()
            }
            other => other,
        }
    }

    #[test]
    fn a_value_that_may_be_any_json_is_kept() {
        let read = r#"{"type":"set_state","value":{"a":null,"b":[1.0,null]},"x":{"value":null}}"#;
        let kept = r#"{"type":"set_state","value":{"a":null,"b":[1.0,null]},"x":{}}"#;
        assert_eq!(plain(read).unwrap(), kept);
        assert_eq!(plain(r#"{"value":null,"key":null}"#).unwrap(), r#"{"value":null}"#);
    }
}
