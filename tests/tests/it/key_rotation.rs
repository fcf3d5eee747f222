//! `errand keys rotate` as a process of its own, on a table that takes it a while.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use errand_shared::{
    config::Config,
    identity::Principal,
    jobs::DefinitionName,
    storage::{self, NewJob, Submission},
};
use errand_tests::{Database, Program, Settings, TestApp, workflows};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

on_both_databases! {
    a_rotation_that_is_killed_is_brought_to_its_end_by_the_next
}

/// Each has two encrypted values, its document and its input.
const JOBS: usize = 1_000;

const WRITERS: usize = 4;

/// An installation of `jobs` jobs that nobody runs, and its keys: a new one before the one that
/// everything is encrypted with.
pub(crate) struct Installation {
    pub(crate) app: TestApp,
    new_key: String,
    configuration: String,
}

impl Installation {
    pub(crate) async fn of(database: Database, jobs: usize) -> Self {
        let settings = Settings { workers: 0, ..Settings::default() };
        let mut app = TestApp::start_with(database, settings).await;
        app.stop_api().await;
        fill(&app, jobs).await;
        let new_key = format!("new:{}", BASE64_STANDARD.encode([7; 32]));
        let configuration = app.configuration().to_str().unwrap().to_owned();
        Self { app, new_key, configuration }
    }

    /// `ERRAND__ENCRYPTION__KEYS` while the former key is still needed.
    fn both_keys(&self) -> String {
        format!("{},{}", self.new_key, self.app.encryption_key())
    }

    /// How many values a rotation encrypts anew.
    pub(crate) async fn rotate(&self) -> usize {
        self.rotate_with(&self.both_keys()).await
    }

    async fn rotate_with(&self, keys: &str) -> usize {
        let mut rotation = self.start_rotation(keys);
        // No other limit than the caller's: a large table takes its time.
        let code = loop {
            if let Some(code) = rotation.exit_code() {
                break code;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let log = rotation.log();
        assert_eq!(code, 0, "{log}");
        let line = log.lines().rfind(|line| line.contains(" values encrypted anew")).unwrap();
        assert!(line.contains(" 0 left as they are"), "{line}");
        line.split(' ').next().unwrap().parse().unwrap()
    }

    fn start_rotation(&self, keys: &str) -> Program {
        let arguments = ["keys", "rotate", "--config", &self.configuration];
        let log = self.app.configuration().with_file_name(format!("{}.log", Uuid::now_v7()));
        Program::start("errand", &arguments, &[("ERRAND__ENCRYPTION__KEYS", keys)], &log)
    }
}

/// Jobs as a submission writes them.
async fn fill(app: &TestApp, jobs: usize) {
    let config = Config::load(Some(&app.configuration()), std::iter::empty()).unwrap();
    let store = storage::open(&config.database, &config.encryption).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let owner = Principal { tenant: "t".into(), subject: "alice".into() };
            let name = DefinitionName {
                namespace: "acme".into(),
                name: "process-data".into(),
                version: "1.0.0".into(),
            };
            for _ in (writer..jobs).step_by(WRITERS) {
                let job = NewJob {
                    id: Uuid::now_v7(),
                    grant: None,
                    priority: 0,
                    name: &name,
                    definition: &workflows::process_data(1),
                    input: &json!({ "order": 4711 }),
                    run_at: None,
                    deadline: Duration::from_hours(1),
                    tags: &BTreeMap::new(),
                    callback: None,
                    warnings: &[],
                    total_tasks: Some(3),
                    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                };
                let submission = Submission {
                    owner: &owner,
                    client: None,
                    grants: Vec::new(),
                    idempotency: None,
                    jobs: vec![job],
                };
                store.submit(&submission).await.unwrap();
            }
        });
    }
    writers.join_all().await;
}

pub(crate) async fn a_rotation_that_is_killed_is_brought_to_its_end_by_the_next(
    database: Database,
) {
    let installation = Installation::of(database, JOBS).await;
    let Installation { app, new_key, .. } = &installation;
    // After two bytes an envelope has the id of its key.
    let rotated = match database {
        Database::Sqlite => "jobs where substr(definition, 3, 3) = x'6e6577'",
        Database::Postgres | Database::Pooled => "jobs where substr(definition, 3, 3) = 'new'",
    };
    let rotation = installation.start_rotation(&installation.both_keys());
    while app.database.count(rotated).await == 0 {
        tokio::task::yield_now().await;
    }
    rotation.kill().await;

    let rest = installation.rotate().await;
    assert!(0 < rest && rest < 2 * JOBS, "{rest}: what is done is passed over");
    assert_eq!(installation.rotate().await, 0);
    assert_eq!(app.database.count(rotated).await, i64::try_from(JOBS).unwrap());
    assert_eq!(installation.rotate_with(new_key).await, 0, "the former key is not needed");
    installation.app.finish().await;
}
