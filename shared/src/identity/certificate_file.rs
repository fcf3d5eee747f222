//! A certificate and its private key, from PEM (RFC 7468) or PKCS#12 (RFC 7292).

use std::path::Path;

use jsonwebtoken::EncodingKey;
use p12_keystore::{KeyStore, Pkcs12ImportPolicy, error::Error as Pkcs12Error};
use pem::Pem;
use secrecy::{ExposeSecret, SecretString};

use super::client_credential::{CredentialError, read as read_file, unusable};
use crate::config::CertificateFile;

/// What signs an assertion, and what it is known by.
pub(super) struct KeyPair {
    /// DER.
    pub(super) certificate: Vec<u8>,
    pub(super) private_key: EncodingKey,
}

pub(super) async fn read(file: &CertificateFile) -> Result<KeyPair, CredentialError> {
    let (certificate, key) = match file {
        CertificateFile::Pem { certificate_path, private_key_path } => (
            first_block(certificate_path, "CERTIFICATE", "holds no certificate in PEM").await?,
            first_block(private_key_path, "PRIVATE KEY", "holds no private key in PEM").await?,
        ),
        CertificateFile::Pkcs12 { path, password } => open(path, password).await?,
    };
    let private_key = EncodingKey::from_rsa_pem(pem::encode(&key).as_bytes())
        .map_err(|_| unusable(file.private_key_path(), not_rsa(&key)))?;
    Ok(KeyPair { certificate: certificate.into_contents(), private_key })
}

impl CertificateFile {
    /// The file to blame when something is wrong with the key.
    pub(super) fn private_key_path(&self) -> &Path {
        match self {
            Self::Pem { private_key_path, .. } => private_key_path,
            Self::Pkcs12 { path, .. } => path,
        }
    }
}

/// What is wrong with a key that is no RSA key: PS256 and RS256 are all that Entra takes.
fn not_rsa(key: &Pem) -> &'static str {
    // DER of the algorithm id-ecPublicKey (RFC 5480 2.1.1), as it stands in PKCS #8.
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let names_ec = |window: &[u8]| window == EC_PUBLIC_KEY;
    if key.tag() == "EC PRIVATE KEY" || key.contents().windows(EC_PUBLIC_KEY.len()).any(names_ec) {
        "holds an elliptic-curve key: expected a certificate with an RSA key"
    } else if key.tag() == "ENCRYPTED PRIVATE KEY" {
        "holds an encrypted key: expected one without a password, or a PKCS#12 file"
    } else {
        "holds no RSA key in PKCS #1 or #8"
    }
}

/// The first block of a PEM file whose label ends in `label`; one file may hold key and certificate.
async fn first_block(
    path: &Path,
    label: &str,
    otherwise: &'static str,
) -> Result<Pem, CredentialError> {
    let blocks =
        pem::parse_many(read_file(path).await?).map_err(|_| unusable(path, "is not a PEM file"))?;
    let found = blocks.into_iter().find(|block| block.tag().ends_with(label));
    found.ok_or_else(|| unusable(path, otherwise))
}

/// The certificate and the key of a PKCS#12 file.
async fn open(path: &Path, password: &SecretString) -> Result<(Pem, Pem), CredentialError> {
    let content = read_file(path).await?;
    let password = password.clone();
    // To derive a key from a password is slow by intention.
    let opened = tokio::task::spawn_blocking(move || {
        KeyStore::from_pkcs12(&content, password.expose_secret(), Pkcs12ImportPolicy::Strict)
    });
    let store = opened
        .await
        .map_err(|_| unusable(path, "cannot be opened"))?
        .map_err(|error| unusable(path, problem(&error)))?;
    let (certificate, key) = store
        .private_key_chain()
        .and_then(|(_, chain)| Some((chain.certs().first()?, chain.key())))
        .ok_or_else(|| unusable(path, "holds no private key with its certificate"))?;
    Ok((Pem::new("CERTIFICATE", certificate.as_der()), Pem::new("PRIVATE KEY", key.as_der())))
}

fn problem(error: &Pkcs12Error) -> &'static str {
    match error {
        Pkcs12Error::MacError(_) | Pkcs12Error::UnpadError | Pkcs12Error::Pkcs5Error(_) => {
            "does not open with its `certificate_password`"
        }
        Pkcs12Error::UnsupportedEncryptionScheme | Pkcs12Error::UnsupportedMacAlgorithm => {
            "is protected in a way that is not supported: expected AES, 3DES or RC2-40; convert it with \
             `openssl pkcs12 -legacy -in OLD.pfx -noenc -out NEW.pem`"
        }
        _ => "is not a PKCS#12 file",
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, jwk::Jwk};

    use super::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/identity/testdata").join(name)
    }

    fn pem(certificate_path: &Path, private_key_path: &Path) -> CertificateFile {
        CertificateFile::Pem {
            certificate_path: certificate_path.to_owned(),
            private_key_path: private_key_path.to_owned(),
        }
    }

    fn pkcs12(path: &Path, password: &str) -> CertificateFile {
        CertificateFile::Pkcs12 { path: path.to_owned(), password: password.into() }
    }

    #[tokio::test]
    async fn every_format_holds_the_same_certificate_and_key() {
        let public_key =
            |pair: &KeyPair| Jwk::from_encoding_key(&pair.private_key, Algorithm::PS256).unwrap();
        let expected = fixture("client.pem");
        let expected = read(&pem(&expected, &expected)).await.unwrap();
        for (name, password) in
            [("aes.pfx", "throw-away"), ("legacy.pfx", "throw-away"), ("3des-no-password.pfx", "")]
        {
            let pair = read(&pkcs12(&fixture(name), password)).await.unwrap();
            assert_eq!(pair.certificate, expected.certificate, "{name}");
            assert_eq!(public_key(&pair), public_key(&expected), "{name}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_named_without_its_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let certificate = ::pem::encode(&Pem::new("CERTIFICATE", b"der".to_vec()));
        let certificate = file("certificate.pem", &certificate);
        let key = file("key.pem", &::pem::encode(&Pem::new("PRIVATE KEY", b"no key".to_vec())));
        let sec1 = file("sec1.pem", &::pem::encode(&Pem::new("EC PRIVATE KEY", b"der".to_vec())));
        let encrypted = ::pem::encode(&Pem::new("ENCRYPTED PRIVATE KEY", b"der".to_vec()));
        let encrypted = file("encrypted.pem", &encrypted);
        let elliptic = "holds an elliptic-curve key: expected a certificate with an RSA key";
        let missing = folder.path().join("missing.pfx");
        for (file, name, problem) in [
            (pem(&certificate, &certificate), "certificate.pem", "holds no private key in PEM"),
            (pem(&certificate, &key), "key.pem", "holds no RSA key"),
            (pem(&fixture("aes.pfx"), &key), "aes.pfx", "holds no certificate in PEM"),
            (pem(&certificate, &encrypted), "encrypted.pem", "holds an encrypted key"),
            (pem(&certificate, &sec1), "sec1.pem", elliptic),
            (pem(&fixture("ec.pem"), &fixture("ec.pem")), "ec.pem", elliptic),
            (pkcs12(&fixture("ec.pfx"), "throw-away"), "ec.pfx", elliptic),
            (
                pkcs12(&fixture("rc2-128.pfx"), "throw-away"),
                "rc2-128.pfx",
                "openssl pkcs12 -legacy",
            ),
            (pkcs12(&missing, ""), "missing.pfx", "cannot read"),
            (pkcs12(&certificate, "canary-3f1c"), "certificate.pem", "is not a PKCS#12 file"),
            (pkcs12(&fixture("aes.pfx"), "canary-3f1c"), "aes.pfx", "does not open with its"),
            (pkcs12(&fixture("legacy.pfx"), "canary-3f1c"), "legacy.pfx", "does not open with its"),
        ] {
            let error = read(&file).await.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(problem), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
