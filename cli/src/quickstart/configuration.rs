//! The configuration of a quickstart: what stands in a file elsewhere, given as variables.

use errand_shared::config::Config;
use errand_simulator::Description;

use super::data_folder::DataFolder;
use crate::error::CommandError;

/// How the simulated partner API is called in workflow documents.
pub(super) const PARTNER_API: &str = "PartnerAPI";

/// Returns the configuration of an API on loopback `port`, with the simulator as tenant and partner.
pub(super) fn configuration(
    folder: &DataFolder,
    port: u16,
    simulator: &Description,
) -> Result<Config, CommandError> {
    let (instance, tenant_id) =
        simulator.authority.rsplit_once('/').expect("an authority ends in its tenant");
    let partner = |key| format!("DOWNSTREAM_APIS__{PARTNER_API}__{key}");
    let keys = [
        ("DATABASE__URL".to_owned(), folder.database_url()),
        ("ENCRYPTION__KEYS_FILE".to_owned(), folder.encryption_key()),
        ("API__LISTEN".to_owned(), format!("127.0.0.1:{port}")),
        // What ran in a quickstart that was killed goes on soon after the next start.
        ("WORKER__LEASE_SECONDS".to_owned(), "5".to_owned()),
        ("IDENTITY__INSTANCE".to_owned(), instance.to_owned()),
        ("IDENTITY__TENANT_ID".to_owned(), tenant_id.to_owned()),
        ("IDENTITY__CLIENT_ID".to_owned(), simulator.client_id.clone()),
        ("IDENTITY__CLIENT_SECRET".to_owned(), simulator.client_secret.clone()),
        (partner("BASE_URL"), simulator.downstream.clone()),
        (partner("SCOPES"), simulator.scope.clone()),
        (partner("HONOURS_IDEMPOTENCY_KEY"), "true".to_owned()),
    ];
    let variables = keys.map(|(key, value)| (format!("ERRAND__{key}"), value));
    // Of all these only the key comes from somebody else's hands.
    Config::load(None, variables).map_err(|error| folder.unusable(&error))
}
