//! The fattest value that a peer may tell, made from the types themselves: every field of a struct, each
//! as long as its bound allows. A field that is added is in it at once, and fails the test until its
//! bound is named here.

use protocol::limits::{CAPABILITIES, GROUPS, NAME_BYTES, PATH_BYTES, TEXT_BYTES};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// Doubles when it is encoded, and is no control character.
const FAT: &str = "\"";
/// As many digits as a number may have.
const NUMBER: f64 = -2.225_073_858_507_201_4e-308;

/// See the module.
pub(crate) fn fattest<T: DeserializeOwned>() -> T {
    T::deserialize(Fattest { field: "", item: false }).unwrap()
}

enum Bound {
    Text(usize),
    List(usize),
    Number,
}

/// What a field may hold.
fn bound(field: &str) -> Bound {
    match field {
        "name" | "role" | "displayName" | "sessionId" | "hostname" | "channel" | "model"
        | "peerType" | "title" => Bound::Text(NAME_BYTES),
        "cwd" => Bound::Text(PATH_BYTES),
        "avatar" | "bio" | "summary" => Bound::Text(TEXT_BYTES),
        "groups" => Bound::List(GROUPS),
        "capabilities" => Bound::List(CAPABILITIES),
        "pid" | "messagesIn" | "messagesOut" | "toolCalls" | "uptime" | "errors" => Bound::Number,
        other => panic!("how long may {other} be?"),
    }
}

#[derive(Clone, Copy)]
struct Fattest {
    field: &'static str,
    /// An item of that list.
    item: bool,
}

type Error = de::value::Error;

impl<'de> Deserializer<'de> for Fattest {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match bound(self.field) {
            Bound::List(_) if self.item => visitor.visit_string(FAT.repeat(NAME_BYTES)),
            Bound::List(left) => visitor.visit_seq(Items { left, of: Self { item: true, ..self } }),
            Bound::Text(bytes) => visitor.visit_string(FAT.repeat(bytes)),
            Bound::Number => visitor.visit_f64(NUMBER),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(i64::from(i32::MAX))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { fields, value: "" })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 u8 u16 u32 u64 f32 f64 char bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct map enum identifier ignored_any
    }
}

struct Items {
    left: usize,
    of: Fattest,
}

impl<'de> de::SeqAccess<'de> for Items {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.of).map(Some)
    }
}

struct Fields {
    fields: &'static [&'static str],
    value: &'static str,
}

impl<'de> de::MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((first, rest)) = self.fields.split_first() else { return Ok(None) };
        (self.value, self.fields) = (first, rest);
        seed.deserialize(first.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Fattest { field: self.value, item: false })
    }
}
