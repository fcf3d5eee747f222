//! `/v1/jobs`.

mod calls;
mod cursor;
mod events;
mod get;
mod representation;
mod request;
mod resume;
mod submit;

pub(crate) use self::{calls::calls, events::events, get::get, resume::resume, submit::submit};
