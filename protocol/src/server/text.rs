//! Frames as text, without a copy of what many of them share.

use std::io;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A row of a list as JSON: encoded once, shared by every list it is in.
#[derive(Debug, Clone)]
pub struct Row(Arc<RawValue>);

impl Row {
    /// Encodes a row.
    pub fn of(value: &impl Serialize) -> Self {
        // Structs of strings, numbers and lists always serialize.
        let raw = to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self(raw.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether both are one row in memory.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// A frame's JSON text.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// Of one piece.
    Whole(String),
    /// A list of shared rows.
    Rows {
        /// Up to the first row.
        head: String,
        /// Separated by commas.
        rows: Vec<Row>,
        /// Behind the last.
        tail: String,
    },
    /// A beginning that other frames have, too.
    Shared {
        /// The beginning.
        body: Arc<str>,
        /// The rest.
        tail: String,
    },
}

impl Text {
    /// `{"type":<kind>,<field>:[<rows>],"_reqId":<id>}`; the id is left out where there is none.
    pub(super) fn list(
        kind: &str,
        field: &str,
        rows: &[Row],
        req_id: Option<&impl Serialize>,
    ) -> Self {
        let head = format!("{{\"type\":\"{kind}\",\"{field}\":[");
        // A text or a number always serializes.
        let id = req_id.map(|id| serde_json::to_string(id).unwrap_or_default());
        let tail = id.map_or_else(|| "]}".to_owned(), |id| format!("],\"_reqId\":{id}}}"));
        Self::Rows { head, rows: rows.to_vec(), tail }
    }

    /// The text, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        let (head, rows, tail) = match self {
            Self::Whole(text) => (text.as_str(), &[][..], ""),
            Self::Rows { head, rows, tail } => (head.as_str(), &rows[..], tail.as_str()),
            Self::Shared { body, tail } => (&**body, &[][..], tail.as_str()),
        };
        let comma = |index: usize| if index == 0 { "" } else { "," };
        let rows = rows.iter().enumerate();
        let rows = rows.flat_map(move |(index, row)| [comma(index), row.as_str()]);
        [head].into_iter().chain(rows).chain([tail]).filter(|piece| !piece.is_empty())
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.pieces().map(str::len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.pieces().next().is_none()
    }

    /// The text in one piece.
    pub fn into_string(self) -> String {
        match self {
            Self::Whole(text) => text,
            shared => {
                let mut text = String::with_capacity(shared.len());
                text.extend(shared.pieces());
                text
            }
        }
    }
}

/// Bytes of a value's JSON, which is not kept.
pub fn bytes_of(value: &impl Serialize) -> usize {
    let mut count = Count(0);
    // Counting cannot fail, and what does not serialize is as long as it got.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
