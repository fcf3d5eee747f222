//! Errand's binaries as processes of their own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

/// A running binary. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// Both its standard output and its standard error.
    log: PathBuf,
}

/// A binary that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Its whole standard output.
    pub stdout: String,
    /// Its whole standard error.
    pub stderr: String,
}

/// A binary beside the executable of tests, that is in cargo's target folder.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the system knows which executable this is");
    // target/debug/deps/it-0123456789abcdef, or target/debug/chaos
    let folder = test.parent().expect("a file is in a folder");
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    let path = folder.expect("cargo's folders have parents").join(name);
    assert!(path.exists(), "{} is missing: run ./test", path.display());
    path
}

/// The binary with nothing of this process's environment that could change what it does.
fn command(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary(name));
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        if ["ERRAND", "RUST_LOG", "PG"].iter().any(|prefix| variable.starts_with(prefix)) {
            command.env_remove(variable.as_ref());
        }
    }
    command.args(arguments).envs(environment.iter().copied());
    // In this test's process group: whoever ends the tests ends their processes too.
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a binary that is expected to end by itself.
pub async fn run_to_end(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let output = command(name, arguments, environment).output();
    let output = tokio::time::timeout(crate::PATIENCE, output)
        .await
        .unwrap_or_else(|_| panic!("{name} {arguments:?} did not end"))
        .expect("the binary can be started");
    let text = |bytes| String::from_utf8(bytes).expect("programs write UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Program {
    /// Starts a binary that writes to `log`.
    pub fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Self {
        Self::spawn(command(name, arguments, environment), log)
    }

    /// Starts a binary that gets an error, and no signal, where [`Program::limit_files`] is in its way.
    pub(crate) fn start_limitable(
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Self {
        let program = command(name, arguments, environment);
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
        shell.arg(program.as_std().get_program()).args(program.as_std().get_args());
        for (variable, value) in program.as_std().get_envs() {
            match value {
                Some(value) => shell.env(variable, value),
                None => shell.env_remove(variable),
            };
        }
        shell.stdin(Stdio::null()).kill_on_drop(true);
        Self::spawn(shell, log)
    }

    fn spawn(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.expect("the log can be written");
        let child = command
            .stdout(file.try_clone().expect("a file has several handles"))
            .stderr(file)
            .spawn()
            .expect("the binary can be started");
        Self { child, log: log.to_owned() }
    }

    /// Its exit code, if it has ended by itself.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child can be asked").and_then(|status| status.code())
    }

    /// All it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log can be read")
    }

    /// SIGKILL: nothing of it runs once this returns.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Whether it runs no more, however it ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the process has not been waited for").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().await;
        assert!(sent.expect("there is a `kill`").success(), "no process {id}: {}", self.log());
    }

    /// Keeps it from writing to any file beyond so many bytes; `unlimited` ends that. Linux only.
    pub(crate) async fn limit_files(&self, bytes: &str) {
        let id = self.child.id().expect("the process has not been waited for").to_string();
        let limited =
            Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:")]).status();
        assert!(limited.await.expect("util-linux is there").success(), "{}", self.log());
    }

    /// SIGTERM; returns its exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(crate::PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("SIGTERM did not end it: {}", self.log()));
        ended.expect("a child can be waited for").code()
    }
}
