use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::Instant,
};

use crate::{PATIENCE, free_address};

/// Debian's PgBouncer before the server of `TEST_DATABASE_URL`: every transaction may get another one
/// of its few connections. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct PgBouncer {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    _child: Child,
}

/// Fewer than any process of Errand has of its own.
const SERVER_CONNECTIONS: u32 = 3;

impl PgBouncer {
    /// `server` is a URL without a database.
    pub(crate) async fn start(server: &str, folder: &Path) -> Self {
        let program = program().expect("asked for before a story begins");
        let (_, server) = server.split_once("://").expect("a URL has a scheme");
        let (login, host_and_port) = server.rsplit_once('@').unwrap_or(("errand", server));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = host_and_port.rsplit_once(':').unwrap_or((host_and_port, "5432"));
        let address = free_address();
        let users = folder.join("pgbouncer.users");
        fs::write(&users, format!("\"{user}\" \"{password}\"\n")).expect("it can be written");
        let configuration = folder.join("pgbouncer.ini");
        let content = format!(
            "[databases]\n* = host={host} port={port}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 1000\n",
            address.port(),
            users.display()
        );
        fs::write(&configuration, content).expect("it can be written");
        let mut command = Command::new(program);
        command.arg("--quiet").arg(&configuration);
        // It refuses to run as root.
        if is_root() {
            command.arg("--user=nobody");
        }
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn();
        let mut child = child.expect("pgbouncer can be started");
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            let ended = child.try_wait().expect("a child can be asked");
            assert!(ended.is_none() && Instant::now() < deadline, "pgbouncer: {ended:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Self { address: address.to_string(), _child: child }
    }
}

/// Where Debian puts it is in no user's path.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    folders.into_iter().map(|folder| folder.join("pgbouncer")).find(|file| file.exists())
}

/// Whether stories with it can be told. `./test` says so if not; nobody else passes over them.
///
/// # Panics
/// It is not there, and `TEST_WITHOUT` does not name it.
pub fn has_pgbouncer() -> bool {
    let is_there = program().is_some();
    let without = std::env::var("TEST_WITHOUT").unwrap_or_default();
    assert!(
        is_there || without.split(' ').any(|program| program == "pgbouncer"),
        "no pgbouncer: run ./test, or set TEST_WITHOUT=pgbouncer"
    );
    is_there
}

/// Files that a process makes are its user's.
fn is_root() -> bool {
    let own = fs::metadata("/proc/self").ok();
    own.is_some_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
