//! Secrets: `KEY` holds one, `KEY_file` names the file that does.

use std::fs;

use super::{
    node::{Node, Origin},
    section::Section,
};

/// Where a secret stands.
pub(super) enum SecretForm {
    /// At its key, if anywhere.
    Value,
    /// In the file that `KEY_file` names.
    File,
}

impl Section<'_> {
    /// Says in which form the secret `key` is given; `None`, reported, for both at once.
    ///
    /// A variable goes before the configuration file also where they use different forms.
    pub(super) fn secret_form(&self, key: &str) -> Option<SecretForm> {
        let file_key = format!("{key}_file");
        let is_variable = |node: &Node| matches!(node.origin, Origin::Variable(_));
        match (self.get(key), self.get(&file_key)) {
            (_, None) => Some(SecretForm::Value),
            (None, Some(_)) => Some(SecretForm::File),
            (Some(value), Some(file)) => match (is_variable(value), is_variable(file)) {
                (true, false) => Some(SecretForm::Value),
                (false, true) => Some(SecretForm::File),
                _ => {
                    let other = self.report.spelling.key(&file_key);
                    self.problem(key, format!("is given twice: here and as `{other}`"));
                    None
                }
            },
        }
    }

    /// Returns the secret `key` in whichever form.
    pub(super) fn secret(&self, key: &str) -> Option<String> {
        match self.secret_form(key)? {
            SecretForm::Value => self.text(key).map(str::to_owned),
            SecretForm::File => self.secret_in_file(key),
        }
    }

    /// Returns the secret `key` in whichever form, and reports it if it is in neither.
    pub(super) fn required_secret(&self, key: &str, what: &str) -> Option<String> {
        match self.secret_form(key)? {
            SecretForm::Value => self.required(key, self.text(key).map(str::to_owned), what),
            SecretForm::File => self.secret_in_file(key),
        }
    }

    /// Returns the content of the file that `key_file` names, without one line break at its end.
    pub(super) fn secret_in_file(&self, key: &str) -> Option<String> {
        let file_key = &format!("{key}_file");
        let path = self.required(file_key, self.text(file_key), "the path of a file")?;
        let content = match fs::read_to_string(path) {
            Ok(content) => content,
            Err(error) => {
                self.problem(file_key, format!("cannot read the file `{path}`: {error}"));
                return None;
            }
        };
        let secret = content.strip_suffix('\n').unwrap_or(&content);
        let secret = secret.strip_suffix('\r').unwrap_or(secret);
        if secret.trim().is_empty() {
            self.problem(file_key, format!("the file `{path}` is empty"));
            return None;
        }
        Some(secret.to_owned())
    }
}
