// One effect for each key, over connections; and the session of an open page.
import assert from 'node:assert/strict';
import test from 'node:test';
import { connected, fate, makeClient, turn, WSRPC } from './fakes.mjs';

const { ConnectionLostError, RPCError } = WSRPC;
const KEY = 'a-key-of-16-chars';
const KEYED = { idempotencyKey: KEY };
const BUSY = {
  code: -32009, message: 'busy', data: { retryable: true, executed: false },
};
const CONFLICT = {
  code: -32602, message: 'another', data: { executed: false },
};
const ABANDONED = {
  code: -32000, message: 'gone', data: { maybeExecuted: true },
};

/** The socket that follows the one that was lost. */
async function next({ clock, net }) {
  const before = net.sockets.length;
  await clock.tick(1000);
  assert.equal(net.sockets.length, before + 1);
  net.socket.open();
  return net.socket;
}

// ---------------------------------------------------- calls with a key

test('a key stands beside the params, a call without one is as it was', () => {
  const { rpc, net } = connected();
  rpc.call('f', [1], KEYED);
  assert.deepEqual(net.socket.last, {
    jsonrpc: '2.0', id: 1, method: 'f', params: [1],
    _meta: { idempotencyKey: KEY },
  });
  rpc.call('f', undefined, KEYED);
  assert.equal(net.socket.last._meta.idempotencyKey, KEY);
  rpc.call('f', [1]);
  assert.ok(!('_meta' in net.socket.last));
});

test('true makes a key, another one each time', () => {
  const { rpc, net } = connected();
  const keys = [1, 2, 3].map(() => {
    rpc.call('f', [], { idempotencyKey: true });
    return net.socket.last._meta.idempotencyKey;
  });
  assert.equal(new Set(keys).size, 3);
  for (const key of keys) assert.match(key, /^[0-9a-f]{32}$/);
});

test('what is no key is refused before it is sent', async () => {
  const { rpc, net } = connected();
  for (const idempotencyKey of ['', 'short', 'x'.repeat(15), 'x'.repeat(129),
    5, {}, false]) {
    await assert.rejects(rpc.call('f', [], { idempotencyKey }), TypeError);
  }
  assert.equal(net.socket.texts.length, 0);
});

test('it is sent again after a lost connection, before all others',
  async () => {
    const all = connected();
    const { rpc, net } = all;
    const first = fate(rpc.call('pay', [1], KEYED));
    const plain = fate(rpc.call('plain'));
    const second = fate(rpc.call('pay', [2], { idempotencyKey: true }));
    net.socket.drop();
    const waited = fate(rpc.call('later'));
    await turn();
    assert.equal(plain.error.maybeExecuted, true);
    const socket = await next(all);
    assert.deepEqual(socket.methods(), ['pay', 'pay', 'later']);
    assert.equal(socket.sent[0]._meta.idempotencyKey, KEY);
    assert.ok(socket.sent[0].id > 3, 'a reply to the old id is not for it');
    for (const index of [0, 1, 2]) socket.reply(index, index);
    await turn();
    assert.deepEqual([first.value, second.value, waited.value], [0, 1, 2]);
    assert.equal(first.times, 1);
  });

test('once in doubt it outlives failed attempts, one in the queue does not',
  async () => {
    const { rpc, net, clock } = connected();
    const sent = fate(rpc.call('pay', [1], KEYED));
    net.socket.drop();
    const queued = fate(rpc.call('pay', [2], { idempotencyKey: true }));
    await clock.tick(1000);
    net.socket.drop();          // the attempt fails
    await turn();
    assert.equal(queued.error.maybeExecuted, false);
    assert.equal(sent.state, 'pending');
    await clock.tick(3000);
    net.socket.open();
    net.socket.reply('paid');
    await turn();
    assert.equal(sent.value, 'paid');
  });

test('its own time ends it all the same, and says that it may have run',
  async () => {
    const { rpc, net, clock } = connected();
    const call = fate(rpc.call('pay', [], { ...KEYED, timeoutMs: 5000 }));
    net.socket.drop();
    await clock.tick(5000);
    assert.equal(call.error.name, 'CallTimeoutError');
    assert.equal(call.error.maybeExecuted, true);
  });

test('what the server may have forgotten is not sent again', async () => {
  for (const sleep of [false, true]) {
    const wall = { ms: 0 };
    const all = connected();
    const { rpc, net, clock } = all;
    clock.wall = () => (sleep ? wall.ms : 0);
    const call = fate(rpc.call('pay', [], { ...KEYED, timeoutMs: 0 }));
    net.socket.drop();
    if (sleep) wall.ms = 3600000; // the machine slept, its clock with it
    else clock.sleep(100000);
    const socket = await next(all);
    assert.deepEqual(socket.methods(), []);
    assert.ok(call.error instanceof ConnectionLostError);
    assert.equal(call.error.maybeExecuted, true);
  }
});

test('it is not sent again as somebody else', async () => {
  for (const end of [
    ({ net }) => net.socket.drop(4401),
    ({ rpc }) => rpc.reconnect(),
    ({ rpc }) => rpc.close(),
    ({ rpc }) => rpc.destroy(),
    ({ net }) => net.socket.drop(1008),
    ({ net, rpc }) => { net.socket.drop(); rpc.reconnect(); },
    ({ net, rpc }) => { net.socket.drop(); rpc.close(); },
  ]) {
    const all = connected();
    const call = fate(all.rpc.call('pay', [], KEYED));
    end(all);
    await turn();
    assert.ok(call.error instanceof ConnectionLostError);
    assert.equal(call.error.maybeExecuted, true);
    assert.equal(call.error.executed, undefined);
    await all.clock.tick(20000);
    for (const socket of all.net.sockets.slice(1)) {
      if (socket.readyState === 0) socket.open();
      assert.deepEqual(socket.methods(), []);
    }
  }
});

test('refused when sent again, nobody knows of the first time', async () => {
  for (const refusal of [CONFLICT, BUSY, ABANDONED]) {
    const all = connected();
    const call = fate(all.rpc.call('pay', [], KEYED));
    all.net.socket.drop();
    const socket = await next(all);
    for (let n = 0; n < 4 && call.state === 'pending'; n += 1) {
      socket.refuse(refusal);
      await all.clock.tick(5000);
    }
    assert.ok(call.error instanceof ConnectionLostError);
    assert.equal(call.error.maybeExecuted, true);
    assert.match(call.error.message, /refused when sent again/);
  }
  const { rpc, net } = connected();
  const call = fate(rpc.call('pay', [], KEYED));
  net.socket.refuse(CONFLICT);
  await turn();
  assert.ok(call.error instanceof RPCError);
  assert.equal(call.error.maybeExecuted, false);
});

test('a page that is left and shown again goes on with it', async () => {
  const window = new EventTarget();
  const { rpc, net } = connected({ window });
  const call = fate(rpc.call('pay', [], KEYED));
  window.dispatchEvent(new Event('pagehide'));
  await turn();
  window.dispatchEvent(new Event('pageshow'));
  net.socket.open();
  net.socket.reply('paid');
  await turn();
  assert.equal(call.value, 'paid');
});

// ------------------------------------------------- another identity

test('reconnect() makes a new connection at once and keeps the queue',
  async () => {
    const { rpc, net } = connected();
    const closed = [];
    rpc.addEventListener('close', (loss) => closed.push(loss));
    const sent = fate(rpc.call('who'));
    const old = net.socket;
    rpc.reconnect();
    const waits = fate(rpc.call('who'));
    await turn();
    assert.deepEqual(old.closedWith, { code: 1000, reason: 'reconnect' });
    assert.equal(sent.error.maybeExecuted, true);
    assert.deepEqual(closed, [{
      code: 1000, reason: 'reconnect', status: null, willReconnectInMs: 0,
    }]);
    assert.notEqual(net.socket, old);
    net.socket.open();
    net.socket.reply('bob');
    await turn();
    assert.equal(waits.value, 'bob');
    assert.equal(rpc.state(), 'open');
  });

test('reconnect() does what is left to do in every state', async () => {
  const fresh = makeClient();
  fresh.rpc.reconnect();
  assert.equal(fresh.rpc.state(), 'connecting');
  fresh.rpc.reconnect(); // a handshake under way has the old cookie
  assert.equal(fresh.net.sockets.length, 2);
  fresh.net.sockets[0].open(); // nobody listens to it
  assert.equal(fresh.rpc.state(), 'connecting');
  fresh.net.socket.drop();
  await turn();
  assert.equal(fresh.rpc.state(), 'waiting');
  fresh.rpc.reconnect();
  assert.equal(fresh.net.sockets.length, 3);
  fresh.net.socket.open();
  fresh.rpc.close();
  fresh.rpc.reconnect();
  assert.equal(fresh.rpc.state(), 'connecting');
  fresh.rpc.destroy();
  assert.throws(() => fresh.rpc.reconnect(), /after destroy/);
});

test('topics are joined anew after reconnect()', async () => {
  const { rpc, net } = connected();
  rpc.subscribe('news', () => {});
  net.socket.reply('s1');
  rpc.reconnect();
  net.socket.open();
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
});

// ------------------------------------------- the session of an open page

function page(options) {
  const window = new EventTarget();
  window.location = { href: 'http://host/' };
  const all = connected({ window, ...options });
  all.says = (keepAliveMs) => {
    all.net.answer = {
      status: 200, type: 'basic', json: async () => ({ keepAliveMs }),
    };
  };
  // only what this is about, not the questions of lost connections
  all.asked = () => all.net.asked.filter(({ method }) => method === 'GET');
  return all;
}

/** Keeps the connection up while time passes. */
async function pass({ clock, net }, ms) {
  for (let left = ms; left > 0; left -= 10000) {
    await clock.tick(Math.min(left, 10000));
    const { last } = net.socket;
    if (last && last.method === 'rpc.ping') net.socket.reply(null);
    await turn();
  }
}

test('it asks for the period once, and then in it', async () => {
  const all = page();
  all.says(1800000);
  await pass(all, 20000);
  assert.equal(all.asked().length, 1);
  const [{ url, headers, credentials, redirect }] = all.asked();
  assert.deepEqual({ url, headers, credentials, redirect }, {
    url: 'http://host/api',
    headers: { Accept: 'application/vnd.cp-wsrpc.session+json' },
    credentials: 'include',
    redirect: 'manual',
  });
  await pass(all, 1700000);
  assert.equal(all.asked().length, 1);
  await pass(all, 1900000);
  assert.equal(all.asked().length, 3);
});

test('where there is no session it does not ask again', async () => {
  for (const answer of [0, 426, 404, 'no json']) {
    const all = page();
    all.says(answer);
    if (answer) {
      all.net.answer = answer === 'no json' ? {
        status: 200, type: 'basic', json: async () => JSON.parse('<'),
      } : answer;
    }
    await pass(all, 20000);
    assert.equal(all.asked().length, 1);
    await pass(all, 4000000);
    assert.equal(all.asked().length, 1);
    all.rpc.reconnect(); // after a login there may be one
    all.net.socket.open();
    await pass(all, 20000);
    assert.equal(all.asked().length, 2);
  }
});

test('an answer that cannot be had is asked for each minute', async () => {
  const all = page();
  all.net.answer = new TypeError('no network, or another origin');
  await pass(all, 20000);
  await pass(all, 180000);
  assert.equal(all.asked().length, 4);
});

test('the option sets the period, and 0 ends it', async () => {
  const never = page({ keepAliveMs: 0 });
  await pass(never, 4000000);
  assert.equal(never.asked().length, 0);
  const often = page({ keepAliveMs: 60000 });
  often.says(0);
  await pass(often, 180000);
  assert.equal(often.asked().length, 3);
  assert.throws(() => makeClient({ keepAliveMs: -1 }), TypeError);
});

test('no page, no cookie: a program does not ask', async () => {
  const all = connected();
  await pass(all, 4000000);
  assert.equal(all.net.asked.length, 0);
});

test('without a connection nobody asks', async () => {
  const all = page();
  all.says(60000);
  await pass(all, 20000);
  all.rpc.close();
  await all.clock.tick(4000000);
  assert.equal(all.asked().length, 1);
  assert.equal(all.clock.pending, 0);
});
