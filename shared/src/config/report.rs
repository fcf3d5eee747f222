//! Collects what is wrong, so that one start shows everything.

use std::cell::RefCell;

use super::{
    error::{ConfigError, Problem},
    node::Node,
    spelling::Spelling,
};

/// What reading a configuration has found so far.
pub(super) struct Report {
    pub(super) spelling: Spelling,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    pub(super) fn new(spelling: Spelling) -> Self {
        Self { spelling, problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// Something is wrong with what stands at `node`.
    pub(super) fn problem(&self, node: &Node, message: impl Into<String>) {
        self.problem_at(node.origin.name(), &node.path, message);
    }

    /// Something is wrong at the key `path`, which may not be there.
    pub(super) fn problem_at(&self, origin: &str, path: &[String], message: impl Into<String>) {
        self.problems.borrow_mut().push(self.locate(origin, path, message.into()));
    }

    /// `node` has no effect, which its author should know.
    pub(super) fn ignored(&self, node: &Node, reason: &str) {
        let message = format!("ignored: {reason}");
        let place = self.locate(node.origin.name(), &node.path, message);
        self.warnings.borrow_mut().push(place.to_string());
    }

    /// Returns the warnings, or all problems if there is one.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigError> {
        match self.problems.into_inner() {
            problems if problems.is_empty() => Ok(self.warnings.into_inner()),
            problems => Err(ConfigError { problems }),
        }
    }

    fn locate(&self, origin: &str, path: &[String], message: String) -> Problem {
        let (section, key) = self.spelling.section_and_key(path);
        Problem { origin: origin.to_owned(), section, key, message }
    }
}
