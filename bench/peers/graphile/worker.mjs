// graphile-worker with the settings that its documentation recommends for throughput.
//   worker.mjs drain COUNT     seconds from the first job's start until the table is empty
//   worker.mjs latency COUNT   milliseconds from `addJob` to the job's start, one job at a time
import { setTimeout as sleep } from 'node:timers/promises';

import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';

const [mode, count] = [process.argv[2], Number(process.argv[3])];
const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const pool = new pg.Pool({ connectionString, max: 2 });
const utils = await makeWorkerUtils({ connectionString, logger });
await utils.migrate();

let seen = () => {};
const start = (settings) => run({
  preset: { worker: { connectionString, maxPoolSize: 25, ...settings } },
  logger,
  noHandleSignals: true,
  taskList: { answer: () => seen() },
});

if (mode === 'drain') {
  await pool.query(
    `select count(*) from graphile_worker.add_jobs(array(
       select ('answer', '{"status":"done"}', null, null, null, null, null, null)::graphile_worker.job_spec
       from generate_series(1, $1)))`, [count]);
  await pool.query('checkpoint').catch(() => {});
  let began;
  seen = () => { began ??= performance.now(); };
  const runner = await start({
    concurrentJobs: 24, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
  });
  for (;;) {
    const { rows } = await pool.query('select exists (select from graphile_worker._private_jobs) as left');
    if (began && !rows[0].left) break;
    await sleep(10);
  }
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1e3 }));
  await runner.stop();
} else {
  const runner = await start({ concurrentJobs: 24 });
  const times = [];
  for (let done = 0; done < count; done += 1) {
    await sleep(20);
    const began = performance.now();
    const ran = new Promise((resolve) => { seen = resolve; });
    await utils.addJob('answer', { status: 'done' });
    await ran;
    times.push(performance.now() - began);
  }
  console.log(JSON.stringify({ times }));
  await runner.stop();
}
await utils.release();
await pool.end();
