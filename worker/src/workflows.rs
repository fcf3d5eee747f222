//! The documents of the jobs that this worker runs, ready to run.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest as sha256};
use errand_shared::{
    config::{DownstreamApis, Limits},
    workflow::{Workflow, check},
};
use moka::sync::Cache;

/// How many bytes of documents are kept ready: many jobs have the same few.
const CAPACITY: u64 = 8 * 1024 * 1024;

/// SHA-256 of a document as it was stored.
pub(crate) type WorkflowDigest = [u8; 32];

/// A document, ready to run.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) workflow: Workflow,
    pub(crate) digest: WorkflowDigest,
    /// How long the document is.
    bytes: usize,
}

/// Documents by their digest.
#[derive(Debug)]
pub(crate) struct Workflows {
    limits: Limits,
    downstream_apis: DownstreamApis,
    ready: Cache<WorkflowDigest, Arc<Ready>>,
}

impl Workflows {
    pub(crate) fn new(limits: &Limits, downstream_apis: &DownstreamApis) -> Self {
        let ready = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|_, ready: &Arc<Ready>| u32::try_from(ready.bytes).unwrap_or(u32::MAX))
            .build();
        Self { limits: limits.clone(), downstream_apis: downstream_apis.clone(), ready }
    }

    /// Returns the document, checked against the present configuration; else a sentence that says why
    /// it no longer passes.
    pub(crate) fn get(&self, definition: &[u8]) -> Result<Arc<Ready>, String> {
        let mut digest = WorkflowDigest::default();
        digest.copy_from_slice(sha256(&SHA256, definition).as_ref());
        if let Some(ready) = self.ready.get(&digest) {
            return Ok(ready);
        }
        let workflow = tokio::task::block_in_place(|| self.read(definition))?;
        let ready = Arc::new(Ready { workflow, digest, bytes: definition.len() });
        self.ready.insert(digest, Arc::clone(&ready));
        Ok(ready)
    }

    fn read(&self, definition: &[u8]) -> Result<Workflow, String> {
        let document = serde_json::from_slice(definition)
            .map_err(|error| format!("its document cannot be read: {error}"))?;
        check(&document, &self.limits, Some(&self.downstream_apis)).map_err(|problems| {
            let problem = problems.first().map_or("", |problem| problem.detail.as_str());
            format!("its document no longer passes: {problem}")
        })
    }
}
