//! Registered workflows: the operator's documents, which jobs name instead of carrying one.

use std::{
    fs::{self, DirEntry},
    io::{self, ErrorKind},
    path::Path,
};

use semver::Version;
use serde_json::Value;

use super::{
    CheckError, Problem, Workflow,
    cage::Cages,
    check_submitted,
    parse::{parse_json, parse_yaml},
};
use crate::config::{DownstreamApis, Limits};

/// The documents of one folder, checked like those of clients.
#[derive(Debug, Default)]
pub struct Registry(Vec<Registered>);

/// One of them.
#[derive(Debug)]
pub struct Registered {
    /// As it stands in the file.
    pub definition: Value,
    /// What it means.
    pub workflow: Workflow,
    version: Version,
}

/// Every document that cannot be used, one a line: file, pointer, what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("[workflows] directory: {}", .0.join("\n[workflows] directory: "))]
pub struct RegistryError(Vec<String>);

impl Registry {
    /// Reads every `*.json`, `*.yaml` and `*.yml` of `directory`, but not its subfolders; one that is
    /// missing has none.
    ///
    /// # Errors
    /// Any file that cannot be read, does not pass, or has the name and version of another: all at once.
    pub fn load(
        directory: &Path,
        limits: &Limits,
        apis: &DownstreamApis,
        cages: &Cages,
    ) -> Result<Self, RegistryError> {
        let mut registered: Vec<Registered> = Vec::new();
        let mut problems = Vec::new();
        let files = files(directory).map_err(|error| {
            RegistryError(vec![format!("{}: cannot be read: {error}", directory.display())])
        })?;
        for file in files {
            let file = file.path();
            let about = |pointer: &str, detail: &str| match pointer {
                "" => format!("{}: {detail}", file.display()),
                pointer => format!("{}: {pointer}: {detail}", file.display()),
            };
            match read(&file, limits, apis, cages) {
                Ok(found) => {
                    let twin = registered.iter().any(|known| known.name() == found.name());
                    if twin {
                        let (namespace, name, version) = found.name();
                        let detail =
                            format!("`{namespace}/{name}` {version} stands in another file too.");
                        problems.push(about("/document", &detail));
                    } else {
                        registered.push(found);
                    }
                }
                Err(found) => {
                    let lines = found.iter().map(|found| about(&found.pointer, &found.detail));
                    problems.extend(lines);
                }
            }
        }
        if !problems.is_empty() {
            return Err(RegistryError(problems));
        }
        let order = |one: &Registered| {
            let (namespace, name, _) = one.name();
            (namespace.to_owned(), name.to_owned(), one.version.clone())
        };
        registered.sort_by_cached_key(order);
        Ok(Self(registered))
    }

    /// The document of this name; without `version` the one of the highest
    /// (Semantic Versioning 2.0.0, 11).
    pub fn find(&self, namespace: &str, name: &str, version: Option<&str>) -> Option<&Registered> {
        // They are sorted by version.
        self.0.iter().rev().find(|known| {
            let (its_namespace, its_name, its_version) = known.name();
            (its_namespace, its_name) == (namespace, name)
                && version.is_none_or(|version| version == its_version)
        })
    }

    /// All, by namespace, name and version.
    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.0.iter()
    }
}

impl Registered {
    fn name(&self) -> (&str, &str, &str) {
        (self.workflow.namespace(), self.workflow.name(), self.workflow.version())
    }
}

/// The documents of a folder, by name.
fn files(directory: &Path) -> io::Result<Vec<DirEntry>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = entries.collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| is_yaml(&file.path()) || has_extension(&file.path(), "json"));
    files.sort_by_key(DirEntry::file_name);
    Ok(files)
}

fn read(
    file: &Path,
    limits: &Limits,
    apis: &DownstreamApis,
    cages: &Cages,
) -> Result<Registered, Vec<Problem>> {
    let unusable = |detail: String| vec![Problem { pointer: String::new(), detail }];
    let size = fs::metadata(file).map(|metadata| metadata.len());
    if size.is_ok_and(|size| size > limits.body_bytes as u64) {
        return Err(unusable(format!("A document has at most {} bytes.", limits.body_bytes)));
    }
    let text =
        fs::read_to_string(file).map_err(|error| unusable(format!("Cannot be read: {error}.")))?;
    let definition = parse_document(file, &text).map_err(|problem| vec![problem])?;
    let workflow = match check_submitted(&definition, limits, Some(apis), cages) {
        Ok(workflow) => workflow,
        Err(CheckError::Problems(problems)) => return Err(problems),
        Err(CheckError::Interrupted(interrupted)) => return Err(unusable(interrupted.to_string())),
    };
    let version = Version::parse(workflow.version()).map_err(|error| {
        let pointer = "/document/version".to_owned();
        vec![Problem { pointer, detail: format!("Not a semantic version: {error}.") }]
    })?;
    Ok(Registered { definition, workflow, version })
}

/// Reads the text of `file`: YAML if its name ends in .yaml or .yml, otherwise JSON.
pub fn parse_document(file: &Path, text: &str) -> Result<Value, Problem> {
    if is_yaml(file) { parse_yaml(text) } else { parse_json(text.as_bytes()) }
}

fn is_yaml(file: &Path) -> bool {
    has_extension(file, "yaml") || has_extension(file, "yml")
}

fn has_extension(file: &Path, wanted: &str) -> bool {
    file.extension().is_some_and(|extension| extension == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, version: &str) -> String {
        format!(
            "document: {{ dsl: '1.0.3', namespace: acme, name: {name}, version: '{version}' }}\n\
             do: [{{ a: {{ set: {{ sum: '${{ [1, 2] | add }}' }} }} }}]\n"
        )
    }

    fn load(files: &[(&str, &str)]) -> Result<Registry, RegistryError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let limits = Limits::default();
        Registry::load(folder.path(), &limits, &DownstreamApis::new(), &Cages::for_tests())
    }

    #[test]
    fn the_highest_version_is_found_unless_one_is_named() {
        let json = parse_yaml(&document("n", "1.10.0")).unwrap().to_string();
        let registry = load(&[
            ("a.yaml", &document("n", "1.9.0")),
            ("b.json", &json),
            ("c.yml", &document("n", "1.10.0-rc.1")),
            ("d.yaml", &document("other", "7.0.0")),
            ("README.md", "no document"),
        ])
        .unwrap();
        let find = |name, version| {
            registry.find("acme", name, version).map(|found| found.workflow.version().to_owned())
        };
        assert_eq!(find("n", None).as_deref(), Some("1.10.0"));
        assert_eq!(find("n", Some("1.9.0")).as_deref(), Some("1.9.0"));
        assert_eq!(find("n", Some("2.0.0")), None);
        assert_eq!(find("missing", None), None);
        assert!(registry.find("emca", "n", None).is_none());
        assert_eq!(registry.iter().count(), 4);
    }

    #[test]
    fn a_missing_folder_has_no_documents() {
        let folder = tempfile::tempdir().unwrap().path().join("missing");
        let loaded = Registry::load(
            &folder,
            &Limits::default(),
            &DownstreamApis::new(),
            &Cages::for_tests(),
        );
        assert_eq!(loaded.unwrap().iter().count(), 0);
    }

    #[test]
    fn every_broken_document_is_named_with_its_place() {
        let error = load(&[
            ("a.yaml", &document("n", "1.0.0")),
            ("b.yaml", &document("n", "1.0.0")),
            ("c.yaml", &document("n", "1.0.1").replace("add", "env")),
            ("d.yaml", "a: 1\na: 2\n"),
            ("e.json", "{"),
            ("f.yaml", &document("n", "1.0.2").replace("set", "sett")),
        ])
        .unwrap_err();
        let RegistryError(lines) = error;
        for (file, what) in [
            ("b.yaml", "/document: `acme/n` 1.0.0 stands in another file too."),
            ("c.yaml", "/do/0/a/set/sum: Unknown filter `env`."),
            ("d.yaml", "Not valid YAML: "),
            ("e.json", "Not valid JSON: "),
            ("f.yaml", "/do/0/a"),
        ] {
            let named = |line: &&String| line.contains(&format!("{file}: {what}"));
            assert!(lines.iter().any(|line| named(&line)), "{file} {what} in {lines:#?}");
        }
    }
}
