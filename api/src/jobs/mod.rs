//! `/v1/jobs`.

mod batch;
mod calls;
mod change;
mod cursor;
mod events;
mod get;
mod list;
mod representation;
mod request;
mod resume;
mod submit;

pub(crate) use self::{
    batch::submit_batch,
    calls::calls,
    change::{cancel, delete, retry},
    events::events,
    get::{JobId, get, unknown},
    list::{ListQuery, list, page_of},
    resume::resume,
    submit::submit,
};
