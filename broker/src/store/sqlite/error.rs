//! SQLite's errors in the store's words.

use crate::store::StoreError;

pub(super) type StoreResult<T> = Result<T, StoreError>;

/// Primary result codes (`sqlite3.h`) that blame the data.
const TOOBIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;

impl From<sqlx::Error> for StoreError {
    /// SQLite's own texts name tables and columns, never values; texts of decoders may hold
    /// values, so only the column is told.
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let extended = database.code().and_then(|code| code.parse::<i32>().ok());
                // The low byte is the primary code, what is above tells more.
                match extended.map(|code| code & 0xff) {
                    Some(TOOBIG | CONSTRAINT | MISMATCH) => bad_data(database.message()),
                    _ => unavailable(database.message()),
                }
            }
            sqlx::Error::Encode(_) => bad_data("a value could not be bound"),
            sqlx::Error::ColumnDecode { index, .. } => corrupt(format!("column {index}")),
            sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => corrupt("columns"),
            _ => unavailable(error.to_string()),
        }
    }
}

pub(super) fn unavailable(text: impl Into<String>) -> StoreError {
    StoreError::Unavailable(text.into())
}

pub(super) fn bad_data(text: impl Into<String>) -> StoreError {
    StoreError::BadData(text.into())
}

pub(super) fn corrupt(text: impl Into<String>) -> StoreError {
    StoreError::Corrupt(text.into())
}

/// A sequence or epoch as SQLite holds it.
pub(super) fn to_i64(value: u64) -> StoreResult<i64> {
    i64::try_from(value).map_err(|_| bad_data(format!("{value} is beyond 63 bits")))
}

/// And back.
pub(super) fn to_u64(value: i64, what: &str) -> StoreResult<u64> {
    u64::try_from(value).map_err(|_| corrupt(format!("{what} is negative")))
}
