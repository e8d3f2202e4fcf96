// A client of a server that means harm, over a real socket; prints what came
// of it. For tests/attack/test_clients.py.
//
//   node hostile.mjs URL NAME...  ->  {"clean": true, "calls": [...], ...}
import { createRequire } from 'node:module';
import { WebSocket } from 'ws';

const WSRPC = createRequire(import.meta.url)('../../static/wsrpc.js');
const [url, ...names] = process.argv.slice(2);

const look = () => JSON.stringify([
  Object.getOwnPropertyNames(Object.prototype),
  Object.getOwnPropertyNames(Array.prototype),
  Object.getOwnPropertyNames(Function.prototype),
  String(Object.prototype.toString), typeof {}.polluted]);
const before = look();

const rpc = WSRPC(url, { WebSocket, reconnectDelayMs: 100, timeoutMs: 10000 });
const heard = [];
const ran = [];
const closes = [];
rpc.addEventListener('onclose', ({ code, status }) => {
  closes.push({ code, status });
});
rpc.addRoute('safe', (...args) => ran.push(args.length));
for (const name of names) {
  rpc.subscribe(name, (data) => heard.push([name, typeof data.polluted]));
}
rpc.connect();
// As Object.prototype's own `then` would be, were it one: called by await.
const proxy = await rpc.proxy;
await proxy.calc;

const fate = (promise) => promise.then(
  (value) => ['value', typeof value, typeof value?.polluted],
  (error) => ['error', error.name, error.code ?? null]);
const calls = await Promise.all(names.map((name) => fate(rpc.call(name))));
const last = await fate(rpc.call('done'));
console.log(JSON.stringify({
  clean: look() === before,
  calls,
  last,
  heard,
  ran,
  closes,
  state: rpc.state(),
  stats: rpc.stats,
  heapMB: Math.round(process.memoryUsage().heapUsed / 1e6),
}));
rpc.destroy();
