//! What a client gives a request to recognize its reply by: `id` and `_reqId`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

/// A scalar of a client's choice, echoed as it came: a text stays that text, a number that number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum EchoId {
    /// What most clients use.
    Text(String),
    /// As counters come out of `JSON.stringify`.
    Number(Number),
    /// Nobody's habit, and no reason to leave a request without its answer.
    Bool(bool),
}

impl EchoId {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Default for EchoId {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<&str> for EchoId {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for EchoId {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl PartialEq<EchoId> for serde_json::Value {
    fn eq(&self, id: &EchoId) -> bool {
        match id {
            EchoId::Text(text) => self == text,
            EchoId::Number(number) => matches!(self, Self::Number(own) if own == number),
            EchoId::Bool(truth) => self == truth,
        }
    }
}

impl<'de> Deserialize<'de> for EchoId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Scalar)
    }
}

struct Scalar;

impl Visitor<'_> for Scalar {
    type Value = EchoId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<EchoId, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<EchoId, E> {
        Ok(text.into())
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<EchoId, E> {
        Ok(EchoId::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<EchoId, E> {
        Ok(EchoId::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<EchoId, E> {
        Ok(EchoId::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<EchoId, E> {
        Number::from_f64(number).map(EchoId::Number).ok_or_else(|| E::custom("a finite number"))
    }
}

/// The same from a frame that cannot be read: of whatever else is there, nothing, and no memory.
#[derive(Default)]
pub(crate) struct Lax(pub(crate) Option<EchoId>);

impl<'de> Deserialize<'de> for Lax {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Lax;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Lax, E> {
        Scalar.visit_str(text).map(|id| Lax(Some(id)))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Lax, E> {
        Scalar.visit_bool(truth).map(|id| Lax(Some(id)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Lax, E> {
        Scalar.visit_i64(number).map(|id| Lax(Some(id)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Lax, E> {
        Scalar.visit_u64(number).map(|id| Lax(Some(id)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Lax, E> {
        Scalar.visit_f64(number).map(|id| Lax(Some(id)))
    }

    fn visit_unit<E: Error>(self) -> Result<Lax, E> {
        Ok(Lax(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lax, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Lax(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Lax, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Lax(None))
    }
}

/// What the refusal of a frame needs of it: anything may be anything, and come more than once.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) verb: Lax,
    pub(crate) id: Lax,
    pub(crate) req_id: Lax,
}

impl<'de> Deserialize<'de> for Echo {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Frame)
    }
}

struct Frame;

impl<'de> Visitor<'de> for Frame {
    type Value = Echo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Echo, A::Error> {
        let mut echo = Echo::default();
        while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
            let field = match &*name {
                "type" => &mut echo.verb,
                "id" => &mut echo.id,
                "_reqId" => &mut echo.req_id,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = fields.next_value()?;
        }
        Ok(echo)
    }
}
