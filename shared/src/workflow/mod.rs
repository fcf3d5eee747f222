//! Workflow documents: a strict subset of the Open Workflow Specification 1.0, its check and its interpreter.
//!
//! The way of a document: [`parse`] reads it, [`check()`] turns it into a [`Workflow`] or says everything
//! that is wrong with it, [`step`] moves a [`Checkpoint`] of it on. All of this is pure: no file, no
//! socket, no clock, no token; but for expressions that may run wild, which run in a child process
//! ([`cage`]). What a task wants from the world is an [`Outcome`], what the world
//! answers is a [`Reply`].
//!
//! To add a kind of task: its model in `document.rs`, its reading in `check/task.rs`, its state in
//! `checkpoint.rs` and its two arms (begin, go on) in `interpreter.rs`.

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
mod uri_template;

pub use call::{Call, Reply, Response};
pub use check::{CheckError, check, check_submitted};
pub use checkpoint::{CHECKPOINT_FORMAT, Checkpoint};
pub use document::Workflow;
pub use error::WorkflowError;
pub use interpreter::{Outcome, step};
pub use parse::Problem;
pub use progress::Progress;
