//! `[encryption]`

use base64::{Engine, engine::general_purpose::STANDARD_PAD_INDIFFERENT};

use super::{EncryptionConfig, EncryptionKey, secret::SecretForm, section::Section};

/// AES-256.
const KEY_BYTES: usize = 32;

pub(super) fn read(section: &Section) -> EncryptionConfig {
    let config = EncryptionConfig { keys: keys(section).unwrap_or_default() };
    section.finish();
    config
}

fn keys(section: &Section) -> Option<Vec<EncryptionKey>> {
    const MISSING: &str = "`errand keys generate` prints one";
    let (key, entries) = match section.secret_form("keys")? {
        SecretForm::Value => ("keys", section.required("keys", section.texts("keys"), MISSING)?),
        // One per line, or as in a variable.
        SecretForm::File => {
            let content = section.secret_in_file("keys")?;
            ("keys_file", content.split([',', '\n']).map(str::to_owned).collect())
        }
    };
    let entries = entries.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty());
    if entries.clone().next().is_none() {
        section.problem(key, format!("is required: {MISSING}"));
    }
    let mut keys: Vec<EncryptionKey> = Vec::new();
    for (index, entry) in entries.enumerate() {
        match parse(entry) {
            None => section.problem(
                key,
                format!(
                    "entry {}: expected `ID:BASE64-OF-32-BYTES`, ID of at most 32 letters, digits, `_` \
                     and `-`; `errand keys generate` prints one",
                    index + 1
                ),
            ),
            Some(parsed) if keys.iter().any(|other| other.id == parsed.id) => {
                section.problem(key, format!("entry {}: its id is there already", index + 1));
            }
            Some(parsed) => keys.push(parsed),
        }
    }
    Some(keys)
}

fn parse(entry: &str) -> Option<EncryptionKey> {
    let (id, key) = entry.split_once(':')?;
    let id_is_name = (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let key = STANDARD_PAD_INDIFFERENT.decode(key).ok()?;
    (id_is_name && key.len() == KEY_BYTES)
        .then(|| EncryptionKey { id: id.to_owned(), key: key.into() })
}
