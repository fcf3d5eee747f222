// An installation of Errand as its users have one: an API process, a worker process, a configuration.
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import * as postgres from './postgres.mjs';
import { freePort, ready, start, stop } from './processes.mjs';

const { BENCH_FOLDER: folder, BENCH_BINARIES: binaries } = process.env;

const document = (tasks) => ({
  document: { dsl: '1.0.3', namespace: 'bench', name: 'job', version: '1.0.0' },
  do: tasks,
});
const call = { call: 'http', with: { method: 'get', endpoint: { uri: 'orders', authentication: { use: 'PartnerAPI' } } } };

/** What is submitted. */
export const bodies = {
  oneCall: { definition: document([{ getOrders: call }]) },
  noCall: { definition: document([{ answer: { set: { status: 'done' } } }]) },
  tenCalls: { definition: document(Array.from({ length: 10 }, (_, index) => ({ [`step${index}`]: call }))) },
};

export class Installation {
  /** On the database `url`, with the tenant `simulator` and the partner API at `downstream`. */
  constructor(name, url, simulator, downstream) {
    this.name = name;
    this.url = url;
    this.simulator = simulator;
    this.downstream = downstream;
    this.configuration = join(folder, `${name}.toml`);
    this.key = randomBytes(32).toString('base64');
  }

  async startApi() {
    const port = await freePort();
    this.address = `http://127.0.0.1:${port}`;
    const { authority, client_id: id, client_secret: secret, scope } = this.simulator;
    const [, instance, tenant] = authority.match(/^(.*\/)([^/]+)$/);
    writeFileSync(this.configuration, `
[database]
url = "${this.url}"
[encryption]
keys = ["k1:${this.key}"]
[api]
listen = "127.0.0.1:${port}"
[identity]
instance = "${instance}"
tenant_id = "${tenant}"
client_id = "${id}"
client_credentials = [{ source_type = "ClientSecret", client_secret = "${secret}" }]
[downstream_apis.PartnerAPI]
base_url = "${this.downstream}"
scopes = ["${scope}"]
`, { mode: 0o600 });
    this.api = start(`${this.name}-api`, join(binaries, 'errand-api'), ['--config', this.configuration]);
    await ready(this.api, `${this.address}/readyz`);
  }

  async startWorker(env = {}) {
    const listen = `127.0.0.1:${await freePort()}`;
    this.worker = start(`${this.name}-worker`, join(binaries, 'errand-worker'), ['--config', this.configuration],
      { env: { ERRAND__WORKER__LISTEN: listen, ...env } });
    await ready(this.worker, `http://${listen}/readyz`);
  }

  async stopWorker() { await stop(this.worker); }

  /** Submits one job and returns its id. */
  async submit(body, token) {
    const answer = await fetch(`${this.address}/v1/jobs`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
      body: JSON.stringify(body),
    });
    if (answer.status !== 202) throw new Error(`${this.name}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()).id;
  }
}

/** The same on a PostgreSQL database of the bench's cluster. */
export class PostgresInstallation extends Installation {
  constructor(name, ...rest) {
    super(name, postgres.url(name), ...rest);
  }

  async forgetJobs() {
    await postgres.query(this.name, 'truncate jobs, job_events, job_calls cascade');
    await postgres.query(this.name, 'checkpoint');
  }

  /** The newest job: ids grow with time, so what is submitted from now on has greater ones. */
  async newest() {
    const job = await postgres.one(this.name, 'select id from jobs order by id desc limit 1');
    return job?.id ?? '00000000-0000-0000-0000-000000000000';
  }

  /** Waits until every job that was submitted after `newest` has ended; returns how long after the first claim. */
  async drained(count, newest) {
    // The newest are the last to end: while there are any left, this looks at one row.
    const left = 'select from jobs where id > $1 and finished_at is null order by id desc limit 1';
    while ((await postgres.query(this.name, left, [newest])).length > 0) await sleep(20);
    const { ended, seconds } = await postgres.one(this.name, `
      select count(*) filter (where status = 'completed') as ended,
             extract(epoch from max(finished_at) - min(started_at))::float as seconds
      from jobs where id > $1`, [newest]);
    if (ended !== count) throw new Error(`${this.name}: ${ended} of ${count} jobs are completed`);
    return seconds;
  }
}
