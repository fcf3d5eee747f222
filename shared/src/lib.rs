//! What a job, a workflow and a session are; the token protocol; storage.
//!
//! | room | knows | owns |
//! | --- | --- | --- |
//! | [`config`] | every key of the configuration file | `toml` |
//! | [`identity`] | tokens: incoming ones are verified, downstream ones obtained | `jsonwebtoken`, `reqwest` for tokens |
//! | [`jobs`] | what a job is and which way its status may go | |
//! | [`sessions`] | the stored right to act for a user: initiate, acquire a token | |
//! | [`storage`] | rows, leases, transactions, encryption at rest | `sqlx` |
//! | [`workflow`] | documents, their check, the interpreter, addresses | `jaq` |
//! | [`telemetry`] | logs, and the trace that a job carries | `tracing-subscriber` |
//! | [`metrics`] | what a process counts | `prometheus-client` |
//! | [`process`] | how every process starts and stops | |
//!
//! [`time`] and [`http`] are the two things all rooms share: a clock that tests can move, and the
//! one way to build an HTTP client.

pub mod config;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod metrics;
pub mod process;
pub mod sessions;
pub mod storage;
pub mod telemetry;
pub mod time;
pub mod workflow;
