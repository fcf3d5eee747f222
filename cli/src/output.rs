//! The one place that prints.

use std::io::{self, Write};

use crate::error::CommandError;

/// Prints a result on stdout.
pub(crate) fn result(text: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| CommandError::Failed(format!("cannot write to standard output: {error}")))
}

/// What somebody else wrote, without the characters that could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Tells whoever watches, on stderr. If nobody does, there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
