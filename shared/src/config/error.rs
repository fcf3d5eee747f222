//! What is wrong with a configuration: everything at once, never a value that could be a secret.

use std::fmt;

/// Everything that is wrong with a configuration.
///
/// `Display` prints one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the sections; at least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file or the environment variable at fault; for a missing key without a file, the
    /// variable that would set it.
    pub origin: String,
    /// `identity`, `downstream_apis.PartnerAPI`, in JSON `AzureAd`; empty at the top.
    pub section: String,
    /// `client_credentials.0.client_secret`; empty where the whole section or file is at fault.
    pub key: String,
    /// What was expected, or what is wrong.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// `errand.toml: [worker] lease_seconds: expected …`
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.origin)?;
        match (self.section.as_str(), self.key.as_str()) {
            ("", "") => {}
            ("", key) => write!(formatter, "{key}: ")?,
            (section, "") => write!(formatter, "[{section}]: ")?,
            (section, key) => write!(formatter, "[{section}] {key}: ")?,
        }
        formatter.write_str(&self.message)
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}
