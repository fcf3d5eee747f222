use std::{fmt::Display, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use errand_shared::{
    config::{Config, DownstreamApi, process_environment},
    http,
    identity::{TokenEndpoint, Verifier},
    storage::{self, SchemaState, SharedStore},
    telemetry::chain,
    time::{SharedClock, SystemClock},
};

use crate::{error::CommandError, output};

/// Check configuration, database, keys, identity provider and downstream addresses.
///
/// One line each; changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// TOML, or an appsettings.json of Microsoft.Identity.Web; `ERRAND__SECTION__KEY` overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// For an answer of a downstream API.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(arguments: Arguments) -> Result<(), CommandError> {
    let mut findings = Findings { wrong: 0 };
    match Config::load(arguments.config.as_deref(), process_environment()) {
        Err(error) => {
            for problem in error.problems {
                findings.tell("configuration", Err(problem))?;
            }
        }
        Ok(config) => {
            findings.tell("configuration", Ok::<_, String>(()))?;
            check_database(&config, &mut findings).await?;
            check_identity_provider(&config, &mut findings).await?;
            for api in config.downstream_apis.values() {
                findings.tell(&format!("downstream API {}", api.name), answers(api).await)?;
            }
        }
    }
    match findings.wrong {
        0 => Ok(()),
        wrong => Err(CommandError::Failed(format!("{wrong} wrong"))),
    }
}

/// What is printed, and how much of it is bad.
struct Findings {
    wrong: usize,
}

impl Findings {
    fn tell(&mut self, what: &str, found: Result<(), impl Display>) -> Result<(), CommandError> {
        match found {
            Ok(()) => output::result(&format!("ok   {what}")),
            Err(problem) => {
                self.wrong += 1;
                output::result(&format!("FAIL {what}: {problem}"))
            }
        }
    }
}

async fn check_database(config: &Config, findings: &mut Findings) -> Result<(), CommandError> {
    let opened = storage::inspect(&config.database, &config.encryption).await;
    let (schema, store) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let problem = format!(
                "{}; check [database] url, or run `errand migrate` if there is none yet",
                chain(&error)
            );
            return findings.tell("database", Err(problem));
        }
    };
    findings.tell("database", Ok::<_, String>(()))?;
    match schema {
        SchemaState::UpToDate => {
            findings.tell("schema", Ok::<_, String>(()))?;
            findings.tell("encryption keys", check_keys(&store).await)
        }
        SchemaState::Behind => findings.tell("schema", Err("not up to date: run `errand migrate`")),
        SchemaState::Foreign { version } => {
            let problem = format!(
                "migration {version} broke off or is not this version's: use the version that \
                 applied it, or restore a backup"
            );
            findings.tell("schema", Err(problem))
        }
    }
}

async fn check_keys(store: &SharedStore) -> Result<(), String> {
    let sampled = store.sample().await.map_err(|error| chain(&error))?;
    match sampled.undecryptable.first() {
        None => Ok(()),
        Some(error) => Err(format!("{}; put the key back into [encryption] keys", chain(error))),
    }
}

async fn check_identity_provider(
    config: &Config,
    findings: &mut Findings,
) -> Result<(), CommandError> {
    let clock: SharedClock = Arc::new(SystemClock);
    let warmed = Verifier::new(&config.identity, SharedClock::clone(&clock)).warm().await;
    let warmed = warmed.map_err(|error| {
        format!("{error}, for the reason logged: check [identity] and the way to the provider")
    });
    findings.tell("discovery document and signing keys", warmed)?;
    let endpoint = TokenEndpoint::new(&config.identity, clock);
    let own = vec![format!("{}/.default", config.identity.client_id)];
    let scopes = config.downstream_apis.values().next().map_or(&own, |api| &api.scopes);
    for (index, checked) in endpoint.check_credentials(scopes).await.into_iter().enumerate() {
        let checked = checked.map_err(|problem| {
            format!("{problem}; check [identity] client_id and client_credentials")
        });
        findings.tell(&format!("client credential {}", index + 1), checked)?;
    }
    Ok(())
}

/// Whatever it answers without a token: it is there.
async fn answers(api: &DownstreamApi) -> Result<(), String> {
    let sent = http::client(HTTP_TIMEOUT).head(api.base_url.clone()).send().await;
    sent.map(drop).map_err(|error| format!("{}; check base_url and the way there", chain(&error)))
}
