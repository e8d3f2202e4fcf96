import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  WSRPC, connected, fate, listenToConsole, makeClient, turn,
} from './fakes.mjs';

const {
  RPCError, ConnectionLostError, CallTimeoutError, QueueFullError,
} = WSRPC;
const BUSY = {
  code: -32009, message: 'busy', data: { retryable: true, executed: false },
};
const GOING_AWAY = { ...BUSY, code: -32011, message: 'going away' };

class Point { constructor() { this.x = 1; } }

test('arguments become params along one table', () => {
  const { rpc, net } = connected();
  const none = Symbol('no params');
  const table = [
    [undefined, none], [null, none],
    [[1, 2], [1, 2]], [[], []], [[null], [null]], [[{ a: 1 }], [{ a: 1 }]],
    [{ a: 1 }, { a: 1 }], [{}, {}],
    [Object.assign(Object.create(null), { b: 2 }), { b: 2 }],
    [5, [5]], [0, [0]], ['', ['']], [false, [false]], ['x', ['x']],
    [new Date(0), ['1970-01-01T00:00:00.000Z']], [new Point(), [{ x: 1 }]],
  ];
  for (const [args, params] of table) {
    rpc.call('f', args).catch(() => {});
    const { last } = net.socket;
    assert.equal(last.method, 'f');
    assert.equal(last.jsonrpc, '2.0');
    if (params === none) assert.ok(!('params' in last));
    else assert.deepEqual(last.params, params);
  }
});

test('what JSON would lose without a word is refused', async () => {
  const { rpc, net } = connected();
  const cyclic = [];
  cyclic.push(cyclic);
  for (const args of [new Map(), new Set(), () => {}, Symbol('s'),
    Promise.resolve(), cyclic, [1n]]) {
    await assert.rejects(rpc.call('f', args), TypeError);
    assert.throws(() => rpc.notify('f', args), TypeError);
  }
  for (const name of ['', undefined, 5, null, {}]) {
    await assert.rejects(rpc.call(name), TypeError);
  }
  assert.equal(net.socket.texts.length, 0);
});

test('arguments are taken as they are at the call', async () => {
  const { rpc, net } = makeClient();
  const args = [1];
  rpc.call('f', args).catch(() => {});
  args.push(2);
  rpc.connect();
  net.socket.open();
  assert.deepEqual(net.socket.last.params, [1]);
});

test('ids count up, replies in any order reach their calls', async () => {
  const { rpc, net } = connected();
  const calls = ['a', 'b', 'c'].map((name) => rpc.call(name));
  assert.deepEqual(net.socket.sent.map(({ id }) => id), [1, 2, 3]);
  net.socket.reply('C', 2);
  net.socket.say([{ id: 1, result: 'A' }, { id: 2, result: 'B' }]);
  assert.deepEqual(await Promise.all(calls), ['A', 'B', 'C']);
});

test('falsy results arrive as they are', async () => {
  const { rpc, net } = connected();
  for (const result of [0, '', false, null, [], {}]) {
    const call = rpc.call('f');
    net.socket.reply(result);
    assert.deepEqual(await call, result);
  }
});

test('an error reply is a real Error with all that the server said',
  async () => {
    const { rpc, net } = connected();
    async function whereItWasCalled() {
      return rpc.call('f');
    }
    const call = whereItWasCalled();
    net.socket.refuse({
      code: -32000,
      message: "'x'",
      data: { type: 'KeyError', traceback: 'Traceback ...', ref: 'r1' },
    });
    const error = await call.catch((caught) => caught);
    assert.ok(error instanceof RPCError && error instanceof Error);
    assert.equal(error.name, 'RPCError');
    assert.equal(String(error), "RPCError: 'x'");
    assert.equal(error.code, -32000);
    assert.equal(error.type, 'KeyError');
    assert.equal(error.remoteTraceback, 'Traceback ...');
    assert.equal(error.data.ref, 'r1');
    assert.equal(error.retryable, false);
    assert.equal(error.executed, undefined);
    assert.equal(error.maybeExecuted, true);
    assert.match(error.stack, /^RPCError: 'x'\n\s+at whereItWasCalled/);
  });

test('the stack of a proxy call leads to its caller too', async () => {
  const { rpc, net } = connected();
  const call = (function viaProxy() { return rpc.proxy.f(); })();
  net.socket.refuse({ code: 1, message: 'no' });
  assert.match((await call.catch((e) => e)).stack, /^.*\n\s+at viaProxy/);
});

test('strange errors of foreign servers are taken', async () => {
  const { rpc, net } = connected();
  for (const [wire, code, message] of [
    ['bare', -32000, 'bare'], [false, -32000, 'false'], [7, -32000, '7'],
    [{ type: 'E' }, -32000, '{"type":"E"}'],
    [{ code: 'x', message: 'm', data: null }, -32000, 'm'],
  ]) {
    const call = rpc.call('f');
    net.socket.refuse(wire);
    const error = await call.catch((caught) => caught);
    assert.equal(error.code, code);
    assert.equal(error.message, message);
  }
});

test('proxy: the names on the way, the arguments by position', () => {
  const { rpc, net } = connected();
  const { calc } = rpc.proxy;
  for (const [run, method, params] of [
    [() => calc.add(1, 2), 'calc.add', [1, 2]],
    [() => calc.add({ a: 1 }), 'calc.add', [{ a: 1 }]],
    [() => rpc.proxy.ping(), 'ping', undefined],
    [() => rpc.proxy.f(undefined), 'f', [null]],
    [() => rpc.proxy.a.b.c.name(0), 'a.b.c.name', [0]],
    [() => rpc.proxy.settings.apply('x'), 'settings.apply', ['x']],
  ]) {
    run().catch(() => {});
    assert.equal(net.socket.last.method, method);
    assert.deepEqual(net.socket.last.params, params);
  }
});

test('a proxy that is awaited, logged, compared or spread calls nothing',
  async (t) => {
    const { rpc, net } = connected();
    listenToConsole(t);
    const { proxy } = rpc;
    for (const one of [proxy, proxy.calc]) {
      await one;
      console.error(one);
      JSON.stringify({ one });
      assert.match(`${one}`, /^\[WSRPC proxy/);
      assert.deepEqual([one instanceof WSRPC, 'x' in one], [false, false]);
      for (const name of ['then', 'catch', 'finally', 'toJSON',
        'constructor', '__proto__', 'prototype', 'hasOwnProperty', '_x',
        'valueOf', Symbol.iterator, Symbol.asyncIterator]) {
        assert.equal(one[name], undefined, String(name));
      }
      assert.throws(() => { one.x = 1; }, TypeError);
    }
    assert.throws(() => proxy(), TypeError);
    assert.equal(net.socket.texts.length, 0);
  });

test('notify has no id, and goes through the queue', () => {
  const { rpc, net } = makeClient();
  assert.equal(rpc.notify('before', { a: 1 }), true);
  rpc.connect();
  net.socket.open();
  rpc.notify('after');
  assert.deepEqual(net.socket.sent, [
    { jsonrpc: '2.0', method: 'before', params: { a: 1 } },
    { jsonrpc: '2.0', method: 'after' }]);
  rpc.close();
  assert.equal(rpc.notify('dropped'), false);
  assert.equal(rpc.stats.droppedNotifications, 1);
});

test('publish', async () => {
  const { rpc, net } = connected();
  const done = rpc.publish('news', { a: 1 });
  assert.equal(net.socket.last.method, 'rpc.publish');
  assert.deepEqual(net.socket.last.params, { topic: 'news', data: { a: 1 } });
  net.socket.reply({ epoch: 'e', offset: 1 });
  assert.deepEqual(await done, { epoch: 'e', offset: 1 });
  rpc.publish('news').catch(() => {});
  assert.deepEqual(net.socket.last.params, { topic: 'news', data: null });
  rpc.publish('price', 9, { key: 'car-7' }).catch(() => {});
  assert.deepEqual(net.socket.last.params,
    { topic: 'price', data: 9, key: 'car-7' });
});

test('calls before connect() and before open wait, in order', () => {
  const { rpc, net } = makeClient();
  rpc.call('one').catch(() => {});
  rpc.connect();
  rpc.call('two').catch(() => {});
  assert.equal(rpc.stats.queued, 2);
  net.socket.open();
  assert.deepEqual(net.socket.methods(), ['one', 'two']);
  assert.equal(rpc.stats.queued, 0);
  assert.equal(rpc.stats.pending, 2);
});

test('the clock of a call does not run before connect(), then it does',
  async (t) => {
    listenToConsole(t);
    const { rpc, clock } = makeClient({ connectTimeoutMs: 0 });
    const call = fate(rpc.call('f'));
    await clock.tick(100000);
    rpc.connect();
    await clock.tick(29999);
    assert.equal(call.state, 'pending');
    await clock.tick(1);
    assert.equal(call.state, 'rejected');
  });

test('a call times out 30 s after call(), time in the queue included',
  async () => {
    const { rpc, clock, net } = makeClient({ connectTimeoutMs: 0 });
    rpc.connect();
    const queued = fate(rpc.call('queued'));
    await clock.tick(10000);
    const sent = fate(rpc.call('sent', [], { timeoutMs: 25000 }));
    await clock.tick(19999);
    assert.equal(queued.state, 'pending');
    await clock.tick(1);
    assert.ok(queued.error instanceof CallTimeoutError);
    assert.equal(queued.error.name, 'CallTimeoutError');
    assert.equal(queued.error.maybeExecuted, false);
    net.socket.open();
    assert.deepEqual(net.socket.methods(), ['sent']);
    await clock.tick(5000);
    assert.equal(sent.error.maybeExecuted, true);
    assert.equal(sent.error.timeoutMs, 25000);
    net.socket.reply('late');
    assert.equal(rpc.stats.unknownReplies, 1);
    assert.equal(rpc.stats.pending, 0);
  });

test('timeoutMs 0 and beyond what a timer can count are no limit',
  async () => {
    const { rpc, clock } = connected({ livenessMs: 2 ** 40 });
    const calls = [0, 2 ** 31, Infinity].map((timeoutMs) => (
      fate(rpc.call('f', [], { timeoutMs }))));
    await clock.tick(2 ** 30);
    for (const call of calls) assert.equal(call.state, 'pending');
    for (const timeoutMs of [-1, NaN, '5', null]) {
      await assert.rejects(rpc.call('f', [], { timeoutMs }), TypeError);
    }
  });

test('a call without any connect() for 5 s warns, once', async (t) => {
  const said = listenToConsole(t);
  const { rpc, clock } = makeClient();
  rpc.call('first').catch(() => {});
  await clock.tick(4999);
  assert.deepEqual(said, []);
  await clock.tick(1);
  rpc.call('second').catch(() => {});
  await clock.tick(60000);
  assert.equal(said.length, 1);
  assert.match(said[0][1], /first waits for connect\(\)/);
  const other = makeClient();
  other.rpc.call('f').catch(() => {});
  other.rpc.connect();
  await other.clock.tick(6000);
  assert.equal(said.length, 1);
});

test('the queue is capped by number, with a clear error', async () => {
  const { rpc, net } = makeClient({ maxQueued: 2 });
  const calls = [1, 2].map(() => rpc.call('f'));
  const error = await rpc.call('g').catch((caught) => caught);
  assert.ok(error instanceof QueueFullError);
  assert.equal(error.message, 'g: 2 calls already wait for the connection');
  assert.equal(error.maybeExecuted, false);
  assert.equal(rpc.notify('g'), false);
  rpc.connect();
  net.socket.open();
  rpc.call('h').catch(() => {});
  assert.deepEqual(net.socket.methods(), ['f', 'f', 'h']);
  net.socket.reply(1, 0);
  net.socket.reply(2, 1);
  assert.deepEqual(await Promise.all(calls), [1, 2]);
});

test('the caps that hold when none are given', async () => {
  const { rpc, net } = makeClient();
  const framing = '"method":"f","params":[""]}'.length;
  rpc.call('f', 'x'.repeat(16 * 1024 * 1024 - framing)).catch(() => {});
  assert.equal(rpc.notify('n'), false);
  rpc.connect();
  net.socket.open();
  net.socket.bufferedAmount = 8 * 1024 * 1024 - 1;
  rpc.notify('goes');
  net.socket.bufferedAmount += 1;
  for (let i = 0; i < 1000; i += 1) assert.ok(rpc.notify('waits'));
  assert.equal(rpc.notify('one too many'), false);
  assert.equal(net.socket.texts.length, 2);
});

test('the queue that is set aside at the opening counts too', async () => {
  const { rpc, net } = makeClient({ maxQueued: 1, maxBufferedBytes: 10 });
  rpc.call('f').catch(() => {});
  let login;
  rpc.addEventListener('connect', () => { login = rpc.call('login'); });
  rpc.connect();
  net.socket.bufferedAmount = 10;
  net.socket.open();
  await assert.rejects(login, QueueFullError);
});

test('the queue is capped by size', async () => {
  const { rpc, net } = makeClient({ maxQueuedChars: 100 });
  rpc.call('f', 'x'.repeat(60)).catch(() => {});
  await assert.rejects(rpc.call('f', 'x'.repeat(60)), QueueFullError);
  rpc.connect();
  net.socket.open();
  // nothing waits, so there is nothing to bound
  rpc.call('f', 'x'.repeat(200)).catch(() => {});
  assert.equal(net.socket.texts.length, 2);
  net.socket.drop(1006);
  const again = fate(rpc.call('f', 'x'.repeat(60)));
  await turn();
  assert.equal(again.state, 'pending');
});

test('past maxBufferedBytes calls wait here and go out in order',
  async () => {
    const { rpc, clock, net } = connected({ maxBufferedBytes: 1000 });
    net.socket.bufferedAmount = 1000;
    rpc.call('a').catch(() => {});
    rpc.call('b').catch(() => {});
    await clock.tick(500);
    assert.equal(net.socket.texts.length, 0);
    assert.equal(rpc.stats.queued, 2);
    net.socket.bufferedAmount = 999;
    await clock.tick(50);
    assert.deepEqual(net.socket.methods(), ['a', 'b']);
    net.socket.bufferedAmount = 2000;
    rpc.call('c').catch(() => {});
    net.socket.bufferedAmount = 0;
    net.socket.say({ id: 99, result: 1 }); // any message: look again
    assert.equal(net.socket.last.method, 'c');
  });

test('a closing socket is given nothing: it would swallow it', async () => {
  const { rpc, net, clock } = connected();
  net.socket.readyState = 2;
  const call = fate(rpc.call('f'));
  await turn();
  assert.equal(net.socket.texts.length, 0);
  net.socket.drop(1006);
  await clock.tick(500);
  net.socket.open();
  assert.deepEqual(net.socket.methods(), ['f']);
  assert.equal(call.state, 'pending');
});

test('busy is tried again, three times, with jitter, under new ids',
  async () => {
    const { rpc, clock, net } = connected();
    const call = fate(rpc.call('f', [1]));
    for (const [index, delayMs] of [500, 1000, 2000].entries()) {
      net.socket.refuse(BUSY);
      await clock.tick(delayMs - 1);
      assert.equal(net.socket.texts.length, index + 1);
      await clock.tick(1);
      assert.equal(net.socket.texts.length, index + 2);
    }
    assert.deepEqual(net.socket.sent.map(({ id }) => id), [1, 2, 3, 4]);
    assert.deepEqual(net.socket.last.params, [1]);
    net.socket.refuse(BUSY);
    await turn();
    assert.equal(call.error.code, -32009);
    assert.equal(call.error.executed, false);
    assert.equal(call.error.retryable, true);
    assert.equal(call.error.maybeExecuted, false);
  });

test('only what is both retryable and not executed is tried again',
  async () => {
    const { rpc, net, clock } = connected();
    for (const data of [{ retryable: true }, { executed: false },
      { retryable: true, executed: true }, undefined]) {
      const call = rpc.call('f');
      net.socket.refuse({ ...BUSY, data });
      await assert.rejects(call, RPCError);
    }
    await clock.tick(10000);
    assert.equal(net.socket.texts.length, 4);
  });

test('no try that would overrun the time of the call', async () => {
  const { rpc, clock, net } = connected();
  const call = fate(rpc.call('f', [], { timeoutMs: 500 }));
  net.socket.refuse(BUSY);
  await turn();
  assert.equal(call.error.code, -32009);
  assert.equal(net.socket.texts.length, 1);
  await clock.tick(1000);
  assert.equal(call.times, 1);
});

test('going away: new calls wait for the next connection', async () => {
  const { rpc, clock, net } = connected();
  const running = fate(rpc.call('running'));
  const call = fate(rpc.call('f'));
  net.socket.refuse(GOING_AWAY);
  const next = fate(rpc.call('g'));
  await clock.tick(5000);
  assert.equal(net.socket.texts.length, 2);
  net.socket.reply('done', 0); // the connection serves what runs
  await turn();
  assert.equal(running.value, 'done');
  net.socket.drop(1001);
  await clock.tick(5000);
  net.socket.open();
  assert.deepEqual(net.socket.methods(), ['g', 'f']);
  net.socket.reply('G', 0);
  net.socket.reply('F', 1);
  await turn();
  assert.deepEqual([call.value, next.value], ['F', 'G']);
});

test('a lost connection rejects what was sent, at once, never re-sent',
  async () => {
    const { rpc, clock, net } = connected();
    const call = fate(rpc.call('pay'));
    net.socket.drop(1006);
    await turn();
    assert.ok(call.error instanceof ConnectionLostError);
    assert.equal(call.error.name, 'ConnectionLostError');
    assert.equal(call.error.maybeExecuted, true);
    assert.equal(call.error.code, 1006);
    assert.match(call.error.message, /pay.*may have run/);
    await clock.tick(1000);
    net.socket.open();
    assert.deepEqual(net.socket.texts, []);
  });

test('what was not sent goes out after the reconnect', async () => {
  const { rpc, clock, net } = connected();
  net.socket.drop(1006);
  const call = rpc.call('f');
  await clock.tick(500);
  net.socket.open();
  net.socket.reply(1);
  assert.equal(await call, 1);
});

test('the next failed attempt rejects it, surely not executed', async () => {
  const { rpc, clock, net } = connected();
  net.socket.drop(1006);
  const call = fate(rpc.call('f'));
  rpc.notify('n');
  await clock.tick(500);
  assert.equal(call.state, 'pending');
  net.socket.drop(1006);
  await turn();
  assert.ok(call.error instanceof ConnectionLostError);
  assert.equal(call.error.maybeExecuted, false);
  assert.equal(call.error.executed, false);
  assert.equal(rpc.stats.droppedNotifications, 1);
  const later = fate(rpc.call('g')); // waits for the attempt after it
  await clock.tick(1000);
  net.socket.open();
  assert.deepEqual(net.socket.methods(), ['g']);
  assert.equal(later.state, 'pending');
});

test('a resting call is rejected with the queue', async () => {
  const { rpc, clock, net } = connected();
  const call = fate(rpc.call('f'));
  net.socket.refuse(BUSY);
  net.socket.drop(1006);
  await clock.tick(0);
  assert.equal(call.state, 'pending');
  rpc.close();
  await turn();
  assert.equal(call.error.maybeExecuted, false);
  await clock.tick(60000);
  assert.equal(call.times, 1);
});

test('a final stop rejects the queue, and calls after it', async () => {
  const { rpc, net } = makeClient();
  const before = fate(rpc.call('f'));
  rpc.connect();
  net.answer = 403;
  net.socket.drop();
  await turn();
  assert.equal(rpc.state(), 'closed');
  assert.equal(before.error.code, 4403);
  assert.equal(before.error.status, 403);
  const after = await rpc.call('g').catch((error) => error);
  assert.ok(after instanceof ConnectionLostError);
  assert.match(after.message, /connect\(\) begins anew/);
  rpc.connect();
  net.socket.open();
  rpc.call('h').catch(() => {});
  assert.deepEqual(net.socket.methods(), ['h']);
});

test('a send that throws is a lost connection', async () => {
  const { rpc, net } = connected();
  net.socket.send = () => { throw new Error('gone'); };
  const call = fate(rpc.call('f'));
  await turn();
  assert.equal(call.error.maybeExecuted, true);
  assert.equal(rpc.state(), 'waiting');
});

/**
 * D10: a wire that is cut at every step of request and reply, and that holds
 * and reorders; each call runs at most once, each promise settles once, and
 * what is said about it is true.
 */
test('10 000 cuts: at most one effect, every promise settles, no lie',
  async () => {
    let seed = 20261101;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed / 2 ** 32;
    };
    const effects = new Map();
    const calls = [];
    const { rpc, clock, net } = connected({ livenessMs: 0 });
    const serve = (request, socket) => {
      const [n] = request.params;
      if (random() < 0.1) {
        return socket.say({ id: request.id, error: BUSY });
      }
      effects.set(n, (effects.get(n) || 0) + 1);
      return random() < 0.2 ? null : () => socket.say(
        { id: request.id, result: n });
    };
    for (let cuts = 0; cuts < 10000; cuts += 1) {
      const { socket } = net;
      for (let i = 0; i < 2; i += 1) {
        calls.push(fate(rpc.call('count', [calls.length])));
      }
      if (socket.readyState === 0) socket.open();
      const requests = socket.sent.filter(({ id }) => id)
        .sort(() => random() - 0.5);
      const arrived = requests.slice(0, Math.floor(random() * 4));
      const replies = arrived.map((one) => serve(one, socket))
        .filter(Boolean).sort(() => random() - 0.5);
      for (const reply of replies) {
        if (socket.readyState === 1 && random() < 0.8) reply();
      }
      socket.drop(1006);
      if (random() < 0.3) {
        calls.push(fate(rpc.call('count', [calls.length])));
      }
      await turn();
      rpc.connect();
      if (random() < 0.1) { // a failed attempt
        net.socket.drop(1006);
        await turn();
        rpc.connect();
      }
    }
    rpc.destroy();
    await turn();
    for (const [n, call] of calls.entries()) {
      assert.equal(call.times, 1);
      const ran = effects.get(n) || 0;
      assert.ok(ran <= 1, `call ${n} ran ${ran} times`);
      if (call.state === 'fulfilled') assert.equal(call.value, n);
      else if (ran) assert.equal(call.error.maybeExecuted, true);
    }
    const count = (state) => calls.filter((one) => one.state === state).length;
    assert.ok(count('fulfilled') > 2000 && count('rejected') > 2000);
    assert.equal(clock.pending, 0);
  });
