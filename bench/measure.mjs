// Every figure of docs/performance.md, measured on what bench/run has set up.
//
// A round runs every system once, one after the other (A B C A B C …); the first round is thrown away.
// A clock stops when every row is final in the database. What is compared was measured in one run.
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import { Installation, PostgresInstallation, bodies } from './lib/errand.mjs';
import * as postgres from './lib/postgres.mjs';
import { cpu, cpuOfFamily, firstLine, resident, result, start, stopAll } from './lib/processes.mjs';
import { Samples, number, percentile, table } from './lib/table.mjs';

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, runs: { type: 'string', default: '5' } },
});
const { BENCH_FOLDER: folder, BENCH_BINARIES: binaries, BENCH_APALIS: apalis, BENCH_PYTHON: python } = process.env;
const postmaster = Number(process.env.BENCH_POSTMASTER);

const RUNS = options.quick ? 1 : Number(options.runs);
const WARM_UP = options.quick ? 0 : 1;
const CLIENTS = 16;
const JOBS = options.quick ? 3200 : 8000;
const MILLION = options.quick ? 100_000 : 1_000_000;
const IDLE_SECONDS = options.quick ? 10 : 30;

const samples = new Samples();
const notes = [];
const note = (text) => { notes.push(text); process.stderr.write(`bench: ${text}\n`); };
const file = (name, content) => {
  const path = join(folder, name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
};

// What everybody talks to.

async function simulator(name, args = []) {
  const child = start(name, join(binaries, 'errand'), ['simulator', ...args], { output: 'pipe' });
  return JSON.parse(await firstLine(child));
}

const plain = await simulator('tenant');
const secure = await simulator('tenant-https', ['--tls-cert', join(folder, 'server.pem'), '--tls-key', join(folder, 'server.key')]);
const downstream = start('downstream', join(binaries, 'errand-load'), ['downstream'], { output: 'pipe' });
const { address: downstreamAddress } = JSON.parse(await firstLine(downstream));

const users = Array.from({ length: CLIENTS }, (_, index) => `user${index}`);
const tokens = async ({ token_url: address }) => Promise.all(users.map(async (user) => {
  const separator = address.includes('?') ? '&' : '?';
  return (await fetch(`${address}${separator}user=${user}`)).text();
}));
const plainTokens = await tokens(plain);
const secureTokens = await tokens(secure);
const plainTokensFile = file('tokens', `${plainTokens.join('\n')}\n`);
const secureTokensFile = file('tokens-https', `${secureTokens.join('\n')}\n`);
const bodyFiles = Object.fromEntries(Object.entries(bodies).map(([name, body]) => [name, file(`${name}.json`, JSON.stringify(body))]));

async function requests(count, url, ...more) {
  const text = await result('load', join(binaries, 'errand-load'), ['requests', url, '--clients', CLIENTS, '--count', count, ...more]);
  const seen = JSON.parse(text);
  seen.rate = seen.requests / seen.seconds;
  return seen;
}

async function post(installation, body, count) {
  const seen = await requests(count, `${installation.address}/v1/jobs`,
    '--method', 'POST', '--tokens', plainTokensFile, '--body', bodyFiles[body]);
  if (seen.statuses['202'] !== count) throw new Error(`${installation.name}: ${JSON.stringify(seen.statuses)}`);
  return seen;
}

// Installations: one with nothing in it but what is measured, one beside two million other rows, one on SQLite.

for (const database of ['errand', 'errand_full', 'glue', 'graphile', 'apalis']) await postgres.create(database);
await postgres.query('apalis', 'create extension if not exists hstore; create extension if not exists pgcrypto');

const empty = new PostgresInstallation('errand', plain, downstreamAddress);
const full = new PostgresInstallation('errand_full', plain, downstreamAddress);
const sqlite = new Installation('sqlite', `sqlite://${join(folder, 'errand.db')}`, plain, downstreamAddress);
for (const installation of [empty, full, sqlite]) await installation.startApi();

note(`PostgreSQL ${(await postgres.one('postgres', 'show server_version')).server_version}, ` +
  `${cpus().length} × ${cpus()[0].model}, ${number(totalmem() / 2 ** 30)} GiB`);
const changed = await postgres.query('postgres', `
  select name || ' = ' || setting as text from pg_settings
  where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_connections',
                 'shared_preload_libraries', 'wal_sync_method', 'jit') order by name`);
note(changed.map(({ text }) => text).join(', '));
note(`${RUNS} runs after ${WARM_UP} thrown away; ${JOBS} jobs a run unless said otherwise; ${CLIENTS} keep-alive clients`);

const glue = start('glue', process.execPath, ['peers/glue/server.mjs'], {
  output: 'pipe',
  env: { DATABASE_URL: postgres.url('glue'), ...msalEnvironment(), NODE_ENV: 'production' },
});
const { address: glueAddress } = JSON.parse(await firstLine(glue));

function msalEnvironment() {
  return {
    AUTHORITY: secure.authority, CLIENT_ID: secure.client_id, CLIENT_SECRET: secure.client_secret,
    SCOPE: secure.scope, USER_TOKEN: secureTokens[0],
  };
}

// A session for each user, and the statements that pgbench repeats.
const ceilingScripts = [];
for (const [index, token] of plainTokens.entries()) {
  const job = await empty.submit(bodies.oneCall, token);
  ceilingScripts.push('-f', file(`insert-${index}.sql`, await postgres.insertLike('errand', job)));
  await full.submit(bodies.oneCall, token);
}

// The APIs' connections to their databases are made now, and not during the first run.
for (const installation of [empty, full, sqlite]) await post(installation, 'noCall', CLIENTS * 10);

// Rows that are in the way.

let waitingBytes;
async function fill() {
  const began = performance.now();
  await full.forgetJobs();
  await full.startWorker();
  const finished = await full.submit(bodies.noCall, plainTokens[0]);
  while ((await postgres.one('errand_full', 'select status from jobs where id = $1', [finished])).status !== 'completed') await sleep(20);
  await full.stopWorker();
  await postgres.multiply('errand_full', finished, MILLION);
  const delayed = await full.submit({ ...bodies.noCall, run_at: new Date(Date.now() + 864e5).toISOString() }, plainTokens[0]);
  await postgres.multiply('errand_full', delayed, MILLION, { due_at: "original.due_at + random() * interval '1 day'" });
  await postgres.query('errand_full', 'vacuum analyze');
  note(`${number(MILLION)} delayed and ${number(MILLION)} finished jobs with their events, made in ${number((performance.now() - began) / 1e3)} s`);
  const { bytes } = await postgres.one('errand_full', "select pg_total_relation_size('jobs') + pg_total_relation_size('job_events') as bytes");
  waitingBytes = bytes / (2 * MILLION);
}
await fill();

/** What each of `count` jobs (or tasks) costs while `work` is done: in the process `part`, in PostgreSQL, on its disk. */
async function costing(name, installation, part, count, work) {
  await postgres.forget();
  const before = {
    process: installation[part]?.exitCode === null ? cpu(installation[part].pid) : 0,
    database: cpuOfFamily(postmaster),
    wal: await postgres.wal(),
  };
  const value = await work();
  samples.add(`${name}: CPU of the ${part}`, ((cpu(installation[part].pid) - before.process) * 1e6) / count, 'µs each');
  samples.add(`${name}: CPU of PostgreSQL`, ((cpuOfFamily(postmaster) - before.database) * 1e6) / count, 'µs each');
  samples.add(`${name}: WAL`, (await postgres.wal() - before.wal) / count, 'bytes each');
  samples.add(`${name}: resident`, resident(installation[part].pid), 'MiB');
  const statements = await postgres.statements(installation.name);
  const calls = (some) => some.reduce((sum, statement) => sum + statement.calls, 0) / count;
  samples.add(`${name}: statements`, calls(statements), 'each');
  samples.add(`${name}: statements that write`, calls(statements.filter(({ wal_bytes: bytes }) => bytes > 0)), 'each');
  expensive.set(name, statements.slice(0, 6));
  return value;
}
const expensive = new Map();

// One row of the table each.

async function submit() {
  await empty.forgetJobs();
  const errand = await costing('submit', empty, 'api', JOBS, () => post(empty, 'oneCall', JOBS));
  samples.add('submit: Errand', errand.rate, 'jobs/s');
  samples.add('submit: Errand p50', errand.p50_ms, 'ms');
  samples.add('submit: Errand p99', errand.p99_ms, 'ms');

  await empty.forgetJobs();
  const text = await result('pgbench', process.env.BENCH_PGBENCH, ['-n', '-M', 'prepared', '-c', CLIENTS, '-j', 2,
    '-t', JOBS / CLIENTS, ...ceilingScripts, postgres.url('errand')]);
  samples.add('submit: pgbench, same rows', Number(text.match(/tps = ([\d.]+)/)[1]), 'jobs/s');

  const seen = await requests(JOBS / 4, `${glueAddress}/jobs`, '--method', 'POST', '--tokens', secureTokensFile, '--body', bodyFiles.oneCall);
  if (seen.statuses['202'] !== JOBS / 4) throw new Error(`glue: ${JSON.stringify(seen.statuses)}`);
  samples.add('submit: glue', seen.rate, 'jobs/s');
  samples.add('submit: glue p50', seen.p50_ms, 'ms');
  samples.add('submit: glue p99', seen.p99_ms, 'ms');
  samples.add('submit: glue resident', resident(glue.pid), 'MiB');

  const newest = await full.newest();
  const beside = await post(full, 'noCall', JOBS / 4);
  await empty.forgetJobs();
  const alone = await post(empty, 'noCall', JOBS / 4);
  samples.add('submit without a session: Errand', alone.rate, 'jobs/s');
  samples.add('submit without a session, 2 M other rows', beside.rate, 'jobs/s');
  samples.add('submit without a session p99', alone.p99_ms, 'ms');
  samples.add('submit without a session, 2 M other rows p99', beside.p99_ms, 'ms');
  await drain(full, JOBS / 4, newest);
}

async function batch() {
  await empty.forgetJobs();
  const body = file('batch.json', JSON.stringify({ jobs: Array.from({ length: 1000 }, () => bodies.oneCall) }));
  const seen = await requests(20, `${empty.address}/v1/jobs/batch`, '--method', 'POST', '--tokens', plainTokensFile, '--body', body);
  if (seen.statuses['202'] !== 20) throw new Error(`batch: ${JSON.stringify(seen.statuses)}`);
  samples.add('batch submit: Errand', seen.rate * 1000, 'jobs/s');
}

/** Starts a worker on jobs that wait, and stops it when all have ended. */
async function drain(installation, count, newest, name) {
  await postgres.query('postgres', 'checkpoint');
  const work = async () => {
    await installation.startWorker();
    return installation.drained(count, newest);
  };
  if (name) {
    const seconds = await costing(name, installation, 'worker', count, work);
    samples.add(name, count / seconds, 'jobs/s');
  } else {
    await work();
  }
  await installation.stopWorker();
}

async function drainOneCall() {
  await empty.forgetJobs();
  const newest = await empty.newest();
  await post(empty, 'oneCall', JOBS);
  await drain(empty, JOBS, newest, 'drain, one call');
  const bare = await requests(JOBS * 4, `${downstreamAddress}/orders`, '--tokens', plainTokensFile);
  samples.add('bare keep-alive clients, same API', bare.rate, 'calls/s');
  const { bytes } = await postgres.one('errand', `
    select pg_total_relation_size('jobs') + pg_total_relation_size('job_events') + pg_total_relation_size('job_calls') as bytes`);
  samples.add('drain, one call: disk', bytes / JOBS, 'bytes each');
}

async function drainNoCall() {
  await empty.forgetJobs();
  const newest = await empty.newest();
  await post(empty, 'noCall', JOBS);
  await drain(empty, JOBS, newest, 'drain, no call');

  const newestFull = await full.newest();
  await post(full, 'noCall', JOBS);
  await drain(full, JOBS, newestFull, 'drain, no call, 2 M other rows');

  const apalisJobs = JOBS * 4;
  const env = { DATABASE_URL: postgres.url('apalis') };
  await result('apalis-push', apalis, ['push', apalisJobs], { env });
  await postgres.query('postgres', 'checkpoint');
  const worker = start('apalis', apalis, ['drain'], { env });
  while ((await postgres.one('apalis', "select exists (select from apalis.jobs where status in ('Pending', 'Queued', 'Running')) as left")).left) await sleep(20);
  const { seconds, done } = await postgres.one('apalis', `
    select extract(epoch from max(done_at) - min(lock_at))::float as seconds, count(*) filter (where status = 'Done') as done from apalis.jobs`);
  if (done !== apalisJobs) throw new Error(`apalis: ${done} of ${apalisJobs} jobs are done`);
  samples.add('drain, no call: apalis-postgres', apalisJobs / seconds, 'jobs/s');
  worker.kill('SIGKILL');
  await postgres.query('apalis', 'truncate apalis.jobs');

  const graphileJobs = JOBS * 10;
  const text = await result('graphile', process.execPath, ['peers/graphile/worker.mjs', 'drain', graphileJobs], { env: { DATABASE_URL: postgres.url('graphile') } });
  samples.add('drain, no call: graphile-worker, tuned', graphileJobs / JSON.parse(text).seconds, 'jobs/s');
}

async function tasks() {
  const jobs = JOBS / 10;
  await empty.forgetJobs();
  const newest = await empty.newest();
  await post(empty, 'tenCalls', jobs);
  const seconds = await costing('recorded tasks', empty, 'worker', jobs * 10, async () => {
    await empty.startWorker();
    return empty.drained(jobs, newest);
  });
  await empty.stopWorker();
  samples.add('recorded tasks (jobs of ten calls)', (jobs * 10) / seconds, 'tasks/s');
}

/** One job at a time, by a worker that has nothing else to do: by the database's clock, from the submission's first statement. */
async function pickUp(name, installation, count, pause, env) {
  await installation.startWorker(env);
  await installation.submit(bodies.noCall, plainTokens[0]);
  await sleep(1500);
  const newest = await installation.newest();
  for (let done = 0; done < count; done += 1) {
    await installation.submit(bodies.noCall, plainTokens[0]);
    await sleep(pause());
  }
  await installation.drained(count, newest);
  await installation.stopWorker();
  const times = await postgres.query(installation.name, `
    select extract(epoch from started_at - created_at)::float * 1e3 as claimed,
           extract(epoch from finished_at - created_at)::float * 1e3 as ran
    from jobs where id > $1`, [newest]);
  for (const [what, column] of [['claimed', 'claimed'], ['has run', 'ran']]) {
    const values = times.map((row) => row[column]);
    samples.add(`${name}, ${what}: p50`, percentile(values, 0.5), 'ms');
    samples.add(`${name}, ${what}: p99`, percentile(values, 0.99), 'ms');
  }
}

async function latency(round) {
  await empty.forgetJobs();
  const both = [['pick-up, idle', empty], ['pick-up, idle, 2 M other rows', full]];
  for (const [name, installation] of round % 2 ? both.reverse() : both) await pickUp(name, installation, JOBS / 20, () => 20);
  await pickUp('pick-up without LISTEN', empty, 30, () => 100 + Math.random() * 400, { ERRAND__DATABASE__LISTEN: 'false' });
  const text = await result('graphile', process.execPath, ['peers/graphile/worker.mjs', 'latency', JOBS / 20], { env: { DATABASE_URL: postgres.url('graphile') } });
  const { times } = JSON.parse(text);
  samples.add('pick-up, idle, runs: graphile-worker p50', percentile(times, 0.5), 'ms');
  samples.add('pick-up, idle, runs: graphile-worker p99', percentile(times, 0.99), 'ms');
}

async function tokensFromMemory() {
  const env = msalEnvironment();
  const plainEnv = { ...env, AUTHORITY: plain.authority, CLIENT_ID: plain.client_id, CLIENT_SECRET: plain.client_secret,
    SCOPE: plain.scope, USER_TOKEN: plainTokens[0] };
  samples.add('token from memory: Errand', Number(await result('lookup', join(binaries, 'examples', 'token_lookup'), [], { env: plainEnv })), 'µs');
  samples.add('token from memory: msal-node', Number(await result('msal-node', process.execPath, ['peers/msal/lookup.mjs'], { env })), 'µs');
  samples.add('token from memory: MSAL Python', Number(await result('msal-python', python, ['peers/msal/lookup.py'], { env })), 'µs');
}

async function sqliteDrain() {
  const jobs = JOBS / 4;
  const ask = async (statement) => JSON.parse(await result('sqlite', python, ['-c', `
import json, sqlite3, sys
connection = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True, timeout=30)
print(json.dumps(connection.execute(sys.argv[2]).fetchone()))`, join(folder, 'errand.db'), statement]));
  const [last] = await ask('select coalesce(max(rowid), 0) from jobs');
  const seen = await post(sqlite, 'noCall', jobs);
  samples.add('SQLite: submit', seen.rate, 'jobs/s');
  await sqlite.startWorker();
  let done = 0;
  while (done < jobs) {
    [done] = await ask(`select count(*) from jobs where rowid > ${last} and status = 'completed'`);
    await sleep(50);
  }
  const [first, end] = await ask(`select min(started_at), max(finished_at) from jobs where rowid > ${last}`);
  const seconds = typeof first === 'number' ? (end - first) / 1e6 : (Date.parse(`${end}Z`) - Date.parse(`${first}Z`)) / 1e3;
  samples.add('SQLite: drain, synchronous=FULL', jobs / seconds, 'jobs/s');
  await sqlite.stopWorker();
}

async function idle() {
  for (const installation of [empty, full]) {
    await installation.startWorker();
    await sleep(3000);
    await postgres.forget();
    const before = cpu(installation.worker.pid);
    await sleep(IDLE_SECONDS * 1000);
    const statements = await postgres.statements(installation.name);
    const label = installation === empty ? 'idle worker' : 'idle worker, 2 M other rows';
    samples.add(`${label}: statements`, statements.reduce((sum, { calls }) => sum + calls, 0) / IDLE_SECONDS, '/s');
    samples.add(`${label}: CPU`, ((cpu(installation.worker.pid) - before) / IDLE_SECONDS) * 100, '%');
    samples.add(`${label}: resident`, resident(installation.worker.pid), 'MiB');
    const claim = statements.find(({ text }) => /for update skip locked/i.test(text));
    if (claim) samples.add(`${label}: claim that finds nothing`, claim.mean_ms * 1e3, 'µs');
    await installation.stopWorker();
    samples.add(`${label}: API resident`, resident(installation.api.pid), 'MiB');
  }
}

// The rounds.

const rows = { submit, batch, drainOneCall, drainNoCall, tasks, latency, tokensFromMemory, sqliteDrain };
for (let round = 0; round < WARM_UP + RUNS; round += 1) {
  for (const [name, row] of Object.entries(rows)) {
    process.stderr.write(`bench: round ${round + 1} of ${WARM_UP + RUNS}: ${name}\n`);
    await row(round);
  }
  if (round < WARM_UP) samples.clear();
}
await idle();

const log = await (await fetch(new URL('/tenant-log', plain.authority))).json();
note(`the identity provider was asked ${log.token_requests.length} times in all, for ${users.length} users in ` +
  'two installations, whatever the number of jobs');

const plans = await postgres.plansOf('errand_full', async () => {
  const newest = await full.newest();
  await post(full, 'noCall', CLIENTS);
  await full.startWorker();
  await full.drained(CLIENTS, newest);
  await full.stopWorker();
});
const plan = plans.find((text) => /with recursive above/i.test(text)) ?? 'none was logged';

// What came out.

const goals = [
  ['submit, of pgbench\'s rate', samples.ratio('submit: Errand', 'submit: pgbench, same rows'), 0.5],
  ['submit, of the glue\'s rate', samples.ratio('submit: Errand', 'submit: glue'), 5],
  ['submit, p99 in ms', samples.median('submit: Errand p99'), -15],
  ['batch submit, jobs/s', samples.median('batch submit: Errand'), 20_000],
  ['drain of one-call jobs, of bare clients\' rate', samples.ratio('drain, one call', 'bare keep-alive clients, same API'), 0.5],
  ['drain of no-call jobs, of apalis-postgres', samples.ratio('drain, no call', 'drain, no call: apalis-postgres'), 2],
  ['drain of no-call jobs, of graphile-worker tuned', samples.ratio('drain, no call', 'drain, no call: graphile-worker, tuned'), 0.5],
  ['drain beside 2 M other rows, of without', samples.ratio('drain, no call, 2 M other rows', 'drain, no call'), 0.9],
  ['submit beside 2 M other rows, of without', samples.ratio('submit without a session, 2 M other rows', 'submit without a session: Errand'), 0.9],
  ['time to the claim beside 2 M other rows, of without', samples.ratio('pick-up, idle, 2 M other rows, claimed: p50', 'pick-up, idle, claimed: p50'), -1.1],
  ['idle worker beside 2 M other rows, resident, of without', samples.ratio('idle worker, 2 M other rows: resident', 'idle worker: resident'), -1.1],
  ['pick-up, idle, p50 in ms', samples.median('pick-up, idle, has run: p50'), -2],
  ['pick-up, idle, p99 in ms', samples.median('pick-up, idle, has run: p99'), -6],
  ['pick-up without LISTEN, p99 in ms', samples.median('pick-up without LISTEN, claimed: p99'), -1100],
  ['recorded tasks/s', samples.median('recorded tasks (jobs of ten calls)'), 2000],
  ['idle worker, statements/s', samples.median('idle worker: statements'), -2],
  ['idle worker, CPU %', samples.median('idle worker: CPU'), -0.5],
  ['idle worker, resident MiB', samples.median('idle worker: resident'), -40],
  ['SQLite drain, jobs/s', samples.median('SQLite: drain, synchronous=FULL'), 3000],
];
const judged = goals.map(([name, value, goal]) => {
  const reached = value !== undefined && (goal < 0 ? value <= -goal : value >= goal);
  return [name, number(value), `${goal < 0 ? '≤' : '≥'} ${number(Math.abs(goal))}`, value === undefined ? 'not there' : reached ? 'yes' : '**no**'];
});
// A job of one call, from its submission to its end; what follows from it is arithmetic.
const cost = (what) => samples.median(`submit: ${what}`) + samples.median(`drain, one call: ${what}`);
const processor = cost('CPU of PostgreSQL') / 1e6;
const disk = samples.median('drain, one call: disk');
const day = 86_400;
const PEAK = 10;
const costs = [
  ['statements', number(cost('statements'))],
  ['processor time of PostgreSQL', `${number(processor * 1e6)} µs`],
  ['processor time of the API', `${number(samples.median('submit: CPU of the api'))} µs`],
  ['processor time of the worker', `${number(samples.median('drain, one call: CPU of the worker'))} µs`],
  ['write-ahead log', `${number(cost('WAL'))} bytes`],
  ['disk, with events, calls and indexes', `${number(disk)} bytes`],
  ['jobs per second that one processor of PostgreSQL carries', number(1 / processor)],
];
const days = [1e3, 1e5, 1e7];
const scale = (text, value) => [text, ...days.map((jobs) => value(jobs))];
const arithmetic = [
  scale('jobs per second on average', (jobs) => number(jobs / day)),
  scale(`jobs per second at the peak (× ${PEAK})`, (jobs) => number((PEAK * jobs) / day)),
  scale('processors of PostgreSQL, busy at the peak', (jobs) => number(((PEAK * jobs) / day) * processor)),
  scale('write-ahead log a day', (jobs) => `${number((jobs * cost('WAL')) / 1e9)} GB`),
  scale('disk for 30 days of finished jobs', (jobs) => `${number((jobs * 30 * disk) / 1e9)} GB`),
];

console.log(`${notes.map((text) => `- ${text}`).join('\n')}\n`);
console.log(`${table(['row', 'measured', 'goal', 'reached'], judged)}\n`);
console.log(`${samples}\n`);
for (const [name, list] of expensive) {
  const lines = list.map(({ text, calls, mean_ms: mean, total_ms: total }) =>
    [`\`${text.slice(0, 90).replaceAll('|', '\\|')}\``, number(calls), number(mean * 1e3), number(total)]);
  console.log(`Statements of *${name}*, last run:\n\n${table(['statement', 'calls', 'mean µs', 'total ms'], lines)}\n`);
}
console.log(`A job of one call costs:\n\n${table(['', ''], costs)}\n`);
console.log(`${table(['', ...days.map((jobs) => `${number(jobs)} jobs a day`)], arithmetic)}\n`);
console.log(`100 M waiting jobs: ${number((1e8 * waitingBytes) / 1e9)} GB on disk with events and indexes (${number(waitingBytes)} bytes each).\n`);
console.log(`Plan of the claim beside 2 M other rows:\n\n\`\`\`\n${plan.replace(/^.*plan:\s*/, '').replaceAll('\t', '  ').trim()}\n\`\`\``);

await stopAll();
await postgres.close();
