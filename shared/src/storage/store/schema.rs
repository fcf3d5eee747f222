use sqlx::{Row, migrate::Migrator};

use super::super::Connections;
use crate::storage::SchemaState;

/// Compares what was applied to the database with what this version would apply.
pub(in super::super) async fn schema_state(
    pool: &Connections,
    migrator: &Migrator,
) -> Result<SchemaState, sqlx::Error> {
    let rows = sqlx::query("select version, checksum, success from _sqlx_migrations")
        .fetch_all(pool)
        .await;
    let rows = match rows {
        Ok(rows) => rows,
        // A database that answers, and has no such table.
        Err(sqlx::Error::Database(_)) => return Ok(SchemaState::Behind),
        Err(error) => return Err(error),
    };
    let mut applied = Vec::with_capacity(rows.len());
    for row in &rows {
        let (version, checksum): (i64, Vec<u8>) =
            (row.try_get("version")?, row.try_get("checksum")?);
        applied.push((version, checksum, row.try_get::<bool, _>("success")?));
    }
    for migration in migrator.iter() {
        match applied.iter().find(|(version, ..)| *version == migration.version) {
            None => return Ok(SchemaState::Behind),
            Some((_, checksum, true)) if *checksum == *migration.checksum => {}
            Some(_) => return Ok(SchemaState::Foreign { version: migration.version }),
        }
    }
    Ok(SchemaState::UpToDate)
}
