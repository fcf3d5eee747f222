//! `/v1/jobs`.

mod events;
mod get;
mod representation;
mod request;
mod resume;
mod submit;

pub(crate) use self::{events::events, get::get, resume::resume, submit::submit};
