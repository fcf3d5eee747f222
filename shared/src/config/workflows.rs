//! `[workflows]`

use std::path::PathBuf;

use super::{WorkflowsConfig, section::Section};

pub(super) fn read(section: &Section) -> WorkflowsConfig {
    let config = WorkflowsConfig {
        directory: PathBuf::from(section.text("directory").unwrap_or("workflows")),
        inline: section.boolean("inline").unwrap_or(true),
    };
    section.finish();
    config
}
