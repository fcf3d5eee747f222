//! `[database]`

use url::Url;

use super::{DatabaseConfig, secret::SecretForm, section::Section};

const DEFAULT_URL: &str = "sqlite://.errand/errand.db";

pub(super) fn read(section: &Section) -> DatabaseConfig {
    let url = section.secret("url").unwrap_or_else(|| DEFAULT_URL.to_owned());
    if !is_database(&url) {
        let key = match section.secret_form("url") {
            Some(SecretForm::File) => "url_file",
            Some(SecretForm::Value) | None => "url",
        };
        section
            .problem(key, "expected `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`");
    }
    let config = DatabaseConfig {
        url: url.into(),
        listen: section.boolean("listen").unwrap_or(true),
        prepared_statements: section.boolean("prepared_statements").unwrap_or(true),
    };
    section.finish();
    config
}

fn is_database(url: &str) -> bool {
    match url.split_once("://") {
        Some(("sqlite", path)) => !path.split('?').next().unwrap_or_default().is_empty(),
        Some(("postgres" | "postgresql", _)) => Url::parse(url).is_ok(),
        _ => false,
    }
}
