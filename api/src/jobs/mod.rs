//! `/v1/jobs`.

mod get;
mod representation;
mod request;
mod resume;
mod submit;

pub(crate) use self::{get::get, resume::resume, submit::submit};
