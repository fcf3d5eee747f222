//! How keys are written and compared: `client_id` in TOML, `ClientId` (in any case) in JSON.

/// The spelling of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `[identity] client_id`, exactly so.
    Toml,
    /// `AzureAd:ClientId` as .NET reads it: case does not matter, and scalars may be strings.
    Microsoft,
}

impl Spelling {
    /// Returns how a user of this spelling writes `key` (given in snake_case).
    pub(super) fn key(self, key: &str) -> String {
        match self {
            Self::Toml => key.to_owned(),
            Self::Microsoft => key
                .split('_')
                .map(|word| {
                    let (first, rest) = word.split_at(word.len().min(1));
                    first.to_uppercase() + rest
                })
                .collect(),
        }
    }

    /// Is `written` the key `key` (given in snake_case)?
    pub(super) fn is(self, written: &str, key: &str) -> bool {
        match self {
            Self::Toml => written == key,
            Self::Microsoft => same_key(written, key),
        }
    }

    /// Splits the path of a key as written into its section and the key within.
    pub(super) fn section_and_key(self, path: &[String]) -> (String, String) {
        let (separator, named) = match self {
            Self::Toml => (".", ["downstream_apis"].as_slice()),
            Self::Microsoft => (":", ["DownstreamApis", "Errand"].as_slice()),
        };
        let depth = match path {
            [] | [_] => 0,
            [first, _, _, ..] if named.iter().any(|name| same_key(name, first)) => 2,
            _ => 1,
        };
        let (section, key) = path.split_at(depth);
        (section.join(separator), key.join(separator))
    }
}

/// Are these the same key, whatever their case and word separators?
pub(super) fn same_key(one: &str, other: &str) -> bool {
    let letters = |key: &str| key.replace('_', "").to_ascii_lowercase();
    letters(one) == letters(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_as_its_user_writes_it() {
        assert_eq!(Spelling::Toml.key("client_id"), "client_id");
        assert_eq!(Spelling::Microsoft.key("client_id"), "ClientId");
    }

    #[test]
    fn only_json_ignores_case() {
        assert!(Spelling::Microsoft.is("clientID", "client_id"));
        assert!(!Spelling::Toml.is("ClientId", "client_id"));
    }
}
