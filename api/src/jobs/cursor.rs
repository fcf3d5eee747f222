//! `?cursor=`: where a list goes on.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::Deserialize;

use crate::problem::Problem;

/// What `next_cursor` of the page before was, if it was given.
#[derive(Debug)]
pub(crate) struct Cursor(pub(crate) Option<String>);

#[derive(Deserialize)]
struct Parameters {
    cursor: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Cursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let Query(Parameters { cursor }) = Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::invalid_request("The query is not one of this address."))?;
        Ok(Self(cursor))
    }
}
