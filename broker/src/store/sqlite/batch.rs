//! Multi-row statements in a few fixed sizes.
//!
//! sqlx hands every statement to the connection's own thread and back; one statement for many rows
//! makes that cheap. Sizes are fixed so that there are few texts, which stay prepared.

use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Encode, Type};

use super::error::{StoreResult, bad_data};

/// Rows per statement. 22 columns × 256 rows stay well below SQLite's 32,766 parameters.
const SIZES: [usize; 4] = [256, 64, 8, 1];

/// A statement over a list of rows: `head row, row, … tail`.
#[derive(Debug)]
pub(super) struct Statement {
    columns: usize,
    texts: [Arc<str>; SIZES.len()],
}

impl Statement {
    /// `row` is the text of one row, with a `?` for each of its parameters.
    pub(super) fn new(head: &str, row: &str, tail: &str) -> Self {
        let texts = SIZES.map(|size| {
            let mut text = head.to_owned();
            for index in 0..size {
                let comma = if index == 0 { " " } else { ", " };
                let _ = write!(text, "{comma}{row}");
            }
            let _ = write!(text, " {tail}");
            text.into()
        });
        Self { columns: row.matches('?').count(), texts }
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// Runs it over all `rows`, a size at a time.
    pub(super) async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Row, &T) -> StoreResult<()>,
    ) -> StoreResult<()> {
        for chunk in chunks(rows) {
            self.chunk(connection, chunk, &bind).await?;
        }
        Ok(())
    }

    /// Runs it over one chunk (see [`chunks`]) and answers how many rows it changed.
    pub(super) async fn chunk<T>(
        &self,
        connection: &mut SqliteConnection,
        (index, chunk): (usize, &[T]),
        bind: impl Fn(&mut Row, &T) -> StoreResult<()>,
    ) -> StoreResult<usize> {
        let arguments = self.arguments(chunk, &bind)?;
        let text = AssertSqlSafe(Arc::clone(&self.texts[index]));
        let done = sqlx::query_with(text, arguments).execute(connection).await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }

    /// Runs it over one chunk (see [`chunks`]) and answers what comes back.
    pub(super) async fn fetch<T>(
        &self,
        connection: &mut SqliteConnection,
        (index, chunk): (usize, &[T]),
        bind: impl Fn(&mut Row, &T) -> StoreResult<()>,
    ) -> StoreResult<Vec<SqliteRow>> {
        let arguments = self.arguments(chunk, &bind)?;
        let text = AssertSqlSafe(Arc::clone(&self.texts[index]));
        Ok(sqlx::query_with(text, arguments).fetch_all(connection).await?)
    }

    fn arguments<T>(
        &self,
        chunk: &[T],
        bind: &impl Fn(&mut Row, &T) -> StoreResult<()>,
    ) -> StoreResult<SqliteArguments> {
        let mut row = Row(SqliteArguments::default());
        row.0.reserve(chunk.len() * self.columns, 0);
        for item in chunk {
            bind(&mut row, item)?;
        }
        debug_assert_eq!(row.0.len(), chunk.len() * self.columns, "a value for each parameter");
        Ok(row.0)
    }
}

/// Cuts rows into stretches that have a statement, each with the index of its size.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let index = SIZES.iter().position(|&size| size <= rows.len())?;
        let (chunk, rest) = rows.split_at(SIZES[index]);
        rows = rest;
        Some((index, chunk))
    })
}

/// The parameters of one row, in order.
pub(super) struct Row(SqliteArguments);

impl Row {
    pub(super) fn text(&mut self, text: &str) -> StoreResult<()> {
        // One copy: a `&str` would be copied into a `String` within an `Arc`.
        self.value(Arc::<str>::from(text))
    }

    pub(super) fn maybe_text(&mut self, text: Option<&str>) -> StoreResult<()> {
        self.value(text.map(Arc::<str>::from))
    }

    pub(super) fn value<'q, T: Encode<'q, sqlx::Sqlite> + Type<sqlx::Sqlite>>(
        &mut self,
        value: T,
    ) -> StoreResult<()> {
        self.0.add(value).map_err(|_| bad_data("a value could not be bound"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_with_few_sizes() {
        let rows: Vec<_> = (0..403).collect();
        let sizes: Vec<_> = chunks(&rows).map(|(index, chunk)| (index, chunk.len())).collect();
        assert_eq!(sizes, [(0, 256), (1, 64), (1, 64), (2, 8), (2, 8), (3, 1), (3, 1), (3, 1)]);
        let back: Vec<_> = chunks(&rows).flat_map(|(_, chunk)| chunk.iter().copied()).collect();
        assert_eq!(back, rows);
        assert_eq!(chunks::<u8>(&[]).count(), 0);
    }

    #[test]
    fn a_statement_has_a_row_for_each_place() {
        let statement = Statement::new("INSERT INTO t VALUES", "(?, ?)", "RETURNING a");
        assert_eq!(&*statement.texts[3], "INSERT INTO t VALUES (?, ?) RETURNING a");
        assert_eq!(statement.texts[2].matches("(?, ?)").count(), 8);
    }
}
