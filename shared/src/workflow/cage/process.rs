//! One child, seen from outside.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    child::ARGUMENT,
    limits::MEMORY_BYTES,
    message::{ANSWER_BYTES, Answer, Request},
};

/// A started child. Dropped, it is killed and reaped.
pub(super) struct Process {
    child: Child,
    /// Its standard input and output. A socket: its reads and writes can be given a time limit.
    socket: UnixStream,
    cpu_seconds: u64,
}

/// Why there is no answer; the child is of no more use.
#[derive(Debug)]
pub(super) enum Failure {
    /// The expression was too much for it: a sentence for the author.
    Died(String),
    /// It got no CPU, or could not be started: the machine has too much to do.
    Interrupted,
}

impl Process {
    pub(super) fn start(program: &Path, cpu_seconds: u64) -> Result<Self, Failure> {
        let started = UnixStream::pair().and_then(|(socket, theirs)| {
            let input = Stdio::from(OwnedFd::from(theirs.try_clone()?));
            let mut command = Command::new(program);
            command.arg(ARGUMENT).arg(cpu_seconds.to_string()).env_clear();
            command.stdin(input).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
            Ok(Self { child: command.spawn()?, socket, cpu_seconds })
        });
        started.map_err(|error| {
            tracing::warn!("no process to evaluate an expression in: {error}");
            Failure::Interrupted
        })
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line and reads one. Never reads more than an answer may have.
    pub(super) fn ask(&mut self, request: &Request, until: Instant) -> Result<Answer, Failure> {
        let mut line = serde_json::to_vec(request).expect("texts and values are JSON");
        line.push(b'\n');
        let exchanged = self.send(&line, until).and_then(|()| self.receive(until));
        match exchanged {
            Ok(line) => serde_json::from_slice(&line).map_err(|_| self.died()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Failure::Interrupted)
            }
            Err(_) => Err(self.died()),
        }
    }

    fn send(&mut self, mut line: &[u8], until: Instant) -> io::Result<()> {
        while !line.is_empty() {
            self.socket.set_write_timeout(Some(left(until)?))?;
            match self.socket.write(line) {
                Ok(written) => line = &line[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while line.last() != Some(&b'\n') {
            self.socket.set_read_timeout(Some(left(until)?))?;
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) if line.len() + read > ANSWER_BYTES + 1024 => {
                    return Err(ErrorKind::FileTooLarge.into());
                }
                Ok(read) => line.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(line)
    }

    /// Reaps the child, which has closed its end or talks nonsense.
    fn died(&mut self) -> Failure {
        // What closes its end without ending is not to be waited for.
        let until = Instant::now() + Duration::from_secs(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) | Err(_) => break None,
            }
        };
        Failure::Died(cause(status, self.cpu_seconds))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended, and been reaped, already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time that is left; an error once there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What ended a child, as a sentence for the expression's author.
fn cause(status: Option<ExitStatus>, cpu_seconds: u64) -> String {
    let signal = status.and_then(|status| status.signal());
    let is = |wanted: Signal| signal == Some(wanted.as_raw());
    if is(Signal::XCPU) {
        format!("takes more than {cpu_seconds} s to compute")
    } else if is(Signal::ABORT) || is(Signal::SEGV) || is(Signal::BUS) {
        let mebibytes = MEMORY_BYTES / (1024 * 1024);
        format!("takes more than {mebibytes} MiB of memory, or nests too deep")
    } else if is(Signal::KILL) {
        "was ended by the operating system, which may be short of memory".to_owned()
    } else {
        "crashed".to_owned()
    }
}
