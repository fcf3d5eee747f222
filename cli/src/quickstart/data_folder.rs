//! What a quickstart keeps: database, encryption key, the simulated tenant's keys.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use errand_shared::time::{Clock, SystemClock};

use crate::{error::CommandError, keys::new_key};

/// A folder that belongs to one quickstart at a time.
///
/// Its path is text, because that of the database stands in a URL.
pub(super) struct DataFolder(String);

impl DataFolder {
    /// Makes the folder and its encryption key, for their owner only, unless they are there.
    pub(super) fn open(path: String) -> Result<Self, CommandError> {
        let folder = Self(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder.0)
            .and_then(|()| folder.ensure_encryption_key())
            .map_err(|error| folder.unusable(&error))?;
        Ok(folder)
    }

    pub(super) fn encryption_key(&self) -> String {
        self.file("encryption.key")
    }

    pub(super) fn database_url(&self) -> String {
        // What has a meaning in a URL, and only that.
        let path = self.file("errand.db").replace('%', "%25").replace('?', "%3F");
        format!("sqlite://{path}")
    }

    pub(super) fn simulator(&self) -> String {
        self.file("simulator")
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    pub(super) fn unusable(&self, why: &dyn fmt::Display) -> CommandError {
        CommandError::unusable(format!(
            "cannot use the data folder {self}: {why}; choose another one with --data"
        ))
    }

    fn ensure_encryption_key(&self) -> io::Result<()> {
        let path = self.encryption_key();
        if Path::new(&path).try_exists()? {
            return Ok(());
        }
        // Renamed when complete: a process killed in between leaves no half key.
        let draft = format!("{path}.draft");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{}", new_key(SystemClock.now()))?;
        file.sync_all()?;
        fs::rename(draft, path)
    }
}

impl fmt::Display for DataFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_for_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("made/if/missing").display().to_string();
        let folder = DataFolder::open(path.clone()).unwrap();
        let key = fs::read_to_string(folder.encryption_key()).unwrap();
        let folder = DataFolder::open(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(folder.encryption_key()).unwrap(), key);
        let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.encryption_key()), 0o600);
        assert_eq!(mode(&path), 0o700);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        let path = parent.path().join("file/below").display().to_string();
        let error = DataFolder::open(path).err().unwrap().to_string();
        assert!(error.contains("file/below") && error.contains("--data"), "{error}");
    }

    #[test]
    fn the_database_may_lie_in_any_folder() {
        let folder = DataFolder("what? 100%".to_owned());
        assert_eq!(folder.database_url(), "sqlite://what%3F 100%25/errand.db");
    }
}
