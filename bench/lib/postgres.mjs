// The cluster that bench/run has started: databases, rows like real ones, what statements cost.
import { readFileSync } from 'node:fs';

import pg from 'pg';

pg.types.setTypeParser(20, Number); // bigint: counts and sizes
pg.types.setTypeParser(1700, Number); // numeric: sums of them

const { BENCH_PG_HOST: host, BENCH_PG_PORT: port, PGPASSWORD: password } = process.env;
const connections = new Map();

/** Address of a database, for the role that is measured or for the one that watches. */
export const url = (database, role = 'errand') => `postgres://${role}:${password}@${host}:${port}/${database}`;

/** Runs a statement as the superuser. */
export async function query(database, text, values) {
  if (!connections.has(database)) {
    const client = new pg.Client({ connectionString: url(database, 'watcher') });
    await client.connect();
    connections.set(database, client);
  }
  return (await connections.get(database).query(text, values)).rows;
}

export async function one(database, text, values) {
  return (await query(database, text, values))[0];
}

export async function create(database) {
  await query('postgres', `create database ${database} owner errand`);
}

export async function close() {
  for (const client of connections.values()) await client.end();
  connections.clear();
}

/** Statements of the measured role since the last `forget`: the most expensive first. */
export async function statements(database) {
  return query(database, `
    select regexp_replace(query, '\\s+', ' ', 'g') as text, calls, mean_exec_time as mean_ms,
           total_exec_time as total_ms, wal_bytes
    from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
      and userid = 'errand'::regrole
    order by total_exec_time desc`);
}

export async function forget() {
  await query('postgres', 'select pg_stat_statements_reset()');
}

/** Bytes of write-ahead log so far. */
export async function wal() {
  return (await one('postgres', "select pg_current_wal_lsn() - '0/0' as bytes")).bytes;
}

async function columns(database, table) {
  return query(database, `
    select attname as name, format_type(atttypid, atttypmod) as type from pg_attribute
    where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = ''
    order by attnum`, [table]);
}

/** The job's row, and its first event's, as one INSERT with an id of its own for each execution. */
export async function insertLike(database, job) {
  const parts = {};
  for (const [table, key, own] of [['jobs', 'id', 'gen_random_uuid()'], ['job_events', 'job_id', 'job.id']]) {
    const names = await columns(database, table);
    const literals = names.map(({ name }) => `quote_nullable(${name}::text) as ${name}`).join(', ');
    const row = await one(database, `select ${literals} from ${table} where ${key} = $1 limit 1`, [job]);
    const values = names.map(({ name, type }) => {
      if (name === key) return own;
      if (/^(created_at|updated_at|due_at|at)$/.test(name)) return 'now()';
      // pgbench takes what follows a colon for a variable.
      const literal = row[name].replace(/\\/g, '\\\\').replace(/^E?'/, "E'").replaceAll(':', '\\072');
      return row[name] === 'NULL' ? 'null' : `cast(${literal} as ${type})`;
    });
    parts[table] = { names: names.map(({ name }) => name).join(', '), values: values.join(', ') };
  }
  const { jobs, job_events: events } = parts;
  return `with job as (insert into jobs (${jobs.names}) values (${jobs.values}) returning id) ` +
    `insert into job_events (${events.names}) select ${events.values} from job;\n`;
}

/** Adds `count` copies of a job with its events, with `changes` made to each, under ids that sort before all real ones. */
export async function multiply(database, job, count, changes = {}) {
  const copy = async (table, key, overrides = {}) => {
    const names = (await columns(database, table)).map(({ name }) => name);
    const values = names.map((name) => (name === key ? 'copies.id' : overrides[name] ?? `original.${name}`));
    return `insert into ${table} (${names.join(', ')}) select ${values.join(', ')}
            from copies, ${table} as original where original.${key} = '${job}'`;
  };
  await query(database, 'create temporary table copies (id uuid)');
  await query(database, `
    insert into copies
    select overlay(gen_random_uuid()::text placing '00' from 1)::uuid from generate_series(1, ${count})`);
  await query(database, await copy('jobs', 'id', changes));
  await query(database, await copy('job_events', 'job_id'));
  await query(database, 'drop table copies');
}

/** Logs the plans of all statements of the measured role in a database, while `run` runs; returns them. */
export async function plansOf(database, run) {
  const settings = {
    session_preload_libraries: 'auto_explain',
    'auto_explain.log_min_duration': '0',
    'auto_explain.log_analyze': 'on',
    'auto_explain.log_buffers': 'on',
  };
  const logged = () => readFileSync(process.env.BENCH_PG_LOG, 'utf8');
  const role = `alter role errand in database ${database}`;
  for (const [name, value] of Object.entries(settings)) await query('postgres', `${role} set ${name} = '${value}'`);
  const before = logged().length;
  await run();
  await query('postgres', `${role} reset all`);
  return logged().slice(before).split(/^(?=\d{4}-\d\d-\d\d )/m).filter((entry) => entry.includes('plan:'));
}
