//! What runs in a child: reads an expression, compiles or evaluates it, answers, and again.

use std::{
    collections::HashMap,
    io::{self, BufRead, Write},
    process,
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::{
    limits,
    message::{ANSWER_BYTES, Answer, Question},
};
use crate::workflow::{expressions::Program, parse::is_too_deep};

/// What a child is started with, before its seconds of CPU time.
pub(super) const ARGUMENT: &str = "evaluate-expressions";

/// Evaluates expressions until there are no more, and ends the process, if it was started for that;
/// otherwise does nothing.
///
/// The first statement of every `main` of Errand: before a thread, a file, an argument or a variable
/// of the environment is looked at.
#[expect(clippy::exit, reason = "a child has no more to do, and nothing to clean up")]
pub fn run_if_caged() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    let seconds = arguments.next().and_then(|seconds| seconds.to_str()?.parse().ok());
    let served = match seconds {
        Some(seconds) => limits::apply(seconds).map_err(io::Error::from).and_then(|()| serve()),
        None => Err(io::ErrorKind::InvalidInput.into()),
    };
    process::exit(i32::from(served.is_err()));
}

fn serve() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    let mut programs = HashMap::new();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let question: Question = serde_json::from_slice(&line)?;
        line.clear();
        // Everything of the evaluation is dropped, which may take the child's life too, before there
        // is an answer: the next expression is not blamed for it.
        let result = answer(&mut programs, question);
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let milliseconds = time.tv_sec * 1_000 + time.tv_nsec / 1_000_000;
        let cpu_milliseconds = u64::try_from(milliseconds).unwrap_or(0);
        let mut answer = serde_json::to_vec(&Answer { result, cpu_milliseconds })?;
        if answer.len() > ANSWER_BYTES {
            let result = Err("gives more than 8 MiB".to_owned());
            answer = serde_json::to_vec(&Answer { result, cpu_milliseconds })?;
        }
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

/// A loop asks for the same expressions again and again.
type Programs = HashMap<(String, Vec<String>), Program>;

fn answer(programs: &mut Programs, question: Question) -> Result<Value, String> {
    let key = (question.source, question.variables);
    if !programs.contains_key(&key) {
        let program = Program::compile(&key.0, &key.1)?;
        programs.insert(key.clone(), program);
    }
    let (Some((values, data)), Some(program)) = (question.evaluate, programs.get(&key)) else {
        return Ok(Value::Null);
    };
    let result = program.run(&data, &values)?;
    if is_too_deep(&result) {
        return Err("gives a value that is nested deeper than 128 levels".to_owned());
    }
    Ok(result)
}
