//! Workflow documents: a strict subset of the Open Workflow Specification 1.0, its check and its interpreter.
//!
//! The way of a document: [`parse`] reads it, [`check()`] turns it into a [`Workflow`] or says everything
//! that is wrong with it, [`step`] moves a [`Checkpoint`] of it on. All of this is pure: no file, no
//! socket, no clock, no token; but for expressions that may run wild, which run in a child process
//! ([`cage`]). What a task wants from the world is an [`Outcome`], what the world
//! answers is a [`Reply`].
//!
//! To add a kind of task: its model in `document.rs` (the compiler then names every `match` that has to
//! know it), its reading in `check/task.rs`, its state in `checkpoint.rs`, its two arms, to begin and to go
//! on, in `interpreter/activity.rs`, and if it groups tasks its arm in `progress.rs`. Then it needs: a line
//! in the sample of `check/tests.rs`, so that none of its properties can be misspelt, its own tests in
//! `interpreter/tests/`, and a place in the random workflows of `interpreter/tests/crashes.rs`. A kind
//! that waits keeps *until when* in its state; one that wants something from the world keeps the whole
//! wish there, with its id, before it is told to anybody.

pub mod address;
pub mod cage;
mod call;
mod check;
mod checkpoint;
mod document;
pub mod duration;
mod error;
mod expressions;
mod headers;
mod interpreter;
pub mod parse;
mod progress;
pub mod registry;
mod schema;
mod uri_template;

pub use call::{Call, Reply, Response};
pub use check::{CheckError, check, check_submitted};
pub use checkpoint::{CHECKPOINT_FORMAT, Checkpoint};
pub use document::Workflow;
pub use error::WorkflowError;
pub use expressions::bytes;
pub use interpreter::{Outcome, step};
pub use parse::Problem;
pub use progress::{Happened, Progress, TaskEvent};
