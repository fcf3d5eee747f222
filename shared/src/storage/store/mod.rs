//! The store, in SQL that both databases speak.
//!
//! This file is compiled twice, as a module of `postgres` and of `sqlite`. What differs comes from
//! there: the types `Db` and `Connections`, `begin`, `ids`, `insert_jobs`, `insert_jobs_at_once`,
//! `claim_ready`, `wake_due`, `record`, `record_at_once`, and the macros `now!` (the database's clock),
//! `epoch_micros!` (that clock as a number), `after!` (that many microseconds from now), `chance!` (a
//! random number), `among!` (is one of the ids), `selected!` (is one of those that are selected),
//! `row_id!` (where a row is), `contains!` (has these bytes in it) and `locked!` (lock the selected rows).

mod audit;
mod call_slots;
mod gates;
mod grants;
pub(super) mod own_jobs;
mod own_sessions;
mod queue;
pub(super) mod retention;
mod rotation;
mod schema;
mod submissions;
mod webhooks;

pub(super) use self::{
    queue::RecordRow,
    schema::schema_state,
    submissions::{JobRow, Submitter, job_with, start_submitter},
};

use std::sync::atomic::AtomicI64;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{Connections, Db, announcements::Announcements, tell_others};
use crate::{
    identity::Principal,
    storage::{
        Store, StoreError,
        cipher::{Cipher, Place},
    },
};

/// A database with its key ring.
#[derive(Debug)]
pub(super) struct Database {
    /// For what changes rows.
    pub(super) writer: Connections,
    /// For what only looks.
    pub(super) reader: Connections,
    /// For what keeps leases and gives them back.
    pub(super) keeper: Connections,
    pub(super) cipher: Cipher,
    pub(super) announcements: Announcements,
    pub(super) submitter: Submitter,
    /// The lane that this process served last.
    pub(super) turn: AtomicI64,
}

#[async_trait]
impl Store for Database {
    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.reader).await?;
        Ok(())
    }

    fn announce(&self) {
        self.announcements.announce();
    }

    async fn announce_now(&self) {
        self.announcements.arrived();
        tell_others(&self.keeper).await;
    }

    async fn wait_for_announcement(&self) {
        self.announcements.wait().await;
    }
}

impl Database {
    fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Vec<u8> {
        self.cipher.seal(place, plaintext)
    }

    fn open(&self, place: Place<'_>, envelope: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.cipher.open(place, envelope).map_err(|source| StoreError::Undecryptable {
            table: place.table,
            column: place.column,
            row: place.row,
            source,
        })
    }

    fn seal_json<T: serde::Serialize>(&self, place: Place<'_>, value: &T) -> Vec<u8> {
        self.seal(place, to_json(value).as_bytes())
    }

    fn open_json<T: serde::de::DeserializeOwned>(
        &self,
        place: Place<'_>,
        envelope: &[u8],
    ) -> Result<T, StoreError> {
        let plaintext = self.open(place, envelope)?;
        serde_json::from_slice(&plaintext).map_err(|source| StoreError::Unreadable {
            what: place.column,
            row: place.row,
            source,
        })
    }
}

fn job_place<'a>(row: Uuid, column: &'static str, principal: &'a Principal) -> Place<'a> {
    Place { table: "jobs", column, row, parts: [""; 2], principal }
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys only")
}

fn from_json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    row: Uuid,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Unreadable { what, row, source })
}

/// Reads one of our words; an unknown one was written by a newer version.
fn word<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    text: &str,
) -> Result<T, sqlx::Error> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(error.into()))
}

/// The ids that a change returned.
pub(super) fn read_ids(rows: &[<Db as sqlx::Database>::Row]) -> Result<Vec<Uuid>, sqlx::Error> {
    rows.iter().map(|row| row.try_get("id")).collect()
}

fn micros(length: std::time::Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 4)
}
