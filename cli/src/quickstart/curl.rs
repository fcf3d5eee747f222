//! Command lines to paste, each a line of its own.

use serde_json::json;

use super::{USER, documents};

/// Submits a job as the demo user.
pub(super) fn submit(api: &str, token_url: &str) -> String {
    let body = json!({ "definition": documents::get_data() });
    let authorization = authorization(token_url);
    format!("curl -s {api}/v1/jobs {authorization} -H 'Content-Type: application/json' -d '{body}'")
}

/// Looks at a job of the demo user's.
pub(super) fn look(api: &str, token_url: &str, job: &str) -> String {
    format!("curl -s {api}/v1/jobs/{job} {}", authorization(token_url))
}

/// A token of its own for each line, so that an hour later it works still.
fn authorization(token_url: &str) -> String {
    // In quotes, because of the question mark: zsh looks for files of that name.
    format!("-H \"Authorization: Bearer $(curl -s '{token_url}?user={USER}')\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_sees_what_is_meant() {
        let line = submit("http://a", "http://t/token");
        // The body is in single quotes, and has none in it.
        let body = line.split("-d '").nth(1).unwrap().strip_suffix('\'').unwrap();
        assert!(!body.contains('\''), "{body}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
        assert_eq!(
            look("http://a", "http://t/token", "7"),
            "curl -s http://a/v1/jobs/7 -H \"Authorization: Bearer $(curl -s 'http://t/token?user=alice')\""
        );
    }
}
