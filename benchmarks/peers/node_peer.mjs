// The npm packages `proper-lockfile` and `@openclaw/fs-safe`. Speaks as peer.hpp says. Both wait by asking again; they are
// told to do so every 10 ms to 50 ms. fs-safe leaves stale locks alone unless told when an owner is gone: told here as its manual
// shows it, by whether the pid exists.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import readline from 'node:readline';

const [variant, target] = process.argv.slice(2);
// Where npm installed to; an ES module is not looked up by way of NODE_PATH.
const require = createRequire(path.join(process.env.PEERS_NODE, 'package.json'));
const retry = { retries: 2000, factor: 1.2, minTimeout: 10, maxTimeout: 50 };
const now = () => process.hrtime.bigint();

function isGone(pid) {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH';
  }
}

async function openLock() {
  fs.closeSync(fs.openSync(target, 'a'));
  let release;
  if (variant === 'proper-lockfile') {
    const { lock } = require('proper-lockfile');
    return {
      acquire: async () => { release = await lock(target, { retries: retry, onCompromised: () => {} }); },
      release: () => release().catch(() => {}),
    };
  }
  const { acquireFileLock } = await import(pathToFileURL(path.join(process.env.PEERS_NODE, 'node_modules/@openclaw/fs-safe/dist/file-lock.js')));
  const ownerIsGone = ({ payload }) => Number.isInteger(payload?.pid) && payload.pid > 0 && isGone(payload.pid);
  const options = {
    retry,
    staleRecovery: 'remove-if-unchanged',
    payload: () => ({ pid: process.pid, createdAt: new Date().toISOString() }),
    shouldReclaim: ownerIsGone,
    shouldRemoveStaleLock: ownerIsGone,
  };
  return {
    acquire: async () => { release = await acquireFileLock(target, options); },
    release: () => release.release(),
  };
}

async function contend(lock, seconds, oracle) {
  let cycles = 0;
  let overlaps = 0;
  const end = now() + BigInt(Math.round(seconds * 1e9));
  for (; now() < end; ++cycles) {
    await lock.acquire();
    try {
      fs.mkdirSync(oracle);
      await pause(1);
      fs.rmdirSync(oracle);
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      ++overlaps;
    }
    await lock.release();
  }
  return `${cycles} ${overlaps}`;
}

async function obey(lock, command, first, second) {
  const begin = now();
  switch (command) {
    case 'acquire':
      await lock.acquire();
      return now();
    case 'release':
      await lock.release();
      return begin;
    case 'cycles':
      for (let i = 0; i < Number(first); ++i) {
        await lock.acquire();
        await lock.release();
      }
      return now() - begin;
    default:
      return contend(lock, Number(first), second);
  }
}

const lock = await openLock();
console.log('ready');
for await (const line of readline.createInterface({ input: process.stdin })) {
  console.log(`ok ${await obey(lock, ...line.split(' '))}`);
}
process.exit(0);
