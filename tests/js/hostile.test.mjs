import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  WSRPC, connected, fate, listenToConsole, turn,
} from './fakes.mjs';

const NAMES = ['__proto__', 'constructor', 'toString', 'then',
  'hasOwnProperty', 'prototype', 'valueOf', '__defineGetter__'];

/** Fails if anything has been written to the prototype of all objects. */
function watchPrototype(t) {
  const look = () => JSON.stringify(Object.getOwnPropertyNames(
    Object.prototype)) + Object.keys({}).length + ({}).polluted;
  const before = look();
  t.after(() => assert.equal(look(), before));
}

test('C6: names of Object.prototype as methods, ids, topics, subscriptions',
  async (t) => {
    watchPrototype(t);
    const { rpc, net } = connected();
    const served = [];
    for (const name of NAMES) {
      net.socket.say({ id: name, method: name, params: [1] });
      await turn();
      assert.equal(net.socket.last.error.code, -32601, name);
      assert.equal(net.socket.last.id, name);
      net.socket.say({ id: name, result: { polluted: 1 } },
        { id: [name], result: 1 }, { id: { [name]: 1 }, result: 1 });
      net.socket.say({
        method: 'rpc.subscription',
        params: { subscription: name, topic: name, result: 1 },
      });
      rpc.addRoute(name, () => name);
      net.socket.say({ id: 2, method: name });
      await turn();
      assert.equal(net.socket.last.result, name);
      rpc.subscribe(name, (data, { topic }) => served.push([topic, data]));
      net.socket.reply(name);
      net.socket.say({
        method: 'rpc.subscription',
        params: { subscription: name, result: 'e' },
      });
    }
    assert.deepEqual(served, NAMES.map((name) => [name, 'e']));
    assert.equal(rpc.stats.unknownReplies, 3 * NAMES.length);
    assert.equal(rpc.stats.unknownEvents, NAMES.length);
  });

test('C6: own __proto__ in everything that a server can say', async (t) => {
  watchPrototype(t);
  const { rpc, net } = connected();
  const evil = '{"__proto__":{"polluted":1},"constructor":{"prototype":'
    + '{"polluted":1}}}';
  rpc.addRoute('f', (...args) => args);
  rpc.addRoute('fail', (data) => {
    throw new WSRPC.RPCError(1, 'x', data);
  });
  let joined = 0;
  rpc.subscribe('news', () => { joined += 1; });
  net.socket.raw(`{"id":1,"result":{"subscription":"s1","epoch":"e",
    "offset":1,"__proto__":{"recovered":true},
    "publications":[${evil},{"offset":2,"data":${evil}}]}}`);
  const calls = [rpc.call('a'), rpc.call('b')].map(fate);
  net.socket.raw(`{"id":2,"result":${evil}}`);
  net.socket.raw(`{"id":3,"error":{"code":1,"message":"m","data":${evil}}}`);
  net.socket.raw(`{"id":4,"method":"f","params":${evil}}`);
  net.socket.raw(`{"id":6,"method":"fail","params":${evil}}`);
  net.socket.raw(`{"method":"rpc.subscription","params":${evil}}`);
  net.socket.raw(`{"method":"rpc.subscription","params":
    {"subscription":"s1","result":${evil}}}`);
  net.socket.raw(evil);
  net.socket.raw(`[${evil}]`);
  await turn();
  assert.deepEqual(calls.map(({ state }) => state), ['fulfilled', 'rejected']);
  assert.equal(calls[1].error.polluted, undefined);
  assert.equal(joined, 2);
  assert.equal(rpc.state(), 'open');
});

test('C6: await rpc.proxy calls nothing, whatever the server serves',
  async () => {
    const { rpc, net } = connected();
    assert.equal(await rpc.proxy, rpc.proxy);
    await rpc.proxy.calc;
    assert.equal(net.socket.texts.length, 0);
  });

test('C7: unknown, late and foreign ids are ignored and counted',
  async () => {
    const { rpc, net } = connected();
    const call = fate(rpc.call('f'));
    for (const id of ['1', 1.5, 0, -1, 2, true, [1], { id: 1 }, 'x']) {
      net.socket.say({ id, result: 'foreign' });
    }
    net.socket.say({ result: 'none' });
    await turn();
    assert.equal(call.state, 'pending');
    assert.equal(rpc.stats.unknownReplies, 10);
    net.socket.say({ id: 1, result: 'mine' }, { id: 1, result: 'twice' });
    await turn();
    assert.deepEqual([call.value, call.times], ['mine', 1]);
    assert.equal(rpc.stats.unknownReplies, 11);
  });

test('an error without an id is told: it may be about any call',
  () => {
    const { rpc, net } = connected();
    const errors = [];
    rpc.addEventListener('onerror', (error) => errors.push(error.code));
    net.socket.say({ id: null, error: { code: -32700, message: 'Parse' } });
    assert.deepEqual(errors, [-32700]);
  });

const GARBAGE = ['', 'Welcome!', '{', '{"id":1', 'undefined', '\u0000',
  '['.repeat(1e6), new ArrayBuffer(4), null, undefined];
for (const text of GARBAGE) {
  const title = JSON.stringify(String(text).slice(0, 20));
  test(`no JSON: ${title}: told, counted, closed 4400`,
    async () => {
      const { rpc, net } = connected();
      const errors = [];
      const closes = [];
      rpc.addEventListener('onerror', (error) => errors.push(error));
      rpc.addEventListener('onclose', (loss) => closes.push(loss));
      const call = fate(rpc.call('f'));
      net.socket.raw(text);
      await turn();
      assert.equal(net.socket.closedWith.code, 4400);
      assert.equal(rpc.stats.badMessages, 1);
      assert.equal(errors.length, 1);
      assert.equal(closes[0].code, 1007);
      assert.equal(closes[0].willReconnectInMs, 500);
      assert.equal(call.error.maybeExecuted, true);
    });
}

test('no JSON three times in a row is the end: no endpoint of ours',
  async (t) => {
    listenToConsole(t);
    const { rpc, net, clock } = connected();
    for (const state of ['waiting', 'waiting', 'closed']) {
      net.socket.raw('Welcome!');
      assert.equal(rpc.state(), state);
      await clock.tick(5000);
      if (state === 'waiting') net.socket.open();
    }
  });

test('JSON that says nothing is counted, and the connection lives',
  async () => {
    const { rpc, net } = connected();
    net.socket.say(5, null, 'x', true, {}, { id: 1 }, { any: 'json' },
      [1, null, {}]);
    await turn();
    assert.equal(rpc.stats.badMessages, 10);
    assert.equal(rpc.state(), 'open');
    assert.deepEqual(net.socket.texts, []);
  });

test('a malformed request is answered -32600', async () => {
  const { rpc, net } = connected();
  for (const message of [{ id: 1, method: 5 }, { id: 1, method: null },
    { id: {}, method: 'f' }, { id: [1], method: 'f' }]) {
    net.socket.say(message);
    await turn();
    assert.deepEqual([net.socket.last.id, net.socket.last.error.code],
      [null, -32600]);
  }
  assert.equal(rpc.stats.badMessages, 4);
});

test('huge params, deep results, 10 000 answers nobody asked for',
  async () => {
    const { rpc, net } = connected();
    rpc.addRoute('f', (...args) => args.length);
    net.socket.say({ id: 2, method: 'f', params: Array(1e6).fill(0) });
    await turn();
    assert.ok(net.socket.last.error || net.socket.last.result === 1e6);
    for (let id = 5; id < 10005; id += 1) net.socket.say({ id, result: id });
    assert.equal(rpc.stats.unknownReplies, 10000);
    assert.equal(rpc.stats.pending, 0);
    assert.equal(rpc.state(), 'open');
  });
