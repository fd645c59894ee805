//! What became of a statement, told without quoting anything a client or an operator sent.

use std::time::Duration;

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::store::StoreError;

/// Waits for `work` at most `limit`. `task` says what was tried.
pub(super) async fn bounded<T, E: Into<Error>>(
    task: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(classify(task, &error.into())),
        Err(_) => Err(StoreError::Unavailable(format!("{task}: no answer in {limit:?}"))),
    }
}

/// Sorts an error into ours. Only codes and names of constraints are passed on: Postgres quotes
/// values in its messages, and those are payloads.
pub(super) fn classify(task: &str, error: &Error) -> StoreError {
    match error {
        Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            let at = db
                .try_downcast_ref::<PgDatabaseError>()
                .and_then(PgDatabaseError::constraint)
                .map(|name| format!(" at {name}"))
                .unwrap_or_default();
            let words = in_words(&code).map(|words| format!(" ({words})")).unwrap_or_default();
            let text = format!("{task}: SQLSTATE {code}{words}{at}");
            if code.starts_with("22") || code.starts_with("23") {
                StoreError::BadData(text)
            } else {
                StoreError::Unavailable(text)
            }
        }
        Error::ColumnDecode { index, .. } => {
            StoreError::Corrupt(format!("{task}: column {index} cannot be read"))
        }
        Error::Decode(_) | Error::ColumnNotFound(_) | Error::TypeNotFound { .. } => {
            StoreError::Corrupt(format!("{task}: a column cannot be read"))
        }
        Error::Encode(_) => StoreError::BadData(format!("{task}: a value cannot be sent")),
        Error::Io(io) => StoreError::Unavailable(format!("{task}: connection: {}", io.kind())),
        Error::Tls(_) => StoreError::Unavailable(format!("{task}: TLS failed")),
        Error::PoolTimedOut => {
            StoreError::Unavailable(format!("{task}: no connection became free"))
        }
        Error::Configuration(_) => {
            StoreError::Unavailable(format!("{task}: the address or the TLS set-up is not usable"))
        }
        _ => StoreError::Unavailable(format!("{task}: the connection failed")),
    }
}

/// Codes that an operator meets, and can do something about (Postgres manual, appendix A).
fn in_words(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "the password is wrong",
        "28000" => "this user may not log in from here",
        "3D000" => "there is no such database",
        "42501" => "a right is missing",
        "25006" => "it is read-only",
        "53300" => "it has no connection left",
        "53100" => "its disk is full",
        "57P01" => "it was told to stop",
        "57P03" => "it is starting or stopping",
        _ => return None,
    })
}

/// Whether connecting again cannot help: the address, the user or the database is not right.
pub(super) fn is_final(error: &Error) -> bool {
    match error {
        Error::Configuration(_) => true,
        Error::Database(db) => db
            .code()
            .is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "42501"),
        _ => false,
    }
}

/// A number of ours as Postgres stores it.
pub(super) fn stored(task: &str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::BadData(format!("{task}: number out of range")))
}

/// A stored number as ours.
pub(super) fn unstored(task: &str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{task}: negative number")))
}
