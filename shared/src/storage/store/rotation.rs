use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{
    super::{Db, begin},
    Database,
    audit::path_place,
    grants::{access_token_place, refresh_token_place},
    job_place,
};
use crate::{
    identity::Principal,
    storage::{Opened, Rotation, StoreError, cipher::Place},
};

/// How long somebody is given who is at a row.
const PAUSE: Duration = Duration::from_millis(20);

/// An encrypted column. Its rows are known by a key of three parts, so that all are read alike: the
/// id that values are sealed for, and two more, as text, that tell the rows of one id apart.
struct Column {
    table: &'static str,
    name: &'static str,
    /// What a value is sealed for, by key and owner.
    place: for<'a> fn(Uuid, &'a str, &'a str, &'a Principal) -> Place<'a>,
    /// The next rows after the key `$1`, `$2`, `$3` whose value does not begin with `$4`.
    next: &'static str,
    /// Replaces the value `$4` of the row `$1`, `$2`, `$3` by `$5`, unless somebody has locked the row:
    /// who waits for nobody can hold hundreds of rows.
    replace: &'static str,
}

/// The parts of the key, and the type of the second and the third.
macro_rules! column {
    (
        $table:literal . $name:literal, $place:expr,
        key $id:literal $second:literal $third:literal as $text:literal,
        owner $owner:literal from $from:literal
    ) => {
        Column {
            table: $table,
            name: $name,
            place: $place,
            next: concat!(
                "select ", $id, " as row_id, cast(", $second, " as text) as second, cast(", $third,
                " as text) as third, ", $owner, ".tenant, ", $owner, ".subject, ", $name,
                " as sealed from ", $from,
                " where ", $id, " >= $1 and (", $id, ", ", $second, ", ", $third,
                ") > ($1, cast($2 as ", $text, "), cast($3 as ", $text, "))
                   and substr(", $name, ", 1, length($4)) <> $4
                 order by ", $id, ", ", $second, ", ", $third, " limit 400"
            ),
            replace: concat!(
                "update ", $table, " set ", $name, " = $5
                 where (", $id, ", ", $second, ", ", $third, ") = (
                    select ", $id, ", ", $second, ", ", $third, " from ", $table,
                " where ", $id, " = $1 and ", $second, " = cast($2 as ", $text, ") and ", $third,
                " = cast($3 as ", $text, ") and ", $name, " = $4", locked!("update skip locked"), ")"
            ),
        }
    };
    (jobs . $name:literal) => {
        column!(
            "jobs".$name, |id, _, _, owner| job_place(id, $name, owner),
            // Known by its id alone: a planner that sees its owner's columns may go by those.
            key "jobs.id" "cast('' as text)" "cast('' as text)" as "text",
            owner "jobs" from "jobs"
        )
    };
}

/// All that the migrations mark as encrypted.
const COLUMNS: [Column; 10] = [
    column!(
        "grants"."refresh_token", |id, api, _, owner| refresh_token_place(id, api, owner),
        key "grants.session_id" "grants.api" "grants.api" as "text",
        owner "sessions" from "grants join sessions on sessions.id = grants.session_id"
    ),
    column!(
        "access_tokens"."access_token", access_token_place,
        key "access_tokens.session_id" "access_tokens.api" "access_tokens.scope_set" as "text",
        owner "sessions" from "access_tokens join sessions on sessions.id = access_tokens.session_id"
    ),
    column!(jobs."definition"),
    column!(jobs."input"),
    column!(jobs."checkpoint"),
    column!(jobs."output"),
    column!(jobs."error"),
    column!(jobs."suspension"),
    column!(jobs."callback"),
    column!(
        "job_calls"."path", |job, _, _, owner| path_place(job, owner),
        key "job_calls.job_id" "job_calls.sequence" "job_calls.ordinal" as "bigint",
        owner "jobs" from "job_calls join jobs on jobs.id = job_calls.job_id"
    ),
];

#[async_trait]
impl Rotation for Database {
    async fn rotate(&self) -> Result<Opened, StoreError> {
        let mut rotated = Opened::default();
        for column in &COLUMNS {
            let mut after = Key::default();
            loop {
                let values = self.next_values(column, &after, &self.cipher.header()).await?;
                let Some(last) = values.last().map(|value| value.key.clone()) else { break };
                let (opened, undecryptable) = self.open_all(column, &values);
                let count = self.replace_all(column, &opened).await?;
                rotated.values += count;
                if count == opened.len() as u64 {
                    rotated.undecryptable.extend(undecryptable);
                    after = last;
                } else {
                    // Somebody is at them, or was faster, perhaps with a former key: what is left of
                    // these, once more.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Ok(rotated)
    }

    async fn sample(&self) -> Result<Opened, StoreError> {
        let mut sampled = Opened::default();
        for column in &COLUMNS {
            // No value begins with the second: all do.
            for header in [self.cipher.header(), vec![0]] {
                let values = self.next_values(column, &Key::default(), &header).await?;
                let (opened, undecryptable) = self.open_all(column, &values);
                sampled.values += opened.len() as u64;
                sampled.undecryptable.extend(undecryptable);
            }
        }
        Ok(sampled)
    }
}

/// The key of a row. By default one before all others: no id is nil.
#[derive(Clone)]
struct Key {
    id: Uuid,
    second: String,
    third: String,
}

impl Default for Key {
    fn default() -> Self {
        // A text, and a number.
        Self { id: Uuid::nil(), second: "0".into(), third: "0".into() }
    }
}

struct Value {
    key: Key,
    owner: Principal,
    sealed: Vec<u8>,
}

impl Value {
    fn place(&self, column: &Column) -> Place<'_> {
        (column.place)(self.key.id, &self.key.second, &self.key.third, &self.owner)
    }
}

impl Database {
    async fn next_values(
        &self,
        column: &Column,
        after: &Key,
        header: &[u8],
    ) -> Result<Vec<Value>, StoreError> {
        let rows = sqlx::query(column.next)
            .bind(after.id)
            .bind(&after.second)
            .bind(&after.third)
            .bind(header)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(read_value).collect()
    }

    fn open_all<'v>(
        &self,
        column: &Column,
        values: &'v [Value],
    ) -> (Vec<(&'v Value, Vec<u8>)>, Vec<StoreError>) {
        let (mut opened, mut undecryptable) = (Vec::new(), Vec::new());
        for value in values {
            match self.cipher.open(value.place(column), &value.sealed) {
                Ok(plaintext) => opened.push((value, plaintext)),
                Err(source) => undecryptable.push(StoreError::Undecryptable {
                    table: column.table,
                    column: column.name,
                    row: value.key.id,
                    source,
                }),
            }
        }
        (opened, undecryptable)
    }

    /// In one transaction: a commit for each value would take ten times as long. Returns how many were
    /// replaced; the others are locked, or another value by now.
    async fn replace_all(
        &self,
        column: &Column,
        opened: &[(&Value, Vec<u8>)],
    ) -> Result<u64, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let mut count = 0;
        for (value, plaintext) in opened {
            let replaced = sqlx::query(column.replace)
                .bind(value.key.id)
                .bind(&value.key.second)
                .bind(&value.key.third)
                .bind(&value.sealed)
                .bind(self.seal(value.place(column), plaintext))
                .execute(&mut *transaction)
                .await?;
            count += replaced.rows_affected();
        }
        transaction.commit().await?;
        Ok(count)
    }
}

fn read_value(row: &<Db as sqlx::Database>::Row) -> Result<Value, StoreError> {
    Ok(Value {
        key: Key {
            id: row.try_get("row_id")?,
            second: row.try_get("second")?,
            third: row.try_get("third")?,
        },
        owner: Principal { tenant: row.try_get("tenant")?, subject: row.try_get("subject")? },
        sealed: row.try_get("sealed")?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The columns below a comment with the word, in what tables the migrations leave.
    fn marked() -> BTreeSet<(String, String)> {
        let migrations = [
            include_str!("../../../../migrations/sqlite/0001_sessions_and_jobs.sql"),
            include_str!("../../../../migrations/sqlite/0002_audit.sql"),
            include_str!("../../../../migrations/sqlite/0003_grants.sql"),
            include_str!("../../../../migrations/sqlite/0004_gates_and_early_refresh.sql"),
        ];
        let (mut columns, mut table, mut is_marked) = (BTreeSet::new(), String::new(), false);
        for line in migrations.into_iter().flat_map(str::lines) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let column = match words[..] {
                ["--", ..] => {
                    is_marked = line.contains("encrypted");
                    continue;
                }
                ["drop", "table", dropped] => {
                    columns.retain(|(table, _)| table != dropped.trim_end_matches(';'));
                    continue;
                }
                ["create", "table", created, ..] => {
                    created.clone_into(&mut table);
                    continue;
                }
                ["alter", "table", altered, "add", "column", column, ..] => {
                    altered.clone_into(&mut table);
                    column
                }
                [column, ..] => column,
                [] => continue,
            };
            if is_marked {
                columns.insert((table.clone(), column.to_owned()));
            }
            is_marked = false;
        }
        columns
    }

    #[test]
    fn every_column_that_a_migration_marks_is_rotated() {
        let rotated = COLUMNS.map(|column| (column.table.to_owned(), column.name.to_owned()));
        assert_eq!(BTreeSet::from(rotated), marked());
    }
}
