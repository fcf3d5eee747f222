// Programs that are measured: started with a log of their own, watched in /proc, ended one by one.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const TICKS_PER_SECOND = 100; // USER_HZ, the same on every Linux
const folder = process.env.BENCH_FOLDER;
const running = new Set();
let started = 0;

/** Starts a program; `output` is 'pipe' where its first line is wanted. */
export function start(name, command, args = [], { env = {}, output = 'log' } = {}) {
  const log = join(folder, `${++started}-${name}.log`);
  const file = openSync(log, 'a');
  const child = spawn(command, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', output === 'pipe' ? 'pipe' : file, file],
  });
  child.name = name;
  child.log = log;
  running.add(child);
  child.on('exit', () => running.delete(child));
  child.on('error', (error) => { throw error; });
  return child;
}

/** Waits until a program ends and returns what it wrote on stdout. */
export async function result(name, command, args = [], options = {}) {
  const child = start(name, command, args, { ...options, output: 'pipe' });
  let text = '';
  child.stdout.on('data', (data) => { text += data; });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${name} ended with ${code}: ${text}${readFileSync(child.log)}`);
  return text;
}

/** First line that a program writes on stdout. */
export async function firstLine(child) {
  let text = '';
  while (!text.includes('\n')) {
    const [data] = await Promise.race([once(child.stdout, 'data'), ended(child)]);
    text += data;
  }
  child.stdout.resume();
  return text.split('\n')[0];
}

async function ended(child) {
  const [code] = await once(child, 'exit');
  throw new Error(`${child.name} ended with ${code}: ${readFileSync(child.log)}`);
}

/** Waits until `url` answers 2xx. */
export async function ready(child, url) {
  for (let tries = 0; tries < 600; tries += 1) {
    if (child.exitCode !== null) throw new Error(`${child.name} ended: ${readFileSync(child.log)}`);
    const answer = await fetch(url).catch(() => undefined);
    await answer?.arrayBuffer();
    if (answer?.ok) return;
    await sleep(50);
  }
  throw new Error(`${child.name} is not ready: ${readFileSync(child.log)}`);
}

/** Ends a program as an operator would, and waits for its end. */
export async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  await once(child, 'exit');
}

export async function stopAll() {
  await Promise.all([...running].map(stop));
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Fields of /proc/PID/stat from the state on (proc(5) counts from 3 there). */
function stat(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** Seconds of processor time that a process has had. */
export function cpu(pid) {
  const fields = stat(pid);
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The same of a process with all its children, the ended ones included. */
export function cpuOfFamily(pid) {
  const own = stat(pid);
  let ticks = [11, 12, 13, 14].reduce((sum, field) => sum + Number(own[field]), 0);
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const fields = stat(name);
      if (Number(fields[1]) === pid) ticks += Number(fields[11]) + Number(fields[12]);
    } catch { /* it ended meanwhile */ }
  }
  return ticks / TICKS_PER_SECOND;
}

/** Resident memory in MiB. */
export function resident(pid) {
  const line = readFileSync(`/proc/${pid}/status`, 'latin1').match(/VmRSS:\s+(\d+) kB/);
  return Number(line[1]) / 1024;
}
