//! The way from a file and the environment to a [`Config`].

use std::path::Path;

use super::{
    Config, api, database, downstream_apis, encryption,
    environment::{Platform, Variables, overlay},
    error::ConfigError,
    file, identity, limits, microsoft,
    node::{Node, Origin},
    report::Report,
    retention,
    section::Section,
    spelling::Spelling,
    telemetry, webhooks, worker, workflows,
};

impl Config {
    /// Reads the configuration file at `path`, if one is given, and lays `environment` over it.
    ///
    /// - A file that ends in `.json` is an `appsettings.json` of Microsoft.Identity.Web: comments and
    ///   trailing commas are fine, the case of keys does not matter, other programs' sections are
    ///   ignored, Errand's own stand under `Errand`. Any other file is TOML.
    /// - `ERRAND__SECTION__KEY` sets a key; with JSON `AzureAd__KEY` and `DownstreamApis__NAME__KEY`
    ///   do so too, and `ERRAND__…` goes before them. A list is JSON, separated by commas, or set
    ///   item by item (`ERRAND__IDENTITY__CLIENT_CREDENTIALS__0__CLIENT_SECRET_FILE`).
    /// - `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and `AZURE_FEDERATED_TOKEN_FILE` are what Azure sets
    ///   for client credentials that it provides.
    /// - An empty string is the same as no string.
    /// - Relative paths are relative to the current directory, not to the file.
    ///
    /// # Errors
    /// Everything that is wrong, at once; print it and exit with 2.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let spelling = path.map_or(Spelling::Toml, file::spelling);
        let report = Report::new(spelling);
        let variables = Variables::from_environment(environment);
        let mut tree = match path {
            Some(path) => file::read(path)?,
            None => Node::empty_table(&Origin::File("environment".into()), Vec::new()),
        };
        if spelling == Spelling::Microsoft {
            overlay(&mut tree, variables.microsoft);
            tree = microsoft::adapt(tree, &report);
        }
        overlay(&mut tree, variables.errand);
        let file = path.map(|path| path.display().to_string());
        let config = read(&Section::root(&tree, file.as_deref(), &report), &variables.platform);
        let warnings = report.finish()?;
        let config = config.expect("a section that cannot be read is reported");
        Ok(Self { warnings, ..config })
    }
}

/// Reads all sections, so that all problems are found.
fn read(root: &Section, platform: &Platform) -> Option<Config> {
    let allow_insecure_http = root.boolean("allow_insecure_http").unwrap_or(false);
    let database = database::read(&root.section("database"));
    let encryption = encryption::read(&root.section("encryption"));
    let api = api::read(&root.section("api"), allow_insecure_http);
    let worker = worker::read(&root.section("worker"));
    let api_beyond_loopback = !api.listen.ip().is_loopback();
    let identity = identity::read(
        &root.section("identity"),
        platform,
        allow_insecure_http,
        api_beyond_loopback,
    );
    let dialect = identity.as_ref().map(|identity| &identity.dialect);
    let downstream_apis = downstream_apis::read(root, allow_insecure_http, dialect);
    let webhooks = webhooks::read(&root.section("webhooks"), allow_insecure_http);
    let workflows = workflows::read(&root.section("workflows"));
    let limits = limits::read(&root.section("limits"));
    let telemetry = telemetry::read(&root.section("telemetry"));
    let retention = retention::read(&root.section("retention"));
    root.finish();
    Some(Config {
        allow_insecure_http,
        database,
        encryption,
        api,
        worker,
        identity: identity?,
        downstream_apis,
        webhooks,
        workflows,
        limits,
        telemetry,
        retention,
        warnings: Vec::new(),
    })
}
