use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use errand_simulator::{Simulator, TokenRequest};
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    Database, PATIENCE, Program, Settings, TestDatabase, User,
    canaries::{self, Canaries},
    eventually, settings,
    user::Connection,
};

/// Longer than any `Prefer: wait` of a story.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Below what systems give to connections and listeners that ask for no port of their own: from
/// 32768 on Linux, from 49152 on macOS. A process that is killed finds its port again.
const PORTS: Range<u16> = 12_000..32_000;

/// The whole product: an API, workers, a database, and the two parties they talk to.
#[derive(Debug)]
pub struct TestApp {
    /// The tenant and the partner API.
    pub simulator: Simulator,
    /// Where the processes keep everything.
    pub database: TestDatabase,
    settings: Settings,
    folder: TempDir,
    encryption_key: [u8; 32],
    connection: Arc<Connection>,
    api_address: SocketAddr,
    api: Option<Program>,
    workers: Vec<Program>,
    /// Programs started so far: each has a log of its own.
    started: AtomicUsize,
    finished: bool,
}

impl TestApp {
    /// Starts API and worker as most stories want them.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, Settings::default()).await
    }

    /// Starts API and workers.
    pub async fn start_with(database: Database, settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let simulator = Simulator::start(settings.simulator.clone()).await;
        let api_address = free_address();
        let connection = Connection {
            http: errand_shared::http::client(HTTP_TIMEOUT),
            address: format!("http://{api_address}"),
            received: Mutex::default(),
        };
        let mut app = Self {
            simulator: simulator.expect("a simulator on any port starts"),
            database: TestDatabase::create(database, folder.path()).await,
            settings,
            folder,
            encryption_key: random_key(),
            connection: Arc::new(connection),
            api_address,
            api: None,
            workers: Vec::new(),
            started: AtomicUsize::new(0),
            finished: false,
        };
        app.configure();
        app.start_api().await;
        for _ in 0..app.settings.workers {
            app.start_worker().await;
        }
        app
    }

    /// A user with a fresh token.
    pub fn user(&self, name: &str) -> User {
        self.user_with_token(name, self.simulator.user_token(name))
    }

    /// A user with any token.
    pub fn user_with_token(&self, name: &str, token: String) -> User {
        User::with_token(name, token, Arc::clone(&self.connection))
    }

    /// `http://127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.connection.address
    }

    /// The configuration file of all processes.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("errand.toml")
    }

    /// The key of the configuration file, as `ID:BASE64`.
    pub fn encryption_key(&self) -> String {
        settings::key(&self.encryption_key)
    }

    /// Token requests with that grant type.
    pub fn token_requests(&self, grant_type: &str) -> Vec<TokenRequest> {
        let mut requests = self.simulator.token_requests();
        requests.retain(|request| request.grant_type == grant_type);
        requests
    }

    /// Exchanges of user tokens.
    pub fn exchanges(&self) -> Vec<TokenRequest> {
        self.token_requests("urn:ietf:params:oauth:grant-type:jwt-bearer")
    }

    /// Presentations of refresh tokens.
    pub fn refreshes(&self) -> Vec<TokenRequest> {
        self.token_requests("refresh_token")
    }

    /// How often the partner API was called at `path` below its base.
    pub fn calls(&self, path: &str) -> Vec<errand_simulator::PartnerCall> {
        let path = format!("/partner/{path}");
        let mut calls = self.simulator.calls();
        calls.retain(|call| call.path == path);
        calls
    }
}

/// The processes.
impl TestApp {
    /// Starts the API, always where it was.
    pub async fn start_api(&mut self) {
        let mut api = self.start_program("errand-api", &[], &[]);
        self.until_ready(&mut api, &self.api_address.to_string()).await;
        self.api = Some(api);
    }

    /// Starts API and worker as one process (`errand serve`), where the API was.
    pub async fn start_serving(&mut self) {
        let mut program = self.start_program("errand", &["serve"], &[]);
        self.until_ready(&mut program, &self.api_address.to_string()).await;
        self.api = Some(program);
    }

    /// SIGKILL
    pub async fn kill_api(&mut self) {
        self.api.take().expect("the API runs").kill().await;
    }

    /// SIGTERM, which it obeys.
    pub async fn stop_api(&mut self) {
        let api = self.api.take().expect("the API runs");
        assert_eq!(api.terminate().await, Some(0));
    }

    /// Leaves the API to somebody else to look after.
    pub(crate) fn take_api(&mut self) -> Program {
        self.api.take().expect("the API runs")
    }

    /// Starts one more worker.
    pub async fn start_worker(&mut self) {
        self.start_worker_with(&[]).await;
    }

    /// Starts one more worker, with environment variables over its configuration file.
    pub async fn start_worker_with(&mut self, environment: &[(&str, &str)]) {
        let health = free_address().to_string();
        let mut environment = environment.to_vec();
        environment.push(("ERRAND__WORKER__LISTEN", &health));
        let mut worker = self.start_program("errand-worker", &[], &environment);
        self.until_ready(&mut worker, &health).await;
        self.workers.push(worker);
    }

    /// SIGKILL to the worker that was started last.
    pub async fn kill_worker(&mut self) {
        self.workers.pop().expect("a worker runs").kill().await;
    }

    /// SIGTERM to the worker that was started last; returns its exit code.
    pub async fn stop_worker(&mut self) -> Option<i32> {
        self.workers.pop().expect("a worker runs").terminate().await
    }

    /// SIGSTOP to the worker that was started first.
    pub async fn freeze_worker(&self) {
        self.workers[0].signal("STOP").await;
    }

    /// SIGCONT to it; returns once its log has `line`.
    pub async fn thaw_worker(&self, line: &str) {
        self.workers[0].signal("CONT").await;
        eventually(line, || self.workers[0].log().contains(line)).await;
    }

    /// From now on no process can write to any file, as if the disk were full. Linux only.
    pub async fn fill_disk(&self) {
        self.limit_files("1").await;
    }

    /// There is room again.
    pub async fn free_disk(&self) {
        self.limit_files("unlimited").await;
    }

    async fn limit_files(&self, bytes: &str) {
        for program in self.workers.iter().chain(&self.api) {
            program.limit_files(bytes).await;
        }
    }

    /// Writes the configuration file.
    fn configure(&self) {
        let description = self.simulator.description();
        let (path, database) = (self.configuration(), self.database.section());
        let (address, key) = (self.api_address, &self.encryption_key);
        self.settings.write(&path, description, &database, address, key);
    }

    /// Starts a program that somebody else looks after.
    pub(crate) fn start_program(
        &self,
        name: &str,
        command: &[&str],
        environment: &[(&str, &str)],
    ) -> Program {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("{number}-{name}.log"));
        let path = self.configuration();
        let path = path.to_str().expect("temporary folders have plain names");
        let mut variables = vec![("RUST_LOG", self.settings.log_levels)];
        variables.extend_from_slice(environment);
        let arguments = [command, &["--config", path]].concat();
        if self.settings.may_fill_disk {
            Program::start_limitable(name, &arguments, &variables, &log)
        } else {
            Program::start(name, &arguments, &variables, &log)
        }
    }

    /// Waits for `/readyz`.
    async fn until_ready(&self, program: &mut Program, address: &str) {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("http://{address}/readyz");
        loop {
            let answer = self.connection.http.get(&url).send().await;
            // First: another may answer, if it took the address.
            assert_eq!(program.exit_code(), None, "it ended: {}", program.log());
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "{url} is not ready: {}", program.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The end.
impl TestApp {
    /// Stops everything, looks for secrets wherever it has left bytes, and removes it.
    pub async fn finish(mut self) {
        for program in self.workers.drain(..).chain(self.api.take()) {
            assert_eq!(program.terminate().await, Some(0), "SIGTERM is obeyed");
        }
        for (name, log) in self.logs() {
            assert!(!log.contains("panicked"), "something panicked: {name}");
        }
        assert_eq!(self.leaks().await, Vec::<String>::new(), "secrets");
        self.discard().await;
    }

    /// Removes it without a look.
    pub(crate) async fn discard(mut self) {
        self.database.remove().await;
        self.finished = true;
    }

    /// Leaves folder and database behind; returns the folder.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.finished = true;
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Tokens, client secret or encryption key in any log, answer or byte of the database, and inputs
    /// of jobs in logs or in the database.
    pub(crate) async fn leaks(&self) -> Vec<String> {
        let canaries = self.canaries();
        let mut places = self.database.content().await;
        assert!(places.iter().any(|(_, bytes)| !bytes.is_empty()), "the database is empty");
        let answers = canaries.find(self.received().as_bytes());
        let mut leaks: Vec<String> =
            answers.into_iter().map(|what| format!("{what} in an answer")).collect();
        places.extend(self.logs().into_iter().map(|(name, log)| (name, log.into_bytes())));
        for (place, bytes) in places {
            leaks.extend(canaries.find(&bytes).map(|what| format!("{what} in {place}")));
            if String::from_utf8_lossy(&bytes).contains(canaries::INPUT) {
                leaks.push(format!("a job's input in {place}"));
            }
        }
        leaks
    }

    /// The secrets of this story.
    pub(crate) fn canaries(&self) -> Canaries {
        Canaries::new(
            &self.simulator.description().client_secret,
            BASE64_STANDARD.encode(self.encryption_key),
        )
    }

    /// What Errand has answered.
    fn received(&self) -> String {
        self.connection.received.lock().expect("nobody panics while holding it").clone()
    }

    /// What the processes have written, by file.
    pub fn logs(&self) -> Vec<(String, String)> {
        let files = fs::read_dir(self.folder.path()).expect("the folder is there").flatten();
        let logs =
            files.map(|file| file.path()).filter(|path| path.extension() == Some("log".as_ref()));
        logs.map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap_or_default()))
            .collect()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.finished, "a story ends with `finish`");
            return;
        }
        for (name, log) in self.logs() {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            #[expect(clippy::print_stderr, reason = "whoever reads a failure wants the logs")]
            {
                eprintln!("--- {name}\n{last}");
            }
        }
    }
}

/// An address that nobody listens on, and that is given to nobody else in this process.
pub fn free_address() -> SocketAddr {
    // Processes that run side by side hardly begin at the same port.
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if let Ok(free) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return free.local_addr().expect("it has an address");
        }
    }
    panic!("no port is free");
}

fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_once_and_is_none_that_a_system_gives() {
        let first = free_address();
        let second = free_address();
        assert_ne!(first, second);
        assert!(first.port() < 32_768 && second.port() < 32_768, "{first} {second}");
    }
}
