//! `client_credentials` of `[identity]`, in JSON `AzureAd:ClientCredentials`

use std::path::{Path, PathBuf};

use url::Url;

use super::{
    AssertionAlgorithm, CertificateFile, ClientCertificate, ClientCredential, Dialect, KeyId,
    ManagedIdentity, ManagedIdentitySource, environment::Platform, section::Section,
};

/// Kinds of `CredentialSource` (Microsoft.Identity.Abstractions) that Errand has a word for.
const SUPPORTED: &str = "`ClientSecret`, `Path`, `SignedAssertionFilePath` or \
                         `SignedAssertionFromManagedIdentity`";

/// Reads `client_credentials`, then `client_secret`, which is short for one of them.
pub(super) fn read(
    identity: &Section,
    platform: &Platform,
    dialect: Option<&Dialect>,
) -> Vec<ClientCredential> {
    let send_x5c = identity.boolean("send_x5c").unwrap_or(false);
    let key_id = match dialect {
        None | Some(Dialect::Entra { .. }) => KeyId::Omitted,
        Some(Dialect::TokenExchange { .. }) => KeyId::Thumbprint,
    };
    let listed = identity.listed_sections("client_credentials");
    let nothing_given = listed.is_empty();
    let mut credentials: Vec<_> = listed
        .iter()
        .filter_map(|section| credential(section, platform, send_x5c, &key_id))
        .collect();
    if nothing_given && identity.get("client_secret_file").is_none() {
        let what = format!("at least one, whose `source_type` is {SUPPORTED}");
        if identity.text("client_secret").is_none() {
            identity.required("client_credentials", None::<()>, &what);
        }
    }
    credentials.extend(identity.secret("client_secret").map(secret));
    credentials
}

fn credential(
    section: &Section,
    platform: &Platform,
    send_x5c: bool,
    key_id: &KeyId,
) -> Option<ClientCredential> {
    let source = section.required("source_type", section.text("source_type"), SUPPORTED)?;
    let credential = match source.to_ascii_lowercase().as_str() {
        "clientsecret" => section.required_secret("client_secret", "the secret").map(secret),
        "path" => certificate(section, send_x5c, key_id).map(ClientCredential::Certificate),
        "signedassertionfilepath" => {
            let path = section.text("signed_assertion_file_path");
            let path = path.or(platform.federated_token_file.as_deref());
            let what = "the file of the assertion; AZURE_FEDERATED_TOKEN_FILE is not set either";
            let path = section.required("signed_assertion_file_path", path, what);
            path.map(|path| ClientCredential::SignedAssertionFile(path.into()))
        }
        "signedassertionfrommanagedidentity" => {
            managed_identity(section, platform).map(ClientCredential::ManagedIdentity)
        }
        _ => {
            section.problem("source_type", refusal(source));
            // Its other keys belong to a kind that is not known here.
            return None;
        }
    };
    section.finish();
    credential
}

fn refusal(source: &str) -> String {
    // A name, and not a secret that slipped into the wrong line.
    let is_name = source.len() <= 40 && source.bytes().all(|byte| byte.is_ascii_alphabetic());
    let source = if is_name { source } else { "this" };
    format!("`{source}` is not supported; expected {SUPPORTED}")
}

fn secret(secret: String) -> ClientCredential {
    ClientCredential::Secret(secret.into())
}

fn certificate(
    section: &Section,
    send_x5c: bool,
    default_key_id: &KeyId,
) -> Option<ClientCertificate> {
    let certificate_path = section.text("certificate_path").map(PathBuf::from);
    let what = "the certificate's file, PEM or PKCS#12";
    let certificate_path = section.required("certificate_path", certificate_path, what);
    let private_key_path = section.text("private_key_path").map(PathBuf::from);
    let password = section.secret("certificate_password");
    let algorithm = section
        .parsed("algorithm", "`\"PS256\"` or `\"RS256\"`", |text| match text {
            "PS256" => Some(AssertionAlgorithm::Ps256),
            "RS256" => Some(AssertionAlgorithm::Rs256),
            _ => None,
        })
        .unwrap_or(AssertionAlgorithm::Ps256);

    let key_id = section.text("key_id").map(|id| KeyId::Named(id.to_owned()));
    let key_id = key_id.unwrap_or_else(|| default_key_id.clone());

    let certificate_path = certificate_path?;
    let file = if password.is_some() || is_pkcs12(&certificate_path) {
        if private_key_path.is_some() {
            section.problem(
                "private_key_path",
                "belongs to a certificate in PEM; PKCS#12, which has a password, holds the key itself",
            );
        }
        let password = password.unwrap_or_default().into();
        CertificateFile::Pkcs12 { path: certificate_path, password }
    } else {
        let private_key_path = private_key_path.unwrap_or_else(|| certificate_path.clone());
        CertificateFile::Pem { certificate_path, private_key_path }
    };
    Some(ClientCertificate { key_id, file, algorithm, send_x5c })
}

fn is_pkcs12(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["pfx", "p12"].iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

fn managed_identity(section: &Section, platform: &Platform) -> Option<ManagedIdentity> {
    let client_id = section.text("managed_identity_client_id").map(str::to_owned);
    // Either variable alone belongs to a service of another kind, such as Azure Arc.
    let source = match (&platform.identity_endpoint, &platform.identity_header) {
        (Some(endpoint), Some(header)) => ManagedIdentitySource::AppService {
            endpoint: identity_endpoint(section, endpoint)?,
            header: header.as_str().into(),
        },
        (None, _) | (_, None) => ManagedIdentitySource::InstanceMetadata,
    };
    Some(ManagedIdentity { client_id, source })
}

/// Plain http, by which App Service does it, never leaves the machine.
fn identity_endpoint(section: &Section, text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    if url.is_none() {
        let expected = "expected the URL of App Service's identity endpoint";
        section.report.problem_at("IDENTITY_ENDPOINT", &[], expected);
    }
    url
}
