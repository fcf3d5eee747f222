//! `[api]`

use std::net::{Ipv4Addr, SocketAddr};

use super::{ApiConfig, section::Section};

pub(super) const EXPECTED_LISTEN: &str = "an address and a port such as `127.0.0.1:8080`";

pub(super) fn read(section: &Section, allow_insecure_http: bool) -> ApiConfig {
    let listen = section
        .parsed("listen", EXPECTED_LISTEN, |text| text.parse().ok())
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let public_url = section.url("public_url", allow_insecure_http);
    if !listen.ip().is_loopback() {
        // `listen` is no address that a client could use then.
        section.required(
            "public_url",
            public_url.as_ref(),
            "the address that clients know, because `listen` is not loopback",
        );
    }
    let public_url = match public_url {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("http://{listen}"),
    };
    section.finish();
    ApiConfig { listen, public_url }
}
