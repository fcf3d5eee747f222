//! `GET /v1/jobs`: one's own, newest first, page by page.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use errand_shared::{
    jobs::JobStatus,
    storage::{JobFilter, Page},
};
use serde::Serialize;
use url::form_urlencoded;
use uuid::Uuid;

use super::{get::complete, representation::Listed};
use crate::{authentication::Authenticated, problem::Problem, refusal, state::AppState};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

#[derive(Debug, Serialize)]
struct Jobs {
    jobs: Vec<Listed>,
    /// For `?cursor=`; null on the last page.
    next_cursor: Option<String>,
}

pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Authenticated(caller): Authenticated,
    query: ListQuery,
) -> Result<Response, Problem> {
    let filter = JobFilter {
        status: query.status,
        session_key: query.session_key.as_deref(),
        tag: query.tag.as_ref().map(|(name, value)| (name.as_str(), value.as_str())),
    };
    let found = state.store.jobs(&caller.principal, &filter, query.one_more()).await;
    let found = found.map_err(|error| refusal::unstored(&error))?;
    let (page, next_cursor) = page_of(found, query.limit, |job| job.id);
    let mut jobs = Vec::with_capacity(page.len());
    for job in page {
        let job = complete(&state, job, &caller.principal).await?;
        jobs.push(Listed::new(job, &state.public_url));
    }
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(Jobs { jobs, next_cursor })).into_response())
}

/// What a list is asked for with: each parameter at most once, and no others.
#[derive(Debug)]
pub(crate) struct ListQuery {
    pub(crate) status: Option<JobStatus>,
    session_key: Option<String>,
    tag: Option<(String, String)>,
    pub(crate) limit: u32,
    before: Option<Uuid>,
}

impl ListQuery {
    /// One job more than is answered, which says whether there is a next page.
    pub(crate) fn one_more(&self) -> Page {
        Page { before: self.before, limit: self.limit + 1 }
    }

    /// Whether it asks for what only a job's owner may ask for.
    pub(crate) fn is_of_owner(&self) -> bool {
        self.session_key.is_some() || self.tag.is_some()
    }

    fn read(query: &str) -> Result<Self, String> {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let known = ["status", "session_key", "tag", "limit", "cursor"].contains(&&*name);
            if !known {
                return Err("The query has a parameter that this list does not know. It knows \
                            `status`, `session_key`, `tag`, `limit` and `cursor`."
                    .to_owned());
            }
            if value.contains('\0') {
                return Err(format!("`{name}` has a character that no text here has."));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(format!("`{name}` is given more than once."));
            }
        }
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        let status = take("status").map(|status| {
            status.parse().map_err(|_| {
                let words = JobStatus::ALL.map(JobStatus::as_str).join("`, `");
                format!("`status` is one of `{words}`.")
            })
        });
        let tag = take("tag").map(|tag| {
            let pair = tag.split_once(':').filter(|(name, _)| !name.is_empty());
            let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or("`tag` is a name and a value with a colon between, such as `order:4711`.")
        });
        let limit = take("limit").map(|limit| {
            let number = limit.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            number.ok_or_else(|| format!("`limit` is a whole number from 1 to {MAX_LIMIT}."))
        });
        let before = take("cursor")
            .map(|cursor| id_of(&cursor).ok_or("`cursor` is not the `next_cursor` of a page."));
        Ok(Self {
            status: status.transpose()?,
            session_key: take("session_key").map(String::from),
            tag: tag.transpose()?,
            limit: limit.transpose()?.unwrap_or(DEFAULT_LIMIT),
            before: before.transpose()?,
        })
    }
}

impl<S: Sync> FromRequestParts<S> for ListQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::read(parts.uri.query().unwrap_or_default()).map_err(Problem::invalid_request)
    }
}

/// The page, and the cursor of the next one, from a list that may have one item more.
pub(crate) fn page_of<T>(
    mut found: Vec<T>,
    limit: u32,
    id: impl Fn(&T) -> Uuid,
) -> (Vec<T>, Option<String>) {
    let limit = limit as usize;
    let is_more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| is_more);
    let next_cursor = last.map(|last| BASE64_URL_SAFE_NO_PAD.encode(id(last).as_bytes()));
    (found, next_cursor)
}

fn id_of(cursor: &str) -> Option<Uuid> {
    Uuid::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_strictly() {
        let query = ListQuery::read("status=waiting&tag=a%3Ab:c&limit=7&session_key=k").unwrap();
        assert_eq!(query.status, Some(JobStatus::Waiting));
        assert_eq!(query.tag, Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!((query.limit, query.session_key.as_deref()), (7, Some("k")));
        let all = ListQuery::read("status=&cursor=").unwrap();
        assert_eq!((all.status, all.limit, all.before), (None, DEFAULT_LIMIT, None));
        for wrong in [
            "status=done",
            "tag=order",
            "tag=:4711",
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=many",
            "cursor=7",
            "cursor=AAAA",
            "page=2",
            "limit=1&limit=2",
            "session_key=%00",
        ] {
            assert!(ListQuery::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_leads_to_the_next_one() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let (page, next) = page_of(ids.clone(), 2, |id| *id);
        assert_eq!(page, ids[..2]);
        assert_eq!(id_of(&next.unwrap()), Some(ids[1]));
        assert_eq!(page_of(ids.clone(), 3, |id| *id).1, None);
    }
}
