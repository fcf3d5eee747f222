//! What only PostgreSQL has: plans, and connections that break.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use sqlx::{AssertSqlSafe, Executor};
use tokio::net::{TcpListener, TcpStream};

use super::{
    store::{
        own_jobs::{LIST, LIST_TAGGED},
        retention::{DELETE_FINISHED, DELETE_SESSION_EVENTS},
    },
    *,
};
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

/// Between a store and its database: hands on what comes, until it is told to swallow it.
async fn proxy(url: &str) -> (String, Arc<AtomicBool>) {
    let mut url = url::Url::parse(url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(&server).await.unwrap();
            // Connections made afterwards are good ones.
            let (is_old, is_broken) = (!is_broken.load(SeqCst), Arc::clone(&is_broken));
            tokio::spawn(async move {
                let broken = async {
                    while !(is_old && is_broken.load(SeqCst)) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = broken => std::future::pending().await,
                }
            });
        }
    });
    (url.into(), broken)
}

#[tokio::test]
async fn a_connection_that_broke_without_a_word_is_not_listened_to_for_ever() {
    let store = TestStore::postgres().await;
    let (url, broken) = proxy(store.url()).await;
    let far = TestStore::at(url).await;
    let heard = async |length| timeout(length, far.wait_for_announcement()).await.is_ok();
    let minute = Duration::from_mins(1);
    // It listens by now.
    while !heard(Duration::from_millis(200)).await {
        store.announce();
    }
    broken.store(true, SeqCst);
    let began = tokio::time::Instant::now();
    while !heard(Duration::from_millis(200)).await {
        assert!(began.elapsed() < minute, "deaf");
        store.announce();
    }
}

#[tokio::test]
async fn what_is_old_is_deleted_without_a_look_at_the_rest() {
    let store = TestStore::postgres().await;
    let mut connection = PgConnection::connect(store.url()).await.unwrap();
    connection.execute(ROWS).await.unwrap();
    let events = "insert into sessions (id, tenant, subject, client_id, session_key, assertion_hash, state,
                                        version, created_at, refreshed_at)
                  select gen_random_uuid(), 't', 's', 'c', number::text, '', 'active', 1, now(), now()
                  from generate_series(1, 100) as number;
                  insert into session_events (session_id, sequence, at, kind, data)
                  select id, number, now() - number * interval '1 hour', 'refreshed', '{}'
                  from sessions, generate_series(1, 200) as number";
    connection.execute(events).await.unwrap();
    for analyzed in [false, true] {
        if analyzed {
            connection.execute("analyze").await.unwrap();
        }
        // As connections of a store have it.
        connection.execute("set plan_cache_mode = force_generic_plan").await.unwrap();
        for (statement, arguments, table) in [
            (DELETE_FINISHED, "3600000000, 7200000000, 500", "jobs"),
            (DELETE_SESSION_EVENTS, "360000000000, 500", "session_events"),
        ] {
            let plan = plan(&mut connection, statement, arguments).await;
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{analyzed}: {plan}");
        }
    }
}

#[tokio::test]
async fn a_list_is_read_without_a_look_at_the_rest() {
    let store = TestStore::postgres().await;
    let mut connection = PgConnection::connect(store.url()).await.unwrap();
    connection.execute(ROWS).await.unwrap();
    let tags = "update jobs set subject = 's';
                insert into job_tags (tenant, subject, name, value, job_id)
                select tenant, subject, 'order', '4711', id from jobs";
    connection.execute(tags).await.unwrap();
    for analyzed in [false, true] {
        if analyzed {
            connection.execute("analyze").await.unwrap();
        }
        connection.execute("set plan_cache_mode = force_generic_plan").await.unwrap();
        let page = "'t', 's', 'ffffffff-ffff-ffff-ffff-ffffffffffff', null, null, 50";
        for (statement, arguments) in
            [(LIST, page), (LIST_TAGGED, &format!("{page}, 'order', '4711'"))]
        {
            let plan = plan(&mut connection, statement, arguments).await;
            assert!(!plan.contains("Seq Scan on jobs"), "{analyzed}: {plan}");
        }
    }
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
