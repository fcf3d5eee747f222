//! Reads what the witnesses have written, and says of each promise whether it was kept.

use std::collections::{HashMap, HashSet};

use errand_shared::time::Timestamp;
use uuid::Uuid;

use super::{
    Stage,
    downstream::Entry,
    report::Line,
    workload::{Acknowledged, PlannedCall},
};

/// A cancelled job's call may be on its way, and the worker hears of it within this time.
const CANCEL_MICROS: i64 = 2_000_000;

/// Clocks of one machine, and a request on its way through its kernel.
const SAME_MOMENT_MICROS: i64 = 5_000;

/// A refresh whose process died with the answer is made again once its lease of 24 s is over.
const LEASE_OF_THE_DEAD: std::time::Duration = std::time::Duration::from_secs(22);

/// A job as its row shows it.
struct Row {
    status: String,
    finished_at: Option<Timestamp>,
}

pub(crate) async fn check(stage: &Stage, jobs: &[Acknowledged], unfinished: i64) -> Vec<Line> {
    let rows = rows(stage).await;
    let log = stage.downstream.log();
    let mut calls = HashMap::<usize, Vec<&Entry>>::new();
    for entry in &log {
        calls.entry(entry.job).or_default().push(entry);
    }
    vec![
        lost(stage, jobs, &rows).await,
        claimed_twice(stage).await,
        ended_twice(stage).await,
        recorded_twice(stage).await,
        keys_with_two_requests(&log),
        sent_without_need(&log),
        out_of_order(jobs, &calls, &rows),
        not_called(jobs, &calls, &rows),
        burnt(stage).await,
        faulted(jobs, &calls, &rows),
        presented_again(stage),
        confused(jobs, &log),
        leaked(stage).await,
        stuck(stage, unfinished).await,
        server_errors(stage),
    ]
}

async fn rows(stage: &Stage) -> HashMap<Uuid, Row> {
    let rows: Vec<(Uuid, String, Option<chrono::DateTime<chrono::Utc>>)> =
        stage.journal.rows("select id, status, finished_at from jobs", &[]).await;
    let read = |(id, status, finished_at): (_, _, Option<chrono::DateTime<_>>)| {
        (id, Row { status, finished_at: finished_at.map(Timestamp::from) })
    };
    rows.into_iter().map(read).collect()
}

async fn lost(stage: &Stage, jobs: &[Acknowledged], rows: &HashMap<Uuid, Row>) -> Line {
    let mut cases: Vec<String> = jobs
        .iter()
        .filter(|job| !rows.contains_key(&job.id))
        .map(|job| format!("{} ({}) was acknowledged and is gone", job.id, job.number))
        .collect();
    let twice: Vec<(String,)> = stage
        .journal
        .rows(
            "select tags::json ->> 'chaos' from jobs where tags::json ->> 'chaos' is not null
             group by 1 having count(*) > 1",
            &[],
        )
        .await;
    cases.extend(twice.into_iter().map(|(number,)| format!("{number} was made twice")));
    Line::none("S1", "acknowledged jobs lost, or made twice by one key", jobs.len(), cases)
}

/// Ids, as cases.
async fn ids(stage: &Stage, query: &'static str) -> Vec<String> {
    let rows: Vec<(Uuid, String)> = stage.journal.rows(query, &[]).await;
    rows.into_iter().map(|(id, what)| format!("{id}: {what}")).collect()
}

async fn journal_length(stage: &Stage) -> usize {
    let length = stage.journal.number("select count(*) from chaos_journal", &[]).await;
    usize::try_from(length).unwrap_or_default()
}

/// A claim takes what nobody has, and each fence is greater by one than the one before.
async fn claimed_twice(stage: &Stage) -> Line {
    let cases = ids(
        stage,
        "select job_id, before || ' ' || lease_before || ' > ' || after || ' ' || lease_after
         from chaos_journal
         where lease_after <> lease_before
           and (before = 'running' or after <> 'running' or lease_after <> lease_before + 1)
         order by number",
    )
    .await;
    Line::none("S2", "claims of a job that another lease held", journal_length(stage).await, cases)
}

/// Nothing follows the end of a job.
async fn ended_twice(stage: &Stage) -> Line {
    let cases = ids(
        stage,
        "select job_id, before || ' > ' || after from chaos_journal
         where before in ('completed', 'faulted', 'cancelled')
         union all
         select job_id, count(*) || ' final events' from job_events
         where kind in ('completed', 'faulted', 'cancelled')
         group by job_id having count(*) > 1
         union all
         select last.job_id, 'told after its end: ' || later.kind from job_events as last
         join job_events as later on later.job_id = last.job_id and later.sequence > last.sequence
         where last.kind in ('completed', 'faulted', 'cancelled')",
    )
    .await;
    Line::none("S2", "writes after the end of a job", journal_length(stage).await, cases)
}

/// The answer that ended a task stands once in the audit, which is written with the result.
async fn recorded_twice(stage: &Stage) -> Line {
    let cases = ids(
        stage,
        "select job_id, task || ': ' || count(*) || ' results' from job_calls
         where outcome = 'answered' and status = 200 group by job_id, task having count(*) > 1",
    )
    .await;
    let among = stage.journal.number("select count(*) from job_calls", &[]).await;
    let among = usize::try_from(among).unwrap_or_default();
    Line::none("S2", "results recorded twice", among, cases)
}

/// A call's body holds what the task before it brought: were that overwritten, a repetition would
/// have another one.
fn keys_with_two_requests(log: &[Entry]) -> Line {
    let mut first = HashMap::<&str, &Entry>::new();
    let mut cases = Vec::new();
    for entry in log {
        let before = first.entry(&entry.key).or_insert(entry);
        let same = (&before.method, &before.body, &before.task, before.job)
            == (&entry.method, &entry.body, &entry.task, entry.job);
        if !same {
            cases.push(format!("{}: {} and {}", entry.key, before.body, entry.body));
        }
    }
    Line::none("S2", "idempotency keys with two different requests", first.len(), cases)
}

/// A POST to an API that honours no keys goes out again only if it surely was not processed.
fn sent_without_need(log: &[Entry]) -> Line {
    let mut last = HashMap::<&str, &Entry>::new();
    let mut cases = Vec::new();
    for entry in log.iter().filter(|entry| !entry.is_keyed && entry.method == "POST") {
        if let Some(before) = last.insert(&entry.key, entry)
            && !before.surely_not_processed()
        {
            cases.push(format!("{} after {:?} by {}", entry.key, before.status, entry.worker));
        }
    }
    Line::none("S2", "calls repeated that may have been processed", last.len(), cases)
}

/// No call of a job begins after a later one of it, or after its end: a late worker sends nothing.
fn out_of_order(
    jobs: &[Acknowledged],
    calls: &HashMap<usize, Vec<&Entry>>,
    rows: &HashMap<Uuid, Row>,
) -> Line {
    let mut cases = Vec::new();
    let mut among = 0;
    for job in jobs {
        let mut furthest = 0;
        let end = rows.get(&job.id).and_then(|row| row.finished_at);
        let grace = if job.may_be_cancelled { CANCEL_MICROS } else { SAME_MOMENT_MICROS };
        for entry in calls.get(&job.number).into_iter().flatten() {
            among += 1;
            let Some(index) = job.calls.iter().position(|call| call.task == entry.task) else {
                cases.push(format!("{}: an unknown task {}", job.id, entry.task));
                continue;
            };
            if index < furthest {
                let later = job.calls[furthest].task;
                cases.push(format!("{}: {} by {} after {later}", job.id, entry.task, entry.worker));
            }
            furthest = furthest.max(index);
            if end.is_some_and(|end| entry.at.micros() > end.micros() + grace) {
                cases.push(format!("{}: {} by {} after its end", job.id, entry.task, entry.worker));
            }
        }
    }
    Line::none("S2", "calls sent after a later call or the end of their job", among, cases)
}

/// A completed job has made each of its calls, and each had its answer.
fn not_called(
    jobs: &[Acknowledged],
    calls: &HashMap<usize, Vec<&Entry>>,
    rows: &HashMap<Uuid, Row>,
) -> Line {
    let completed =
        |job: &&Acknowledged| rows.get(&job.id).is_some_and(|row| row.status == "completed");
    let was_answered = |job: &Acknowledged, call: &PlannedCall| {
        calls.get(&job.number).into_iter().flatten().any(|entry| {
            entry.task == call.task && entry.status == Some(200) && entry.receipt.is_some()
        })
    };
    let mut cases = Vec::new();
    for job in jobs.iter().filter(completed) {
        for call in job.calls.iter().filter(|call| !was_answered(job, call)) {
            cases.push(format!("{}: completed without {}", job.id, call.task));
        }
    }
    let among = jobs.iter().filter(completed).count();
    Line::none("S2", "completed jobs that lack a call", among, cases)
}

/// From one try of a call to the next the count grows only if the first was a failure of the API.
async fn burnt(stage: &Stage) -> Line {
    let cases = ids(
        stage,
        "select job_id, task || ': try ' || before || ' was ' || outcome || ' '
                || coalesce(status, 0) || ', the next one is try ' || attempt
         from (
            select job_id, task, attempt, outcome as own, sequence, ordinal,
                   lag(attempt, 1, 0) over tries as before,
                   lag(outcome) over tries as outcome, lag(status) over tries as status
            from job_calls
            window tries as (partition by job_id, task order by sequence, ordinal)
         ) as tries
         where own <> 'interrupted'
           and attempt > before + case
               when outcome is null then 1
               when outcome in ('interrupted', 'aborted') or status in (401, 429, 503) then 0
               else 1 end",
    )
    .await;
    let among = stage.journal.number("select count(*) from job_calls", &[]).await;
    let among = usize::try_from(among).unwrap_or_default();
    Line::none("S3", "attempts burnt by a crash, a stop, a wait or a throttle", among, cases)
}

/// The only end but `completed` is that of a call of which nobody knows whether it was processed.
fn faulted(
    jobs: &[Acknowledged],
    calls: &HashMap<usize, Vec<&Entry>>,
    rows: &HashMap<Uuid, Row>,
) -> Line {
    let mut cases = Vec::new();
    for job in jobs {
        let Some(row) = rows.get(&job.id) else { continue };
        let last = job.calls.last().filter(|call| !call.is_keyed);
        // Either it had an answer that says nothing, or its worker was gone before there was one.
        let is_explained = |row: &Row| match row.status.as_str() {
            "completed" => !job.is_cancelled,
            "cancelled" => job.may_be_cancelled,
            "faulted" if !job.is_cancelled => last.is_some_and(|mail| {
                let sent = calls.get(&job.number).into_iter().flatten();
                sent.filter(|entry| entry.task == mail.task && !entry.surely_not_processed())
                    .count()
                    <= 1
            }),
            "faulted" => false,
            _ => true,
        };
        if !is_explained(row) {
            cases.push(format!("{} is {}", job.id, row.status));
        }
    }
    Line::none("S3", "jobs that ended otherwise than their calls explain", jobs.len(), cases)
}

/// The provider's own log.
fn presented_again(stage: &Stage) -> Line {
    let presentations = stage.app.refreshes();
    let mut last = HashMap::<&str, _>::new();
    let mut cases = Vec::new();
    for later in &presentations {
        let Some(token) = later.refresh_token_hash.as_deref() else { continue };
        let Some(before) = last.insert(token, later) else { continue };
        let ended_at = before.ended_at.filter(|ended_at| *ended_at <= later.received_at);
        match (ended_at, before.status) {
            (None, _) => cases.push(format!("two at once: {before:?} and {later:?}")),
            (Some(_), None | Some(503)) => {}
            // Its process was killed, and the answer with it: nobody had it.
            (Some(ended_at), Some(200))
                if later.received_at.saturating_sub(ended_at) >= LEASE_OF_THE_DEAD => {}
            // A scripted refusal of consent, which leaves the token as it is.
            (Some(_), Some(400)) if before.error_code.is_none() => {}
            (Some(_), Some(_)) => cases.push(format!("again after an answer: {before:?}")),
        }
    }
    let what = "refresh tokens presented again after an answer, or twice at once";
    Line::none("S4", what, presentations.len(), cases)
}

fn confused(jobs: &[Acknowledged], log: &[Entry]) -> Line {
    let owners: HashMap<usize, &str> =
        jobs.iter().map(|job| (job.number, job.user.as_str())).collect();
    let is_confused = |entry: &&Entry| {
        entry.user != entry.owner
            || owners.get(&entry.job).is_some_and(|owner| *owner != entry.owner)
    };
    let confused = log.iter().filter(is_confused);
    let mut cases: Vec<String> = confused
        .map(|entry| format!("a token of {} for a job of {}", entry.user, entry.owner))
        .collect();
    let served = jobs.iter().filter(|job| job.strangers > 0);
    cases.extend(served.map(|job| format!("{} was shown to a stranger", job.id)));
    Line::none("S5", "calls with another user's token, jobs shown to strangers", log.len(), cases)
}

async fn leaked(stage: &Stage) -> Line {
    let mut leaks: HashSet<String> = stage.app.leaks().await.into_iter().collect();
    leaks.extend(stage.client.leaks());
    let cases = leaks.into_iter().collect();
    let among = stage.app.logs().len();
    Line::none("S6", "secrets in database, logs or answers", among, cases)
}

/// Neither unfinished now, nor at any time without something that wakes it.
async fn stuck(stage: &Stage, unfinished: i64) -> Line {
    let mut cases = ids(
        stage,
        "select id, status || ', due ' || coalesce(due_at::text, 'never') || ', lease '
                || coalesce(lease_until::text, 'none')
         from jobs where status in ('pending', 'running', 'waiting', 'suspended') and name <> 'filler'",
    )
    .await;
    let late = usize::try_from(unfinished).unwrap_or_default();
    if late > 0 {
        cases.insert(0, format!("{late} were unfinished when the patience was over"));
    }
    let among = stage.journal.number("select count(*) from jobs", &[]).await;
    Line::none("L7", "stuck jobs", usize::try_from(among).unwrap_or_default(), cases)
}

fn server_errors(stage: &Stage) -> Line {
    let panics = stage.app.logs().into_iter().filter(|(_, log)| log.contains("panicked"));
    let mut cases: Vec<String> = panics.map(|(name, _)| format!("a panic in {name}")).collect();
    cases.extend(stage.client.oddities());
    Line::none("-", "panics, and answers of status 500", stage.app.logs().len(), cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::report::Verdict;

    /// The calls of job 7, of alice: a GET, then a POST to the API that honours no keys.
    const CALLS: [PlannedCall; 2] = [
        PlannedCall { task: "get", method: "get", is_keyed: true },
        PlannedCall { task: "mail", method: "post", is_keyed: false },
    ];

    fn entry(second: i64, task: &str, status: Option<u16>) -> Entry {
        let is_mail = task == "mail";
        Entry {
            at: Timestamp::from_seconds(second).expect("a time of this century"),
            worker: "w1".to_owned(),
            is_keyed: !is_mail,
            method: if is_mail { "POST" } else { "GET" }.to_owned(),
            owner: "alice".to_owned(),
            job: 7,
            task: task.to_owned(),
            key: task.to_owned(),
            user: "alice".to_owned(),
            body: String::new(),
            receipt: status.filter(|status| *status == 200).map(|_| 1),
            status,
        }
    }

    fn job() -> Acknowledged {
        Acknowledged {
            id: Uuid::nil(),
            number: 7,
            user: "alice".to_owned(),
            calls: CALLS.to_vec(),
            may_be_cancelled: false,
            is_cancelled: false,
            strangers: 0,
        }
    }

    /// How many cases each check of the log finds, for a job that ended in this way at second 9.
    fn cases(log: &[Entry], status: &str) -> [usize; 6] {
        let (jobs, calls) = ([job()], HashMap::from([(7, log.iter().collect())]));
        let finished_at = Timestamp::from_seconds(9);
        let rows = HashMap::from([(job().id, Row { status: status.to_owned(), finished_at })]);
        let lines = [
            keys_with_two_requests(log),
            sent_without_need(log),
            out_of_order(&jobs, &calls, &rows),
            not_called(&jobs, &calls, &rows),
            faulted(&jobs, &calls, &rows),
            confused(&jobs, log),
        ];
        lines.map(|line| {
            assert_eq!(line.verdict == Verdict::Fail, !line.cases.is_empty());
            line.cases.len()
        })
    }

    #[test]
    fn what_may_happen_is_no_case() {
        let good = [entry(1, "get", None), entry(4, "get", Some(200)), entry(5, "mail", Some(503))];
        let sent = [good.to_vec(), vec![entry(8, "mail", Some(200))]].concat();
        assert_eq!(cases(&sent, "completed"), [0; 6]);
        let lost = [good.to_vec(), vec![entry(8, "mail", None)]].concat();
        assert_eq!(cases(&lost, "faulted"), [0; 6]);
    }

    #[test]
    fn each_check_finds_what_it_is_for() {
        let (get, mail) = (entry(1, "get", Some(200)), entry(3, "mail", Some(200)));
        let other_body = Entry { body: "other".to_owned(), ..get.clone() };
        assert_eq!(cases(&[get.clone(), other_body, mail.clone()], "completed")[0], 1);
        assert_eq!(cases(&[get.clone(), mail.clone(), mail.clone()], "completed")[1], 1);
        let late = entry(5, "get", Some(200));
        assert_eq!(cases(&[get.clone(), mail.clone(), late], "completed")[2], 1);
        let after_the_end = entry(10, "mail", Some(200));
        assert_eq!(cases(&[get.clone(), after_the_end], "completed")[2], 1);
        assert_eq!(cases(std::slice::from_ref(&get), "completed")[3], 1);
        assert_eq!(cases(&[get.clone(), mail.clone()], "cancelled")[4], 1);
        let twice = [get.clone(), mail.clone(), entry(4, "mail", None)];
        assert_eq!(cases(&twice, "faulted")[4], 1);
        let bobs = Entry { user: "bob".to_owned(), ..get };
        assert_eq!(cases(&[bobs, mail], "completed")[5], 1);
    }
}
