// Calls each of the given URLs once, with a key or without, over connections
// that are cut; prints what came of each. For tests/test_idempotency.py.
//
//   node cuts.mjs < {"urls": [...], "method": "pay", "key": false}
//   -> [0, "ConnectionLostError: ...", ...]
import { createRequire } from 'node:module';
import { WebSocket } from 'ws';

const WSRPC = createRequire(import.meta.url)('../../static/wsrpc.js');
const AT_ONCE = 16;

let input = '';
for await (const part of process.stdin) input += part;
const { urls, method, key = true } = JSON.parse(input);

// a reconnect without a wait
const clock = {
  now: () => performance.now(),
  setTimeout: (fn, ms) => setTimeout(fn, ms),
  clearTimeout: (handle) => clearTimeout(handle),
  random: () => 0,
};

async function callOver(url, number) {
  const rpc = WSRPC(url, { WebSocket, clock, timeoutMs: 20000 });
  rpc.connect();
  try {
    return await rpc.call(method, [number], key ? { idempotencyKey: true } : {});
  } catch (error) {
    return String(error);
  } finally {
    rpc.destroy();
  }
}

const results = [];
const numbers = urls.keys();
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  for (const number of numbers) {
    results[number] = await callOver(urls[number], number);
  }
}));
console.log(JSON.stringify(results));
