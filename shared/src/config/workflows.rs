//! `[workflows]`

use std::path::Path;

use super::{WorkflowsConfig, section::Section};

pub(super) fn read(section: &Section) -> WorkflowsConfig {
    // A folder that is missing is one without documents, which is what there is without it too.
    if section.text("directory").is_some_and(|directory| Path::new(directory).exists()) {
        section.refuse("directory");
    }
    let config = WorkflowsConfig { inline: section.boolean("inline").unwrap_or(true) };
    section.finish();
    config
}
