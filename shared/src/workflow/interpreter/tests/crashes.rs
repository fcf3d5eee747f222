//! Random workflows in a world that crashes.
//!
//! Each workflow is run many times. In each run the process dies before and after records, replies
//! come in any order, get lost with the process and are asked for again. Whatever happens, there is one
//! result, and every call id has its effect once.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const WORKFLOWS: u64 = 200;
const RUNS: u64 = 10;

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Writes workflows whose result does not depend on the order of things.
struct Author {
    chance: Chance,
    /// Names given so far, so that none is given twice.
    names: u64,
    /// Index variables of the loops around.
    loops: Vec<String>,
}

impl Author {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn list(&mut self, depth: u64) -> Value {
        let count = 1 + self.chance.below(2);
        (0..count).map(|_| self.task(depth)).collect()
    }

    /// Outermost a loop over a fork, so that every workflow has both.
    fn workflow(&mut self) -> Value {
        let tasks = json!([self.repeat(2)]);
        json!({ "timeout": { "after": "P300D" }, "do": tasks })
    }

    fn task(&mut self, depth: u64) -> Value {
        match self.chance.below(if depth == 0 { 3 } else { 7 }) {
            0 => self.call(),
            1 => {
                let seconds = self.chance.below(100);
                self.named("wait", &json!({ "wait": { "seconds": seconds } }))
            }
            2 => self.timed_out(),
            3 => self.repeat(depth - 1),
            4 => self.fork(depth - 1),
            5 => self.race(),
            _ => self.attempt(depth - 1),
        }
    }

    fn named(&mut self, kind: &str, task: &Value) -> Value {
        json!({ (self.name(kind)): task })
    }

    /// A call to a path of its own, in a try that may have enough retries or not.
    fn call(&mut self) -> Value {
        let name = self.name("call");
        let turns: String = self.loops.iter().map(|index| format!("-\\(${index})")).collect();
        let call = call_to(&format!("${{ \"api/{name}{turns}\" }}"), &json!({ "body": 1 }));
        let backoff = ["constant", "linear", "exponential"][self.chance.below(3) as usize];
        let retry = json!({
            "delay": { "seconds": self.chance.below(5) },
            "backoff": { (backoff): {} },
            "jitter": { "from": "PT0S", "to": "PT1S" },
            "limit": { "attempt": { "count": self.chance.below(4), "duration": "P1D" } }
        });
        let handler = json!([{ "gave-up": { "set": { "gaveUp": "${ $error.status }" } } }]);
        let attempt = json!({
            "try": [{ (name): call }], "catch": { "retry": retry, "do": handler },
            "timeout": { "after": "P10D" }
        });
        self.named("try", &attempt)
    }

    /// A wait that is too long for its timeout, caught.
    fn timed_out(&mut self) -> Value {
        let wait = json!([{ "long": { "wait": "PT1H", "timeout": { "after": "PT5S" } } }]);
        let handler = json!([{ "late": { "set": { "late": "${ $error.status }" } } }]);
        self.named("late", &json!({ "try": wait, "catch": { "do": handler } }))
    }

    fn repeat(&mut self, depth: u64) -> Value {
        let index = self.name("i");
        let turns: Vec<_> = (0..1 + self.chance.below(2)).collect();
        let each = self.name("n");
        self.loops.push(index.clone());
        let mut body = self.list(depth);
        if depth > 1 {
            body.as_array_mut().unwrap().push(self.fork(depth - 1));
        }
        self.loops.pop();
        let head = json!({ "each": each, "at": index, "in": turns });
        self.named("for", &json!({ "for": head, "do": body }))
    }

    fn fork(&mut self, depth: u64) -> Value {
        let branches: Vec<_> = (0..2 + self.chance.below(2)).map(|_| self.task(depth)).collect();
        // All that came in comes out of every branch that only waits: data must not double each time.
        let output = json!({ "as": "[.[0].path?, .[1].path?, .[1].late?, .[1].gaveUp?]" });
        self.named("fork", &json!({ "fork": { "branches": branches }, "output": output }))
    }

    /// A call against a wait that is longer than anything lasts.
    fn race(&mut self) -> Value {
        let branches = json!([{ "never": { "wait": "P200D" } }, self.call()]);
        self.named("race", &json!({ "fork": { "compete": true, "branches": branches } }))
    }

    /// A try whose body fails after all that it did, or not.
    fn attempt(&mut self, depth: u64) -> Value {
        let mut body = self.list(depth);
        if self.chance.one_in(2) {
            let error = json!({ "type": "https://acme.example/errors/x", "status": 418 });
            body.as_array_mut().unwrap().push(json!({ "fail": { "raise": { "error": error } } }));
        }
        let retry =
            json!({ "delay": "PT1S", "limit": { "attempt": { "count": self.chance.below(2) } } });
        self.named("attempt", &json!({ "try": body, "catch": { "retry": retry } }))
    }
}

/// The API: what it did for which idempotency key. Every path fails some times before it works.
#[derive(Default)]
struct World {
    effects: BTreeMap<u64, (String, Response)>,
    calls: BTreeMap<String, u64>,
}

impl World {
    fn send(&mut self, call: &Call) -> Response {
        if let Some((path, response)) = self.effects.get(&call.id) {
            assert_eq!(path, &call.path, "call id {} means two things", call.id);
            return response.clone();
        }
        let before = self.calls.entry(call.path.clone()).or_default();
        let failures = call.path.bytes().map(u64::from).sum::<u64>() % 4;
        let status = if *before % 5 < failures { 503 } else { 200 };
        *before += 1;
        let response = Response {
            status,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: json!({ "path": call.path }).to_string().into_bytes(),
        };
        self.effects.insert(call.id, (call.path.clone(), response.clone()));
        response
    }
}

/// What a run shows to the outside.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    calls: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Figures {
    steps: u64,
    crashes: u64,
    largest: usize,
}

fn run_in_a_crashing_world(
    workflow: &Workflow,
    chance: &mut Chance,
    figures: &mut Figures,
) -> Seen {
    let limits = Limits::default();
    let cages = Cages::for_tests();
    let mut world = World::default();
    let mut time = now();
    let start = Checkpoint::start("job", json!({}), time);
    let mut recorded = serde_json::to_string(&start).unwrap();
    let read = |text: &str| serde_json::from_str::<Checkpoint>(text).unwrap();
    let mut checkpoint = read(&recorded);
    // On their way: answered by the API, not yet told to the job.
    let mut on_their_way: Vec<Reply> = Vec::new();
    let crash = |checkpoint: &mut Checkpoint, replies: &mut Vec<Reply>, recorded: &str| {
        *checkpoint = read(recorded);
        replies.clear();
    };
    let mut told = Vec::new();
    for _ in 0..20_000 {
        if chance.one_in(8) {
            figures.crashes += 1;
            crash(&mut checkpoint, &mut on_their_way, &recorded);
            told.clear();
        }
        figures.steps += 1;
        #[expect(clippy::cast_precision_loss, reason = "any number from 0 to 1 will do")]
        let jitter = chance.below(1_000) as f64 / 1_000.0;
        let mut from_text = read(&serde_json::to_string(&checkpoint).unwrap());
        let again =
            step(workflow, &limits, &cages, &mut from_text, told.clone(), time, &mut || jitter);
        let replies = std::mem::take(&mut told);
        let outcome =
            step(workflow, &limits, &cages, &mut checkpoint, replies, time, &mut || jitter);
        assert_eq!(again, outcome);
        assert_eq!(from_text, checkpoint);
        checkpoint.take_happened();
        if chance.one_in(8) {
            figures.crashes += 1;
            crash(&mut checkpoint, &mut on_their_way, &recorded);
            continue;
        }
        recorded = serde_json::to_string(&checkpoint).unwrap();
        figures.largest = figures.largest.max(recorded.len());
        if chance.one_in(8) {
            figures.crashes += 1;
            crash(&mut checkpoint, &mut on_their_way, &recorded);
            continue;
        }
        let Outcome::Pending { calls, wake } = outcome else {
            return Seen { outcome, calls: world.calls };
        };
        let ids: BTreeSet<_> = calls.iter().map(|call| call.id).collect();
        assert_eq!(ids.len(), calls.len(), "a call is wanted twice");
        // What is no longer wanted is aborted; what is wanted and not under way is sent.
        on_their_way.retain(|reply| ids.contains(&reply.call));
        for call in &calls {
            if !on_their_way.iter().any(|reply| reply.call == call.id) {
                on_their_way.push(Reply { call: call.id, result: Ok(world.send(call)) });
            }
        }
        if on_their_way.is_empty() {
            time = time.max(wake.expect("a job that wants nothing is stuck"));
        } else {
            for _ in 0..=chance.below(on_their_way.len() as u64) {
                let index = chance.below(on_their_way.len() as u64) as usize;
                told.push(on_their_way.swap_remove(index));
            }
            time = time + Duration::from_millis(chance.below(10));
        }
    }
    panic!("it does not end");
}

#[test]
fn random_workflows_have_one_result_however_often_they_crash() {
    let mut figures = Figures::default();
    for seed in 0..WORKFLOWS {
        let mut author = Author { chance: Chance(seed), names: 0, loops: Vec::new() };
        let definition = author.workflow();
        let workflow = document(&definition);
        let mut first = None;
        for run in 0..RUNS {
            let mut chance = Chance(seed * 1_000 + run);
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                run_in_a_crashing_world(&workflow, &mut chance, &mut figures)
            }));
            let seen = seen.unwrap_or_else(|_| panic!("seed {seed}, run {run}: {definition}"));
            assert!(matches!(seen.outcome, Outcome::Completed(_)), "seed {seed}: {seen:?}");
            let first = first.get_or_insert_with(|| Seen {
                outcome: seen.outcome.clone(),
                calls: seen.calls.clone(),
            });
            assert_eq!(first, &seen, "seed {seed}, run {run}: {definition}");
        }
    }
    let Figures { steps, crashes, largest } = figures;
    println!(
        "{} runs, {steps} steps, {crashes} crashes, largest checkpoint {largest} bytes",
        WORKFLOWS * RUNS
    );
    assert!(WORKFLOWS * RUNS >= 2_000 && crashes > 2_000);
}

#[test]
fn a_long_loop_keeps_its_checkpoint_small() {
    let tasks = json!([{ "all": {
        "for": { "each": "n", "in": ".numbers" },
        "do": [
            { "get": call_to("api/x", &json!({ "body": "${ $n }" })) },
            { "pause": { "wait": "PT1S" } }
        ]
    } }]);
    let numbers: Vec<_> = (0..300).collect();
    let mut job = Driver::new(workflow(&tasks), json!({ "numbers": numbers }));
    let mut largest = 0;
    let mut turns = 0;
    let mut outcome = job.step(None);
    while let Outcome::Pending { calls, wake } = outcome {
        largest = largest.max(serde_json::to_string(&job.checkpoint).unwrap().len());
        outcome = match calls.first() {
            Some(call) => {
                turns += 1;
                job.answer(call.id, 200, &json!({ "ok": turns }))
            }
            None => {
                job.now = wake.unwrap();
                job.step(None)
            }
        };
    }
    assert_eq!(outcome, Outcome::Completed(json!({ "ok": 300 })));
    println!("{turns} turns, largest checkpoint {largest} bytes");
    assert!(largest < 4_000, "{largest}");
}
