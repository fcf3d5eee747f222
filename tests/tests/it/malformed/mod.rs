//! What strangers send: each piece is answered by its own problem, and never by a 5xx.
//!
//! These do not depend on the database, so they are told once.

mod bodies;
mod requests;
mod tokens;

use errand_tests::{Database, Settings, TestApp};

/// An API without a worker: nothing of this becomes a job.
async fn api() -> TestApp {
    TestApp::start_with(Database::Sqlite, Settings { workers: 0, ..Settings::default() }).await
}
