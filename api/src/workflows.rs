//! `GET /v1/workflows`: the operator's documents, which a job can name.

use std::sync::Arc;

use axum::{Json, extract::State};
use errand_shared::workflow::registry::Registered;
use serde::Serialize;

use crate::{authentication::Authenticated, state::AppState};

#[derive(Debug, Serialize)]
pub(crate) struct List {
    workflows: Vec<Representation>,
}

/// A registered document, without its tasks.
#[derive(Debug, Serialize)]
struct Representation {
    namespace: String,
    name: String,
    version: String,
    /// `document.title`
    title: Option<String>,
    /// `document.summary`
    summary: Option<String>,
    /// The downstream APIs that it calls.
    apis: Vec<String>,
}

impl From<&Registered> for Representation {
    fn from(registered: &Registered) -> Self {
        let Registered { definition, workflow, .. } = registered;
        let text = |name: &str| definition["document"][name].as_str().map(str::to_owned);
        Self {
            namespace: workflow.namespace().to_owned(),
            name: workflow.name().to_owned(),
            version: workflow.version().to_owned(),
            title: text("title"),
            summary: text("summary"),
            apis: workflow.apis().to_vec(),
        }
    }
}

/// By namespace, name and version.
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    Authenticated(_): Authenticated,
) -> Json<List> {
    Json(List { workflows: state.registry.iter().map(Representation::from).collect() })
}
