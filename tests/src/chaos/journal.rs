//! What PostgreSQL itself writes down: every change of a job's state and every claim, in the
//! transaction that makes it.

use std::time::Duration;

use errand_shared::time::{Clock, SystemClock, Timestamp};
use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};
use uuid::Uuid;

/// A claim that finds a running job, a state after the last one: whoever does it, it stands here.
const JOURNAL: &str = "
    create table chaos_journal (
        number bigserial primary key,
        at timestamptz not null default clock_timestamp(),
        job_id uuid not null,
        before text not null,
        after text not null,
        lease_before bigint not null,
        lease_after bigint not null,
        worker uuid,
        due_before timestamptz
    );
    create index chaos_journal_job on chaos_journal (job_id);
    create function chaos_write() returns trigger language plpgsql as $$
    begin
        insert into chaos_journal (job_id, before, after, lease_before, lease_after, worker, due_before)
        values (new.id, old.status, new.status, old.lease_id, new.lease_id,
                coalesce(new.worker_id, old.worker_id), old.due_at);
        return null;
    end $$;
    create trigger chaos_journal after update on jobs for each row
        when (old.status <> new.status or old.lease_id <> new.lease_id
              or old.status in ('completed', 'faulted', 'cancelled'))
        execute function chaos_write();
";

/// Between two looks at the database.
const LOOK: Duration = Duration::from_millis(100);

/// The way to the rows.
pub(crate) struct Journal {
    url: String,
}

impl Journal {
    /// Begins to write, in a database that has its tables.
    pub(crate) async fn create(url: &str) -> Self {
        let journal = Self { url: url.to_owned() };
        journal.execute(JOURNAL).await;
        journal
    }

    /// A connection, however often the server goes away.
    pub(crate) async fn connect(&self) -> PgConnection {
        loop {
            match PgConnection::connect(&self.url).await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(crate) async fn execute(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        let done = sqlx::raw_sql(statements).execute(&mut self.connect().await).await;
        done.expect("the statements are good, and nobody disturbs them");
    }

    /// Rows of a query, asked again until there is an answer.
    pub(crate) async fn rows<T>(&self, query: &'static str, arguments: &[Argument]) -> Vec<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        loop {
            let mut asked = sqlx::query_as::<Postgres, T>(query);
            for argument in arguments {
                asked = argument.bind(asked);
            }
            match asked.fetch_all(&mut self.connect().await).await {
                Ok(rows) => return rows,
                Err(sqlx::Error::Database(error)) if error.code().is_some_and(is_a_mistake) => {
                    panic!("{query}: {error}")
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// One number.
    pub(crate) async fn number(&self, query: &'static str, arguments: &[Argument]) -> i64 {
        let rows: Vec<(Option<i64>,)> = self.rows(query, arguments).await;
        rows.first().and_then(|(number,)| *number).unwrap_or_default()
    }

    /// The longest time from `since` until a worker took one of `jobs` under a lease after the one
    /// given; none as long as one of them was not taken and has not ended.
    pub(crate) async fn taken(&self, jobs: &[(Uuid, i64)], since: Timestamp) -> Option<Duration> {
        let mut longest = Duration::ZERO;
        for (job, lease) in jobs {
            let rows: Vec<(chrono::DateTime<chrono::Utc>,)> = self
                .rows(
                    "select at from chaos_journal
                     where job_id = $1 and ((after = 'running' and lease_after > $2)
                        or after in ('completed', 'faulted', 'cancelled'))
                     order by number limit 1",
                    &[Argument::Id(*job), Argument::Number(*lease)],
                )
                .await;
            let (at,) = rows.first()?;
            longest = longest.max(Timestamp::from(*at).since(since));
        }
        Some(longest)
    }

    /// Waits for [`taken`](Self::taken); `patience` if it takes longer.
    pub(crate) async fn wait_until_taken(
        &self,
        jobs: &[(Uuid, i64)],
        since: Timestamp,
        patience: Duration,
    ) -> Duration {
        while SystemClock.now().since(since) < patience {
            if let Some(longest) = self.taken(jobs, since).await {
                return longest;
            }
            tokio::time::sleep(LOOK).await;
        }
        patience
    }

    /// Waits until no more than `most` jobs are unfinished, rows that only fill the table aside.
    pub(crate) async fn wait_until_finished(&self, patience: Duration) -> i64 {
        let began = SystemClock.now();
        loop {
            let unfinished = self
                .number(
                    "select count(*) from jobs
                     where status in ('pending', 'running', 'waiting', 'suspended')
                       and name <> 'filler'",
                    &[],
                )
                .await;
            if unfinished == 0 || SystemClock.now().since(began) > patience {
                return unfinished;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A value in a query.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    Id(Uuid),
    Number(i64),
    Time(Timestamp),
}

type Asked<T> = QueryAs<'static, Postgres, T, PgArguments>;

impl Argument {
    fn bind<T>(&self, query: Asked<T>) -> Asked<T> {
        match self {
            Self::Id(id) => query.bind(*id),
            Self::Number(number) => query.bind(*number),
            Self::Time(time) => query.bind(time.as_datetime()),
        }
    }
}

/// SQLSTATE classes 42 (syntax, names) and 22 (data): asking again does not help.
#[expect(clippy::needless_pass_by_value, reason = "it comes like this")]
fn is_a_mistake(code: std::borrow::Cow<'_, str>) -> bool {
    code.starts_with("42") || code.starts_with("22")
}
