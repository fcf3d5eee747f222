//! Client credentials of every kind.

use std::path::Path;

use secrecy::ExposeSecret;

use super::{CANARY, is_pem, load_json, load_toml, toml_with};
use crate::config::{AssertionAlgorithm, CertificateFile, ClientCredential, ManagedIdentitySource};

/// The one credential of `table`, before the secret that `toml_with` adds.
fn credential(table: &str, variables: &[(&str, &str)]) -> Result<ClientCredential, String> {
    let credentials = format!("client_credentials = [{{ {table} }}]");
    let config = load_toml(&toml_with("", &credentials), variables)?;
    Ok(config.identity.client_credentials[0].clone())
}

#[test]
fn a_certificate_is_pkcs12_by_its_name_or_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, format!("{CANARY}\n")).unwrap();
    let from_file = format!("certificate_password_file = '{}'", password.display());
    // What is written beside the path, and the password of PKCS#12; none for PEM.
    for (path, beside, expected) in [
        ("a.pem", "", None),
        ("a.PFX", "", Some("")),
        ("a.p12", "certificate_password = 'canary-3f1c'", Some(CANARY)),
        ("a", "certificate_password = 'canary-3f1c'", Some(CANARY)),
        ("a.pfx", from_file.as_str(), Some(CANARY)),
    ] {
        let table = format!("source_type = 'Path', certificate_path = '{path}', {beside}");
        let credential = credential(table.trim_end_matches(", "), &[]).unwrap();
        let ClientCredential::Certificate(certificate) = credential else { panic!("{table}") };
        assert!(!format!("{certificate:?}").contains(CANARY));
        match (&certificate.file, expected) {
            (file @ CertificateFile::Pem { .. }, None) => assert!(is_pem(file, path, path)),
            (CertificateFile::Pkcs12 { path: given, password }, Some(expected)) => {
                assert_eq!(given, Path::new(path));
                assert_eq!(password.expose_secret(), expected);
            }
            (file, _) => panic!("{table}: {file:?}"),
        }
    }
}

#[test]
fn a_certificate_signs_as_configured() {
    let table = "source_type = 'Path', certificate_path = 'a.pem', private_key_path = 'a.key'";
    for (beside, expected) in [
        ("", AssertionAlgorithm::Ps256),
        (", algorithm = 'PS256'", AssertionAlgorithm::Ps256),
        (", algorithm = 'RS256'", AssertionAlgorithm::Rs256),
    ] {
        let credential = credential(&format!("{table}{beside}"), &[]).unwrap();
        let ClientCredential::Certificate(certificate) = credential else { panic!("{beside}") };
        assert!(is_pem(&certificate.file, "a.pem", "a.key"));
        assert_eq!(certificate.algorithm, expected);
        assert!(!certificate.send_x5c);
    }
}

#[test]
fn an_assertion_file_is_the_one_of_the_cluster_unless_another_is_named() {
    let cluster = [("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/token")];
    for (beside, expected) in [
        ("", "/var/run/secrets/azure/token"),
        (", signed_assertion_file_path = '/own/token'", "/own/token"),
    ] {
        let table = format!("source_type = 'SignedAssertionFilePath'{beside}");
        let credential = credential(&table, &cluster).unwrap();
        assert!(
            matches!(&credential, ClientCredential::SignedAssertionFile(path)
                if path == Path::new(expected)),
            "{credential:?}"
        );
    }
}

#[test]
fn a_managed_identity_is_asked_for_where_the_platform_says() {
    let endpoint = ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token");
    let header = ("IDENTITY_HEADER", CANARY);
    let table =
        "source_type = 'SignedAssertionFromManagedIdentity', managed_identity_client_id = 'i'";
    for (variables, app_service) in [
        (vec![], false),
        (vec![endpoint], false),
        (vec![header], false),
        (vec![endpoint, ("IDENTITY_HEADER", "")], false),
        (vec![endpoint, header], true),
    ] {
        let credential = credential(table, &variables).unwrap();
        assert!(!format!("{credential:?}").contains(CANARY));
        let ClientCredential::ManagedIdentity(identity) = credential else { panic!("another") };
        assert_eq!(identity.client_id.as_deref(), Some("i"));
        match identity.source {
            ManagedIdentitySource::AppService { endpoint: url, header } => {
                assert!(app_service);
                assert_eq!(url.as_str(), endpoint.1);
                assert_eq!(header.expose_secret(), CANARY);
            }
            ManagedIdentitySource::InstanceMetadata => assert!(!app_service),
        }
    }

    let wrong = [("IDENTITY_ENDPOINT", "canary-3f1c"), header];
    let error = credential(table, &wrong).map(|_| ()).unwrap_err();
    assert_eq!(error, "IDENTITY_ENDPOINT: expected the URL of App Service's identity endpoint");
}

#[test]
fn microsofts_words_for_them_work() {
    let json = r#"{
      "AzureAd": {
        "TenantId": "11111111-2222-3333-4444-555555555555", "ClientId": "errand", "SendX5C": "true",
        "ClientCredentials": [
          { "SourceType": "SignedAssertionFromManagedIdentity", "ManagedIdentityClientId": "i" },
          { "SourceType": "SignedAssertionFilePath", "SignedAssertionFileDiskPath": "token" },
          { "SourceType": "Path", "CertificateDiskPath": "a.pfx", "CertificatePassword": "canary-3f1c" }
        ]
      },
      "Errand": { "Encryption": { "Keys": [ "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" ] } }
    }"#;
    let config = load_json(json, &[]).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let credentials = config.identity.client_credentials;
    let [
        ClientCredential::ManagedIdentity(identity),
        ClientCredential::SignedAssertionFile(token),
        ClientCredential::Certificate(certificate),
    ] = &credentials[..]
    else {
        panic!("{credentials:?}")
    };
    assert_eq!(identity.client_id.as_deref(), Some("i"));
    assert_eq!(token, Path::new("token"));
    assert!(certificate.send_x5c);
    assert!(matches!(&certificate.file, CertificateFile::Pkcs12 { password, .. }
        if password.expose_secret() == CANARY));
}
