//! `client_credentials` of `[identity]`, in JSON `AzureAd:ClientCredentials`

use std::path::{Path, PathBuf};

use super::{ClientCredential, section::Section};

/// Kinds of `CredentialSource` (Microsoft.Identity.Abstractions) that Errand has a word for.
const SUPPORTED: &str = "`ClientSecret`, `Path` or `SignedAssertionFilePath`";

/// Reads `client_credentials`, then `client_secret`, which is short for one of them.
pub(super) fn read(identity: &Section) -> Vec<ClientCredential> {
    let listed = identity.listed_sections("client_credentials");
    let nothing_given = listed.is_empty();
    let mut credentials: Vec<_> = listed.iter().filter_map(credential).collect();
    if nothing_given && identity.get("client_secret_file").is_none() {
        let what = format!("at least one, whose `source_type` is {SUPPORTED}");
        if identity.text("client_secret").is_none() {
            identity.required("client_credentials", None::<()>, &what);
        }
    }
    credentials.extend(identity.secret("client_secret").map(secret));
    credentials
}

fn credential(section: &Section) -> Option<ClientCredential> {
    let source = section.required("source_type", section.text("source_type"), SUPPORTED)?;
    let credential = match source.to_ascii_lowercase().as_str() {
        "clientsecret" => section.required_secret("client_secret", "the secret").map(secret),
        "path" => certificate(section),
        "signedassertionfilepath" => {
            let path = section.text("signed_assertion_file_path");
            let what = "the file of the assertion; in AKS what AZURE_FEDERATED_TOKEN_FILE says";
            let path = section.required("signed_assertion_file_path", path, what);
            path.map(|path| ClientCredential::SignedAssertionFile(path.into()))
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
    format!("`{source}` is not supported yet; expected {SUPPORTED}")
}

fn secret(secret: String) -> ClientCredential {
    ClientCredential::Secret(secret.into())
}

fn certificate(section: &Section) -> Option<ClientCredential> {
    if section.get("certificate_password").is_some() {
        section.problem("certificate_password", NO_PKCS12);
    }
    let certificate = pem_file(section, "certificate_path");
    let certificate =
        section.required("certificate_path", certificate, "the certificate's PEM file");
    let private_key = pem_file(section, "private_key_path");
    let certificate_path = certificate?;
    let private_key_path = private_key.unwrap_or_else(|| certificate_path.clone());
    Some(ClientCredential::Certificate { certificate_path, private_key_path })
}

const NO_PKCS12: &str =
    "PKCS#12 is not supported yet: expected PEM (`openssl pkcs12 -in FILE -nodes -out FILE.pem`)";

fn pem_file(section: &Section, key: &str) -> Option<PathBuf> {
    let path = section.text(key).map(PathBuf::from)?;
    if is_pkcs12(&path) {
        section.problem(key, NO_PKCS12);
    }
    Some(path)
}

fn is_pkcs12(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["pfx", "p12"].iter().any(|e| extension.eq_ignore_ascii_case(e)))
}
