//! How long Errand takes for a token that it has in memory, for `bench/run`. Prints microseconds.
//!
//! Takes `AUTHORITY`, `CLIENT_ID`, `CLIENT_SECRET`, `SCOPE` and `USER_TOKEN` from the environment, as the
//! programs that it is measured beside.

use std::{env, sync::Arc, time::Instant};

use errand_shared::{
    config::Config,
    identity::Verifier,
    sessions::{Preflight, Sessions},
    storage::{self, ClaimedSession, Grant, SessionSelector},
    time::{SharedClock, SystemClock},
};

const LOOKUPS: u32 = 500_000;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the figure")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is missing"));
    let authority = variable("AUTHORITY")?;
    let (instance, tenant) = authority.rsplit_once('/').ok_or("AUTHORITY has no tenant")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("errand.toml");
    let configuration = format!(
        "database.url = 'sqlite://{}/errand.db'\n\
         encryption.keys = ['k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=']\n\
         [identity]\ninstance = '{instance}/'\ntenant_id = '{tenant}'\nclient_id = '{}'\n\
         client_secret = '{}'\n\
         [downstream_apis.Partner]\nbase_url = 'http://localhost'\nscopes = ['{}']\n",
        folder.path().display(),
        variable("CLIENT_ID")?,
        variable("CLIENT_SECRET")?,
        variable("SCOPE")?,
    );
    std::fs::write(&file, configuration)?;
    let config = Config::load(Some(&file), [])?;
    let clock: SharedClock = Arc::new(SystemClock);
    let store = storage::open(&config.database, &config.encryption).await?;
    let sessions = Sessions::new(&config.identity, Arc::clone(&store), Arc::clone(&clock));
    let api = &config.downstream_apis["Partner"];

    let verifier = Verifier::new(&config.identity, clock);
    let caller = verifier.verify(Some(&format!("Bearer {}", variable("USER_TOKEN")?))).await?;
    let initiated = sessions.initiate(&caller, Some("lookup"), &[api], Preflight::First).await?;
    if let Grant::New(grant) = initiated.grant() {
        store.replace_grant(&caller.principal, grant).await?;
    }
    let (owner, selector) = (&caller.principal, SessionSelector::Key("lookup"));
    let found = store.find_session(owner, &config.identity.client_id, selector).await?;
    let session = ClaimedSession { id: found.ok_or("there is no session")?.id, version: 1 };

    let mut began = Instant::now();
    for done in 0..=LOOKUPS {
        sessions.acquire_token(session, owner, api, None).await?;
        // The first one reads the row.
        if done == 0 {
            began = Instant::now();
        }
    }
    println!("{}", began.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKUPS));
    Ok(())
}
