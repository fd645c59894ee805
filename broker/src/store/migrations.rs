//! The migrations of both backends, as files of `migrations/` hold them; `build.rs` collects them.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Number, title and text.
type Sql = (i64, &'static str, &'static str);

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

pub(super) fn postgres() -> Migrator {
    let mut migrator = migrator(POSTGRES);
    migrator.create_schema("broker");
    migrator.dangerous_set_table_name("broker.migration");
    migrator
}

pub(super) fn sqlite() -> Migrator {
    migrator(SQLITE)
}

fn migrator(files: &[Sql]) -> Migrator {
    let migrations = files.iter().map(|&(number, title, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(number, title.into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // A newer node may have been here.
    migrator.set_ignore_missing(true);
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a database says it has must stay what its files say: a changed file is another migration.
    #[test]
    fn migrations_are_what_they_always_were() {
        for (migrator, first, checksum) in [
            (postgres(), "identity", "f9090efffab38b55"),
            (sqlite(), "mesh and queue", "7b614768f00347b7"),
        ] {
            let numbers: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
            assert!(numbers.iter().copied().eq(1..=i64::try_from(numbers.len()).unwrap_or(0)));
            let migration = migrator.iter().next().map(|migration| {
                (migration.description.to_string(), hex::encode(&migration.checksum[..8]))
            });
            assert_eq!(migration, Some((first.to_owned(), checksum.to_owned())));
        }
    }
}
