//! Errand as its users and operators meet it: real processes, a real database, and a simulated
//! tenant and partner API in the test's own process.
//!
//! A story starts a [`TestApp`], lets [`User`]s submit jobs, does something to the processes, and
//! ends with [`TestApp::finish`], which looks for secrets wherever the story has left bytes.

mod answer;
mod canaries;
pub mod chaos;
mod database;
mod eventually;
mod openapi;
mod pgbouncer;
mod program;
mod settings;
mod test_app;
mod user;
pub mod workflows;

pub use answer::Answer;
pub use database::{Database, TestDatabase};
pub use eventually::{PATIENCE, eventually};
pub use pgbouncer::has_pgbouncer;
pub use program::{Ended, Program, run_to_end};
pub use settings::{Settings, WEBHOOK_SECRET};
pub use test_app::{TestApp, free_address};
pub use user::User;
