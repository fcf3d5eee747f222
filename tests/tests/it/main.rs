//! Stories of the product, told from outside: see `TestApp`.

#![expect(clippy::unwrap_used, reason = "a story ends where something is not as it should be")]

/// Makes each story a test on SQLite and one on PostgreSQL.
macro_rules! on_both_databases {
    ($($story:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $story() {
                super::$story(errand_tests::Database::Sqlite).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $story() {
                super::$story(errand_tests::Database::Postgres).await;
            })*
        }
    };
}

mod call_limits;
mod chaos;
mod command_line;
mod crashes;
mod database_outages;
mod events;
mod figures;
mod full_disk;
mod gates;
mod idempotency;
mod jobs;
mod key_rotation;
mod logs;
mod malformed;
mod many_jobs;
mod measuring;
mod own_jobs;
mod parallel;
mod poison;
mod pooled;
mod provider_outages;
mod reading;
mod refresh_races;
mod registered;
mod retention;
mod retries;
mod session_stop;
mod sessions;
mod starting;
mod stopping;
mod suspension;
mod terminal;
mod token_exchange;
mod token_failures;
mod webhooks;
mod workflow_documents;
mod wrong_clocks;
