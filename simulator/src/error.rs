use std::{io, path::PathBuf};

/// Why a simulator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there: choose another port.
    #[error("port {port} is taken")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// The port cannot be listened on for another reason, such as missing rights.
    #[error("cannot listen on port {port}")]
    Listen {
        /// The port that was asked for.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// Certificate or key of the server cannot be used.
    #[error("cannot use the server certificate {} with the key {}", certificate.display(), key.display())]
    Tls {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// What reading them said.
        source: io::Error,
    },
    /// A file of the state folder or the client's certificate cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is there, but is not what it should be.
    #[error("{} is not {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
}
