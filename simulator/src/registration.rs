use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{error::StartError, signing_keys::SigningKey, user::random_id};

/// The file of the state folder.
const FILE: &str = "tenant.json";

/// Everything that a restart must not change for tokens to stay valid.
pub(crate) struct Registration {
    pub(crate) tenant_id: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    /// HMAC key of refresh tokens.
    pub(crate) refresh_token_key: Vec<u8>,
    pub(crate) signing_key: SigningKey,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    tenant_id: String,
    client_id: String,
    client_secret: String,
    refresh_token_key: Vec<u8>,
    signing_key: String,
}

impl Registration {
    pub(crate) fn random() -> Self {
        Self {
            tenant_id: random_id(),
            client_id: random_id(),
            // Secrets of Entra hold `~`, which a client must encode right.
            client_secret: format!("{}~{}", random_text::<3>(), random_text::<24>()),
            refresh_token_key: random_bytes::<32>().to_vec(),
            signing_key: SigningKey::generate(),
        }
    }

    /// The registration kept in `folder`; the first time a random one, which is kept from then on.
    pub(crate) fn kept_in(folder: &Path) -> Result<Self, StartError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => Self::read(&bytes).ok_or(StartError::Content {
                path,
                expected: "the kept registration of a simulated tenant; remove it to start anew",
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let registration = Self::random();
                registration.write(folder, &path).map_err(file_error(&path))?;
                Ok(registration)
            }
            Err(error) => Err(file_error(&path)(error)),
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            tenant_id: stored.tenant_id,
            client_id: stored.client_id,
            client_secret: stored.client_secret,
            refresh_token_key: stored.refresh_token_key,
            signing_key: SigningKey::from_pem(stored.signing_key)?,
        })
    }

    fn write(&self, folder: &Path, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let stored = Stored {
            tenant_id: self.tenant_id.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            refresh_token_key: self.refresh_token_key.clone(),
            signing_key: self.signing_key.pem().to_owned(),
        };
        // Renamed when complete: a process killed in between leaves no half file.
        let draft = folder.join(format!("{FILE}.{}", random_id()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        serde_json::to_writer(file, &stored)?;
        fs::rename(draft, path)
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = PathBuf::from(path);
    |source| StartError::File { path, source }
}

/// Random text that is safe in URLs, of `BYTES` bytes of entropy.
pub(crate) fn random_text<const BYTES: usize>() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<BYTES>())
}

fn random_bytes<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).expect("the system has entropy");
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_registration_is_kept_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made/if/missing");
        let first = Registration::kept_in(&folder).unwrap();
        let second = Registration::kept_in(&folder).unwrap();
        assert_eq!(first.client_secret, second.client_secret);
        assert_eq!(first.signing_key.id, second.signing_key.id);
        let mode = fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_registration_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{}").unwrap();
        let error = Registration::kept_in(folder.path()).err().unwrap();
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
