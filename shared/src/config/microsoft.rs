//! Turns the tree of an `appsettings.json` into Errand's sections.
//!
//! Microsoft.Identity.Web's keys that are Errand's in other letters need nothing; what has another
//! name or shape there gets Errand's here. Unknown keys are left for the reader to warn about.
//!
//! Source: Microsoft.Identity.Web `MicrosoftIdentityOptions`, Microsoft.Identity.Abstractions
//! `CredentialDescription` and `DownstreamApiOptions`.

use serde_json::Value;

use super::{
    node::{Content, Node},
    report::Report,
    spelling::same_key,
};

/// Returns a tree with `identity`, `downstream_apis` and what stands under `Errand`.
pub(super) fn adapt(mut root: Node, report: &Report) -> Node {
    let origin = root.origin.clone();
    let mut section = |name: &str| {
        take(&mut root, name).unwrap_or_else(|| Node::empty_table(&origin, vec![name.to_owned()]))
    };
    let mut identity = section("AzureAd");
    let mut apis = section("DownstreamApis");
    let mut errand = section("Errand");
    if let Some(other) = take(&mut root, "DownstreamApi") {
        report.ignored(&other, "Errand reads `DownstreamApis:NAME`");
    }
    for (ours, theirs) in [("Identity", "AzureAd"), ("DownstreamApis", "DownstreamApis")] {
        if let Some(other) = take(&mut errand, ours) {
            report.problem(&other, format!("belongs into the section `{theirs}` of this file"));
        }
    }
    adapt_identity(&mut identity, report);
    adapt_downstream_apis(&mut apis, report);
    put(&mut errand, "identity", identity);
    put(&mut errand, "downstream_apis", apis);
    errand
}

fn adapt_identity(identity: &mut Node, report: &Report) {
    let mut audiences: Vec<_> = take(identity, "Audience").into_iter().collect();
    audiences.extend(take(identity, "Audiences"));
    if let Some(mut validation) = take(identity, "TokenValidationParameters") {
        audiences.extend(take(&mut validation, "ValidAudience"));
        audiences.extend(take(&mut validation, "ValidAudiences"));
        for rest in members(&validation) {
            report.ignored(rest, "Errand validates tokens by its own rules");
        }
    }
    put_list(identity, "audiences", &audiences);

    // The scopes of the API itself, as the project templates and `RequiredScope` use them.
    if let Some(scopes) = take(identity, "Scopes") {
        put(identity, "required_scopes", scopes);
    }

    let credentials = ["ClientCredentials", "ClientCertificates"];
    let credentials: Vec<_> =
        credentials.into_iter().filter_map(|key| take(identity, key)).collect();
    put_list(identity, "client_credentials", &credentials);
    if let Some(Content::List(credentials)) =
        member(identity, "client_credentials").map(|node| &mut node.content)
    {
        for credential in credentials {
            rename(credential, "CertificateDiskPath", "certificate_path");
            rename(credential, "SignedAssertionFileDiskPath", "signed_assertion_file_path");
        }
    }

    if let Some(by_acl) = take(identity, "AllowWebApiToBeAuthorizedByACL")
        && is_true(&by_acl)
    {
        report.ignored(&by_acl, "Errand serves users only; a caller without a user is refused");
    }
}

fn adapt_downstream_apis(apis: &mut Node, report: &Report) {
    let Content::Table(table) = &mut apis.content else {
        return;
    };
    table.retain(|_, api| {
        if let Some(path) = take(api, "RelativePath") {
            report.ignored(&path, "the document of a job names the path of each call");
        }
        let app_token = take(api, "RequestAppToken").filter(is_true);
        if let Some(app_token) = &app_token {
            report.ignored(app_token, "Errand calls as the user only; this API is left out");
        }
        app_token.is_none()
    });
}

fn is_true(node: &Node) -> bool {
    match &node.content {
        Content::Scalar(Value::Bool(value)) => *value,
        Content::Scalar(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

fn take(node: &mut Node, key: &str) -> Option<Node> {
    let Content::Table(table) = &mut node.content else {
        return None;
    };
    let written = table.keys().find(|written| same_key(written, key))?.clone();
    table.remove(&written)
}

fn put(node: &mut Node, key: &str, value: Node) {
    if let Content::Table(table) = &mut node.content {
        table.insert(key.to_owned(), value);
    }
}

/// Puts the items of `lists` under one key, if there is any list; each keeps its own place.
fn put_list(node: &mut Node, key: &str, lists: &[Node]) {
    let Some(first) = lists.first() else { return };
    let (origin, path) = (first.origin.clone(), first.path.clone());
    let items = lists.iter().flat_map(|list| list.items().unwrap_or_else(|| vec![list]));
    let content = Content::List(items.cloned().collect());
    put(node, key, Node { content, origin, path });
}

fn rename(node: &mut Node, from: &str, to: &str) {
    if let Some(value) = take(node, from) {
        put(node, to, value);
    }
}

fn member<'a>(node: &'a mut Node, key: &str) -> Option<&'a mut Node> {
    let Content::Table(table) = &mut node.content else {
        return None;
    };
    table.get_mut(key)
}

fn members(node: &Node) -> impl Iterator<Item = &Node> {
    match &node.content {
        Content::Table(table) => Some(table.values()),
        Content::Scalar(_) | Content::List(_) => None,
    }
    .into_iter()
    .flatten()
}
