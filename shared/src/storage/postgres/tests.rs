//! How PostgreSQL goes about the statements of the queue: they read what they are about, whatever else
//! there is.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::*;
use crate::storage::conformance::TestStore;

/// Of each kind: finished, due tomorrow, ready.
const ROWS: &str = "insert into jobs (id, tenant, subject, lane, status, ready, due_at, finished_at,
                                      namespace, name, version, definition, input, progress, tags,
                                      warnings, traceparent, created_at, updated_at, deadline_at)
    select gen_random_uuid(), 't', number % 50, number % 50, kind.status, kind.status = 'pending',
           case kind.status when 'waiting' then now() + interval '1 day' when 'pending' then now() end,
           case kind.status when 'completed' then now() end, 'n', 'n', '1', '', '', '{}', '{}', '[]', '',
           now(), now(), now() + interval '2 days'
    from (values ('completed', 20000), ('waiting', 20000), ('pending', 1000)) as kind (status, count),
         generate_series(1, kind.count) as number";

/// What `statement` does with these arguments, as the planner says.
async fn plan(connection: &mut PgConnection, statement: &str, arguments: &str) -> String {
    let prepare = format!("deallocate all; prepare statement as {statement}");
    connection.execute(AssertSqlSafe(prepare)).await.unwrap();
    let explain = format!("explain (costs off) execute statement({arguments})");
    let lines = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
    lines.iter().map(|line| line.get::<String, _>(0) + "\n").collect()
}

#[tokio::test]
async fn no_statement_of_the_queue_reads_what_it_is_not_about() {
    let store = TestStore::postgres().await;
    let mut connection = PgConnection::connect(store.url()).await.unwrap();
    connection.execute(ROWS).await.unwrap();
    let id = "'00000000-0000-0000-0000-000000000000'";
    let record = format!(
        "array[{id}]::uuid[], array[1], array['running'], array[now()], array[''::bytea], array[''],
         array[1], array[1], array[null::bytea], array[null::bytea], array[null::bytea], array[1],
         array['[]'], array['[]']"
    );
    // Before the first `analyze`, too: a burst of jobs is faster than autovacuum.
    for analyzed in [false, true] {
        if analyzed {
            connection.execute("analyze jobs").await.unwrap();
        }
        for mode in ["force_generic_plan", "force_custom_plan"] {
            let set = format!("set plan_cache_mode = {mode}");
            connection.execute(AssertSqlSafe(set)).await.unwrap();
            for (statement, arguments, index) in [
                (CLAIM, &*format!("{id}, 64, 60000000, 7"), "jobs_ready"),
                (WAKE_DUE, "1000", "jobs_due"),
                (RECORD, &record, "jobs_pkey"),
            ] {
                let plan = plan(&mut connection, statement, arguments).await;
                assert!(!plan.contains("Seq Scan on jobs"), "{mode}, {analyzed}: {plan}");
                assert!(plan.contains(index), "{mode}, {analyzed}: {plan}");
                // However much is ready: it comes out of its index in the order that is wanted.
                let sorts = statement == CLAIM && plan.contains("Sort Key");
                assert!(!sorts, "{mode}, {analyzed}: {plan}");
            }
        }
    }
}
