//! The one place that prints.

use std::io::{self, Write};

use crate::error::CommandError;

/// Prints a result on stdout.
pub(crate) fn result(text: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{text}")
        .map_err(|error| CommandError::Failed(format!("cannot write to standard output: {error}")))
}

/// Tells whoever watches, on stderr. If nobody does, there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
