import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WSRPC, connected, event, turn } from './fakes.mjs';

/** What the client answers to a message of the server. */
async function answerTo(net, message) {
  const before = net.socket.texts.length;
  net.socket.say(message);
  await turn();
  const answers = net.socket.sent.slice(before);
  assert.ok(answers.length <= 1, 'never two answers');
  return answers[0];
}

test('a route gets what was sent, in its shape', async () => {
  const { rpc, net } = connected();
  const seen = [];
  rpc.addRoute('f', (...args) => { seen.push(args); });
  for (const [params, args] of [
    [undefined, []], [null, []], [[], []], [[1, 2], [1, 2]],
    [{ a: 1 }, [{ a: 1 }]], [[{ a: 1 }], [{ a: 1 }]], [5, [5]],
    [[null], [null]],
  ]) {
    const answer = await answerTo(net, { id: 2, method: 'f', params });
    assert.deepEqual(seen.pop(), args);
    assert.deepEqual(answer, { jsonrpc: '2.0', id: 2, result: null });
  }
});

test('results: falsy ones intact, undefined is null, promises awaited',
  async () => {
    const { rpc, net } = connected();
    for (const [value, result] of [
      [0, 0], ['', ''], [false, false], [null, null], [[], []],
      [undefined, null], [() => {}, null], [NaN, null],
      [Promise.resolve(0), 0], [Promise.resolve(), null],
      [{ then: (done) => done('thenable') }, 'thenable'],
      [new Date(0), '1970-01-01T00:00:00.000Z'],
    ]) {
      rpc.addRoute('f', () => value);
      assert.deepEqual(await answerTo(net, { id: 'x', method: 'f' }),
        { jsonrpc: '2.0', id: 'x', result });
    }
  });

test('ids of every kind come back as they were', async () => {
  const { rpc, net } = connected();
  rpc.addRoute('f', () => 1);
  for (const id of [0, 2, -1, '', 'a', null, '__proto__']) {
    assert.deepEqual(await answerTo(net, { id, method: 'f' }),
      { jsonrpc: '2.0', id, result: 1 });
  }
});

test('what a route throws goes back with type and stack', async () => {
  const { rpc, net } = connected();
  for (const fail of [() => { throw new RangeError('too far'); },
    async () => { throw new RangeError('too far'); }]) {
    rpc.addRoute('f', fail);
    const { error } = await answerTo(net, { id: 2, method: 'f' });
    assert.deepEqual([error.code, error.message, error.data.type],
      [-32000, 'too far', 'RangeError']);
    assert.match(error.data.stack, /routes\.test\.mjs/);
  }
});

test('an RPCError goes back as written', async () => {
  const { rpc, net } = connected();
  rpc.addRoute('f', () => { throw new WSRPC.RPCError(7, 'no', { a: 0 }); });
  const { error } = await answerTo(net, { id: 2, method: 'f' });
  assert.deepEqual(error, { code: 7, message: 'no', data: { a: 0 } });
});

test('whatever is thrown, there is an answer', async () => {
  const { rpc, net } = connected();
  const cyclic = {};
  cyclic.self = cyclic;
  const hostile = Object.create(Error.prototype, {
    message: { get() { throw new Error('again'); } },
  });
  for (const [thrown, message] of [
    ['a string', 'a string'], [null, 'null'], [undefined, 'undefined'],
    [5, '5'], [Symbol('s'), 'Symbol(s)'],
    [Object.create(null), 'an error that cannot be described'],
    [hostile, 'an error that cannot be described'],
    [new WSRPC.RPCError(1, 'x', cyclic), 'an error that cannot be described'],
  ]) {
    rpc.addRoute('f', () => { throw thrown; });
    const { error } = await answerTo(net, { id: 2, method: 'f' });
    assert.equal(error.message, message);
  }
  for (const result of [cyclic, 1n, { toJSON() { throw new Error('j'); } }]) {
    rpc.addRoute('f', () => result);
    assert.ok((await answerTo(net, { id: 2, method: 'f' })).error);
  }
});

test('message and stack are cut at 4 kB of UTF-8', async () => {
  const { rpc, net } = connected();
  for (const [letter, length] of [['x', 4096], ['é', 2048], ['😀', 2048]]) {
    rpc.addRoute('f', () => {
      const error = new Error(letter.repeat(5000));
      error.stack = letter.repeat(5000);
      throw error;
    });
    const { error } = await answerTo(net, { id: 2, method: 'f' });
    for (const text of [error.message, error.data.stack]) {
      assert.equal(text.length, length);
      assert.equal(new TextEncoder().encode(text).length, 4096);
    }
  }
});

test('unknown and reserved names are not found; notifications say nothing',
  async () => {
    const { rpc, net } = connected();
    for (const method of ['nope', 'rpc.ping', 'rpc.discover', '$/cancel',
      '', 'constructor', 'toString']) {
      const answer = await answerTo(net, { id: 2, method });
      assert.equal(answer.error.code, -32601, method);
      assert.equal(await answerTo(net, { method }), undefined);
    }
    assert.equal(rpc.stats.unknownNotifications, 7);
    assert.equal(rpc.state(), 'open');
    for (const name of ['rpc.subscription', 'rpc.x', '$/x']) {
      assert.throws(() => rpc.addRoute(name, () => {}), /reserved/);
    }
    assert.throws(() => rpc.addRoute('f'), TypeError);
    assert.throws(() => rpc.addRoute(5, () => {}), TypeError);
  });

test('a notification runs its route and is never answered', async () => {
  const { rpc, net } = connected();
  let count = 0;
  rpc.addRoute('f', () => {
    count += 1;
    throw new Error('nobody hears');
  });
  assert.equal(await answerTo(net, { method: 'f' }), undefined);
  assert.equal(count, 1);
});

test('routes come and go', async () => {
  const { rpc, net } = connected();
  const off = rpc.addRoute('f', () => 1);
  rpc.addRoute('f', () => 2); // the later one replaces the earlier
  off(); // which is not there any more
  assert.equal((await answerTo(net, { id: 2, method: 'f' })).result, 2);
  assert.equal(rpc.deleteRoute('f'), true);
  assert.equal(rpc.deleteRoute('f'), false);
  assert.ok((await answerTo(net, { id: 2, method: 'f' })).error);
  rpc.addRoute('f', () => 3)();
  assert.ok((await answerTo(net, { id: 2, method: 'f' })).error);
});

test('a batch is answered by one batch, when all of it is done',
  async () => {
    const { rpc, net } = connected();
    let finish;
    rpc.addRoute('slow', () => new Promise((done) => { finish = done; }));
    rpc.addRoute('f', () => 'F');
    const call = rpc.call('g');
    const answer = answerTo(net, [
      { id: 2, method: 'slow' }, { method: 'f' }, { id: 4, method: 'f' },
      { id: 1, result: 'G' }, event(1), { id: 6, method: 'nope' }, 5,
    ]);
    assert.equal(await call, 'G');
    assert.equal(net.socket.texts.length, 1);
    await turn();
    finish('S');
    assert.equal(await answer, undefined);
    await turn();
    assert.deepEqual(net.socket.last.map(({ id, result, error }) => [
      id, result || error.code]), [[2, 'S'], [4, 'F'], [6, -32601]]);
    assert.equal(await answerTo(net, [{ method: 'f' }]), undefined);
  });

test('batches have a limit of 100, and are not empty', async () => {
  const { rpc, net } = connected();
  let count = 0;
  rpc.addRoute('f', () => { count += 1; });
  const one = { method: 'f' };
  assert.equal(await answerTo(net, Array(100).fill(one)), undefined);
  assert.equal(count, 100);
  const answer = await answerTo(net, Array(101).fill(one));
  assert.deepEqual([count, answer.id, answer.error.code],
    [100, null, -32010]);
  assert.equal((await answerTo(net, [])).error.code, -32600);
});

test('an answer goes to the connection that asked, or nowhere',
  async () => {
    const { rpc, clock, net } = connected();
    let finish;
    rpc.addRoute('slow', () => new Promise((done) => { finish = done; }));
    net.socket.say({ id: 2, method: 'slow' });
    net.socket.drop(1006);
    await clock.tick(500);
    net.socket.open();
    finish('for another');
    await turn();
    assert.deepEqual(net.socket.texts, []);
  });

test('a closing socket is given no answer', async () => {
  const { rpc, net } = connected();
  rpc.addRoute('f', () => 1);
  net.socket.readyState = 2;
  assert.equal(await answerTo(net, { id: 2, method: 'f' }), undefined);
  assert.equal(rpc.state(), 'open'); // onclose is still to come
});

test('answers pass the queue, up to a limit for a peer that never reads',
  async () => {
    const { rpc, net } = connected({ maxBufferedBytes: 100 });
    rpc.addRoute('f', () => 1);
    net.socket.bufferedAmount = 400;
    assert.equal((await answerTo(net, { id: 2, method: 'f' })).result, 1);
    net.socket.bufferedAmount = 401;
    assert.equal(await answerTo(net, { id: 2, method: 'f' }), undefined);
    assert.equal(net.socket.closedWith.code, 4408);
    assert.equal(rpc.state(), 'waiting');
  });

test('a route may call its caller', async () => {
  const { rpc, net } = connected();
  rpc.addRoute('twice', async (x) => 2 * await rpc.call('value', [x]));
  net.socket.say({ id: 2, method: 'twice', params: [5] });
  net.socket.reply(21);
  await turn();
  assert.deepEqual(net.socket.last, { jsonrpc: '2.0', id: 2, result: 42 });
});
