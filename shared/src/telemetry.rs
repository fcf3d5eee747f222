//! Logs, and the trace that a job carries from its submission to its calls.

use std::fmt::Write;

use aws_lc_rs::rand;
use tracing_subscriber::EnvFilter;

/// Sends logs to stderr, as text for people. `RUST_LOG` chooses; default: `info`, `warn` for libraries.
///
/// Standard output belongs to results.
pub fn init() {
    log("warn,errand=info,errand_api=info,errand_shared=info,errand_worker=info");
}

/// Like [`init`], with warnings only by default: for a command whose progress people watch.
pub fn init_quietly() {
    log("warn");
}

fn log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A second call, in a test, keeps the first one's choice.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Otherwise it says on stderr, by a macro that panics, that stderr cannot be written: the end of
        // whatever logs on a full disk.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

/// Returns an error with its sources on one line, each said once: some libraries repeat theirs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// Returns the `traceparent` of a new span: in the trace of `parent` if that is one, otherwise in a
/// trace of its own.
///
/// Source: W3C Trace Context, 3.2.
pub fn child_traceparent(parent: Option<&str>) -> String {
    let mut random = [0; 24];
    rand::fill(&mut random).expect("the operating system gives random bytes");
    let (new_trace, span) = random.split_at(16);
    let trace_id = parent.and_then(trace_id).map_or_else(|| hex(new_trace), str::to_owned);
    format!("00-{trace_id}-{}-01", hex(span))
}

fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace_id, parent_id) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            && text.bytes().any(|byte| byte != b'0')
    };
    let known = version.len() == 2 && version != "ff" && parts.next().is_some();
    (known && hex(trace_id, 32) && hex(parent_id, 16)).then_some(trace_id)
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_span_stays_in_its_parents_trace() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let child = child_traceparent(Some(parent));
        assert!(child.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && child.len() == 55);
        assert_ne!(child, parent);
        assert_ne!(child, child_traceparent(Some(&child)));
    }

    #[test]
    fn what_is_no_traceparent_begins_a_trace_of_its_own() {
        for parent in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c\r\n-b7ad6b7169203331-01",
        ] {
            let child = child_traceparent(Some(parent));
            assert!(child.len() == 55 && !child.contains("0af7651916cd"), "{parent:?}: {child}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_parent_is_its_child_is_a_traceparent(
            parent in prop_oneof![".*", "[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{2}.{0,3}"],
        ) {
            let child = child_traceparent(Some(&parent));
            prop_assert_eq!(trace_id(&child).map(str::len), Some(32), "{}", child);
            prop_assert!(child.starts_with("00-") && child.ends_with("-01") && child.len() == 55);
            if let Some(trace_id) = trace_id(&parent) {
                prop_assert!(child.contains(trace_id));
            }
        }
    }
}
