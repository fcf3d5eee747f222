//! `[telemetry]`

use super::{TelemetryConfig, api::EXPECTED_LISTEN, section::Section};

pub(super) fn read(section: &Section) -> TelemetryConfig {
    let config = TelemetryConfig {
        metrics_listen: section.parsed("metrics_listen", EXPECTED_LISTEN, |text| text.parse().ok()),
    };
    section.refuse("otlp_endpoint");
    section.finish();
    config
}
