use std::{
    future::Future,
    io,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use axum::{Router, response::Response};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use tokio::task::JoinHandle;
use tower::{make::Shared, util::AndThen};

use crate::{answer::Withheld, error::StartError, options::TlsFiles};

/// How long requests under way may take to finish after a stop.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Listens on loopback; port 0 becomes a free one.
pub(crate) fn listen(port: u16) -> Result<TcpListener, StartError> {
    let listen = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken { port },
        _ => StartError::Listen { port, source },
    })
}

pub(crate) async fn tls(files: &TlsFiles) -> Result<RustlsConfig, StartError> {
    // An error means that the process has chosen one already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    RustlsConfig::from_pem_file(&files.certificate, &files.key).await.map_err(|source| {
        StartError::Tls { certificate: files.certificate.clone(), key: files.key.clone(), source }
    })
}

/// A listener being served; dropping it closes everything at once.
pub(crate) struct Server {
    handle: Handle<std::net::SocketAddr>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    pub(crate) fn start(
        listener: TcpListener,
        tls: Option<RustlsConfig>,
        router: Router,
    ) -> io::Result<Self> {
        let handle = Handle::new();
        let service = Shared::new(AndThen::new(router, send_unless_withheld));
        let task = match tls {
            Some(tls) => tokio::spawn(
                axum_server::from_tcp_rustls(listener, tls)?.handle(handle.clone()).serve(service),
            ),
            None => {
                tokio::spawn(axum_server::from_tcp(listener)?.handle(handle.clone()).serve(service))
            }
        };
        Ok(Self { handle, task })
    }

    pub(crate) async fn stop(mut self) {
        self.handle.graceful_shutdown(Some(STOP_GRACE));
        // Neither an I/O error nor a cancelled task leaves anything to be done.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// An error of the service makes hyper close the connection without an answer.
fn send_unless_withheld(response: Response) -> impl Future<Output = Result<Response, Withheld>> {
    let withheld = response.extensions().get::<Withheld>().cloned();
    std::future::ready(withheld.map_or(Ok(response), Err))
}
