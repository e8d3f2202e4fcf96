import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  FakeClock, WSRPC, connected, fate, listenToConsole, makeClient, turn,
} from './fakes.mjs';

/** Writes down all close events. */
function closes(rpc) {
  const seen = [];
  rpc.addEventListener('onclose', (loss) => seen.push(loss));
  return seen;
}

test('states: one table, told by onchange', async () => {
  const { rpc, clock, net } = makeClient();
  const seen = [];
  rpc.addEventListener('onchange', (state) => seen.push(state));
  assert.equal(rpc.state(), 'new');
  rpc.connect();
  net.socket.open();
  net.socket.drop();
  await clock.tick(500);
  net.socket.open();
  rpc.close();
  rpc.connect();
  rpc.destroy();
  assert.deepEqual(seen, ['connecting', 'open', 'waiting', 'connecting',
    'open', 'closed', 'connecting', 'destroyed']);
  assert.equal(rpc.state(), 'destroyed');
});

test('connect() is idempotent, and makes a waiting attempt now', async () => {
  const { rpc, net } = makeClient();
  rpc.connect();
  rpc.connect();
  net.socket.open();
  rpc.connect();
  assert.equal(net.sockets.length, 1);
  net.socket.drop(1006);
  rpc.connect();
  assert.equal(net.sockets.length, 2);
});

// protocol.md, section 5. random() is 0.5, reconnectDelayMs 1000.
const NO = null;
const CLOSE_CODES = [
  [1000, NO], [1008, NO], [4400, NO], [4403, NO],
  [1001, 2500], [1012, 2500],
  [1013, 12500], [4429, 12500],
  [1006, 500], [1009, 500], [1011, 500], [4408, 500], [1005, 500],
  [3999, 500], [1002, 500], [1003, 500], [1007, 500],
];
for (const [code, delayMs] of CLOSE_CODES) {
  test(`close code ${code}: ${delayMs === NO ? 'the end' : `${delayMs} ms`}`,
    async () => {
      const { rpc, clock, net } = connected();
      const seen = closes(rpc);
      net.socket.drop(code, 'because');
      await turn();
      assert.deepEqual(seen, [{
        code, reason: 'because', status: null, willReconnectInMs: delayMs,
      }]);
      assert.equal(rpc.state(), delayMs === NO ? 'closed' : 'waiting');
      await clock.tick((delayMs || 600000) - 1);
      assert.equal(net.sockets.length, 1);
      await clock.tick(1);
      assert.equal(net.sockets.length, delayMs === NO ? 1 : 2);
      if (delayMs === NO) {
        rpc.connect();
        net.socket.open();
        assert.equal(rpc.state(), 'open');
      }
      assert.equal(net.asked.length, 0);
    });
}

for (const code of [1002, 1003, 1007]) {
  test(`${code} three times in a row is the end`, async () => {
    const { rpc, clock, net } = connected();
    for (const state of ['waiting', 'waiting', 'closed']) {
      net.socket.drop(code);
      assert.equal(rpc.state(), state);
      await clock.tick(30000);
      if (state === 'waiting') net.socket.open();
    }
    rpc.connect(); // begins to count anew
    net.socket.open();
    net.socket.drop(code);
    assert.equal(rpc.state(), 'waiting');
  });
}

test('a row of protocol errors is broken by another end or a long hold',
  async () => {
    const { rpc, clock, net } = connected();
    for (const code of [1002, 1002, 1006, 1002, 1002]) {
      net.socket.drop(code);
      await clock.tick(30000);
      net.socket.open();
    }
    await clock.tick(30000);
    net.socket.drop(1002);
    assert.equal(rpc.state(), 'waiting');
  });

test('back-off: full jitter under min(30 s, base * 2^n)', async () => {
  for (const [random, delays] of [
    [0.5, [500, 1000, 2000, 4000, 8000, 15000, 15000]],
    [0, [0, 0, 0]],
    [0.999999, [1000, 2000, 4000, 8000, 16000, 30000, 30000]],
  ]) {
    const clock = new FakeClock();
    clock.random = () => random;
    const { rpc, net } = connected({ clock });
    const seen = closes(rpc);
    for (const delayMs of delays) {
      net.socket.drop(1006);
      await turn();
      assert.equal(Math.round(seen.at(-1).willReconnectInMs), delayMs);
      await clock.tick(delayMs + 1);
    }
  }
});

test('a number is the base; less than 100 ms counts as 100', (t) => {
  const sockets = [];
  globalThis.WebSocket = function WebSocket() { sockets.push(this); };
  t.after(() => { delete globalThis.WebSocket; });
  t.mock.method(Math, 'random', () => 0.5);
  for (const [given, delayMs] of [[5000, 2500], [0, 50], [99, 50],
    [undefined, 500]]) {
    const rpc = WSRPC('ws://h/', given);
    const seen = closes(rpc);
    rpc.connect();
    sockets.at(-1).onopen({});
    sockets.at(-1).onclose({ code: 1006, reason: '' });
    assert.equal(seen[0].willReconnectInMs, delayMs);
    rpc.destroy();
  }
});

test('n falls back only after the connection held 30 s (46)', async () => {
  const { rpc, clock, net } = connected();
  const seen = closes(rpc);
  for (const [heldMs, delayMs] of [
    [0, 500], [29999, 1000], [29999, 2000], [30000, 500], [0, 1000]]) {
    await clock.tick(heldMs);
    net.socket.drop(1006);
    assert.equal(seen.at(-1).willReconnectInMs, delayMs);
    await clock.tick(delayMs);
    net.socket.open();
  }
});

// A handshake that was refused shows as 1006; the endpoint is asked.
const redirected = { status: 0, type: 'opaqueredirect' };
const ANSWERS = [
  // answer, code, status, goes on, reason
  [426, 1006, 426, true, /proxy dropping/],
  [401, 4401, 401, false, /not signed in/],
  [redirected, 4401, 0, false, /redirects/],
  [{ status: 303, type: 'basic' }, 4401, 303, false, /redirects/],
  [403, 4403, 403, false, /log/],
  [404, 4403, 404, false, /not at this URL/],
  [503, 1006, 503, true, /503/],
  [500, 1006, 500, true, /500/],
  [200, 1006, 200, true, /200/],
  [new TypeError('network'), 1006, null, true, /^$/],
];
for (const [answer, code, status, goesOn, reason] of ANSWERS) {
  const title = answer.type || answer.message || answer;
  test(`a refused handshake, the endpoint answers ${title}: ${code}`,
    async () => {
      const { rpc, clock, net } = makeClient();
      const seen = closes(rpc);
      const errors = [];
      rpc.addEventListener('onerror', (error) => errors.push(error));
      net.answer = answer;
      rpc.connect();
      net.socket.drop(1006);
      await turn();
      assert.equal(seen.length, 1);
      assert.equal(seen[0].code, code);
      assert.equal(seen[0].status, status);
      assert.match(seen[0].reason, reason);
      assert.equal(seen[0].willReconnectInMs, goesOn ? 500 : null);
      assert.equal(rpc.state(), goesOn ? 'waiting' : 'closed');
      assert.ok(errors[0] instanceof WSRPC.ConnectionLostError);
      assert.equal(errors[0].code, code);
      await clock.tick(goesOn ? 500 : 600000);
      assert.equal(net.sockets.length, goesOn ? 2 : 1);
    });
}

test('how the endpoint is asked', async () => {
  const { rpc, net } = makeClient({}, 'wss://ada:pw@host/api?x=1#top');
  let isCancelled = false;
  const body = {
    async cancel() {
      isCancelled = true;
      throw new Error('of no interest');
    },
  };
  net.answer = { status: 426, type: 'basic', body };
  rpc.connect();
  net.socket.drop(1006);
  await turn();
  const { signal, ...init } = net.asked[0];
  assert.deepEqual(init, {
    url: 'https://host/api?x=1',
    method: 'POST',
    headers: { Accept: 'application/vnd.cp-wsrpc.probe+json' },
    redirect: 'manual',
    credentials: 'include',
    cache: 'no-store',
  });
  assert.equal(signal.aborted, false);
  assert.equal(isCancelled, true); // its connection is free again
});

test('a connection that was open is not asked about', async () => {
  const { net } = connected();
  net.socket.drop(1006);
  await turn();
  assert.equal(net.asked.length, 0);
});

test('an endpoint that does not answer within 10 s is asked later',
  async () => {
    const fetch = (url, { signal }) => new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(new Error('aborted')));
    });
    const { rpc, clock, net } = makeClient({ fetch });
    const seen = closes(rpc);
    rpc.connect();
    net.socket.drop(1006);
    await clock.tick(9999);
    assert.deepEqual([rpc.state(), seen.length], ['waiting', 0]);
    await clock.tick(1);
    assert.equal(seen[0].willReconnectInMs, 500);
  });

test('without fetch a refused handshake backs off', async () => {
  const fetch = () => { throw new Error('none'); };
  const { rpc, net } = makeClient({ fetch });
  const seen = closes(rpc);
  rpc.connect();
  net.socket.drop(1006);
  await turn();
  assert.equal(seen[0].willReconnectInMs, 500);
});

for (const [answer, code, goesOn, reason] of [
  [426, 4401, true, 'signed out'], [401, 4401, false, 'signed out'],
  [redirected, 4401, false, 'signed out'],
  [403, 4403, false, /answers 403/], [404, 4403, false, /answers 404/],
  [503, 4401, false, 'signed out'],
  [new Error('network'), 4401, false, 'signed out'],
]) {
  test(`4401 on an open connection, the endpoint answers ${
    answer.type || answer.message || answer}`, async () => {
    const { rpc, clock, net } = connected();
    const seen = closes(rpc);
    net.answer = answer;
    net.socket.drop(4401, 'signed out');
    await turn();
    assert.equal(net.asked.length, 1);
    assert.equal(seen[0].code, code);
    assert.match(seen[0].reason, new RegExp(reason));
    assert.equal(seen[0].willReconnectInMs, goesOn ? 500 : null);
    await clock.tick(600);
    assert.equal(net.sockets.length, goesOn ? 2 : 1);
  });
}

test('4401 again and again, though the endpoint lets in: three times',
  async () => {
    const { rpc, clock, net } = connected();
    for (const state of ['waiting', 'waiting', 'closed']) {
      net.socket.drop(4401);
      await turn();
      assert.equal(rpc.state(), state);
      await clock.tick(4000);
      if (state === 'waiting') net.socket.open();
    }
  });

test('connect(), close() and destroy() overtake the question', async () => {
  for (const [act, state] of [['connect', 'connecting'],
    ['close', 'closed'], ['destroy', 'destroyed']]) {
    const { rpc, net, clock } = makeClient();
    let answer;
    net.answer = new Promise((resolve) => { answer = resolve; });
    rpc.connect();
    net.socket.drop(1006);
    rpc[act]();
    assert.equal(net.asked[0].signal.aborted, true);
    answer(403);
    await turn();
    assert.equal(rpc.state(), state);
    if (act !== 'connect') assert.equal(clock.pending, 0);
  }
});

test('a handshake that does not end within 20 s has failed', async () => {
  const { rpc, clock, net } = makeClient();
  rpc.connect();
  await clock.tick(19999);
  assert.equal(rpc.state(), 'connecting');
  await clock.tick(1);
  assert.equal(rpc.state(), 'waiting');
  assert.equal(net.sockets[0].readyState, 2);
  assert.equal(net.asked.length, 1);
  net.sockets[0].onopen({}); // too late
  assert.equal(rpc.state(), 'waiting');
});

test('what an abandoned socket still says is not heard', async () => {
  const { rpc, clock, net } = connected();
  const [old] = net.sockets;
  const { onmessage, onclose } = old;
  old.drop(1006);
  await clock.tick(500);
  net.socket.open();
  const call = fate(rpc.call('f'));
  onmessage({ data: '{"id":1,"result":"foreign"}' });
  onclose({ code: 1000, reason: '' });
  await turn();
  assert.equal(call.state, 'pending');
  assert.equal(rpc.state(), 'open');
});

test('order at (re)connect: onconnect, its calls, the queue, the topics',
  async () => {
    const { rpc, clock, net } = makeClient();
    rpc.subscribe('news', () => {});
    rpc.call('queued').catch(() => {});
    rpc.addEventListener('onconnect', () => {
      rpc.call('login').catch(() => {});
      rpc.subscribe('more', () => {});
    });
    rpc.connect();
    net.socket.open();
    assert.deepEqual(net.socket.sent.map(({ method, params }) => [
      method, params]), [
      ['login', undefined], ['queued', undefined],
      ['rpc.subscribe', { topic: 'news', since: null }],
      ['rpc.subscribe', { topic: 'more', since: null }]]);
    net.socket.drop(1006);
    rpc.notify('waits');
    await clock.tick(500);
    net.socket.open();
    assert.deepEqual(net.socket.methods().slice(0, 2), ['login', 'waits']);
  });

test('onconnect calls go first even when the socket takes none of it',
  async () => {
    const { rpc, clock, net } = makeClient({ maxBufferedBytes: 10 });
    rpc.call('queued').catch(() => {});
    rpc.addEventListener('connect', () => {
      rpc.call('login').catch(() => {});
    });
    rpc.connect();
    net.socket.bufferedAmount = 10;
    net.socket.open();
    assert.equal(rpc.stats.queued, 2);
    net.socket.bufferedAmount = 0;
    await clock.tick(50);
    assert.deepEqual(net.socket.methods(), ['login', 'queued']);
  });

test('a listener that ends the connection in onconnect', async () => {
  for (const [act, state] of [['close', 'closed'],
    ['destroy', 'destroyed']]) {
    const { rpc, net, clock } = makeClient();
    const queued = fate(rpc.call('queued'));
    rpc.addEventListener('connect', () => rpc[act]());
    rpc.connect();
    net.socket.open();
    await turn();
    assert.equal(rpc.state(), state);
    assert.equal(queued.error.maybeExecuted, false);
    assert.deepEqual(net.socket.texts, []);
    assert.equal(rpc.stats.queued, 0);
    assert.equal(clock.pending, 0);
  }
});

test('close(): told to the peer, no reconnect, all rejected', async () => {
  const { rpc, clock, net } = connected();
  const seen = closes(rpc);
  const sent = fate(rpc.call('f'));
  rpc.close(4001, 'é'.repeat(100));
  await turn();
  assert.deepEqual(net.socket.closedWith,
    { code: 4001, reason: 'é'.repeat(61) });
  assert.equal(seen[0].code, 4001);
  assert.equal(seen[0].willReconnectInMs, null);
  assert.equal(sent.error.maybeExecuted, true);
  await clock.tick(100000);
  assert.equal(net.sockets.length, 1);
  assert.equal(clock.pending, 0);
  for (const code of [999, 1001, 1006, 2999, 5000]) {
    assert.throws(() => rpc.close(code), RangeError);
  }
});

test('destroy() ends everything, whatever the state', async () => {
  for (const reach of [
    () => {},
    ({ rpc }) => rpc.connect(),
    ({ rpc, net }) => { rpc.connect(); net.socket.open(); },
    ({ rpc, net }) => {
      rpc.connect();
      net.socket.open();
      net.socket.drop(1006);
    },
    ({ rpc }) => rpc.close(),
  ]) {
    const client = makeClient();
    const { rpc, clock, net } = client;
    const before = fate(rpc.call('f'));
    rpc.subscribe('news', () => {});
    reach(client);
    const sockets = net.sockets.length;
    rpc.destroy();
    rpc.destroy();
    await clock.tick(600000);
    assert.equal(rpc.state(), 'destroyed');
    assert.deepEqual([before.state, before.times], ['rejected', 1]);
    assert.equal(clock.pending, 0);
    assert.equal(net.sockets.length, sockets);
    await assert.rejects(rpc.call('g'), WSRPC.ConnectionLostError);
    assert.equal(rpc.notify('g'), false);
    assert.throws(() => rpc.connect(), /after destroy/);
    assert.throws(() => rpc.subscribe('t', () => {}), /after destroy/);
  }
});

test('destroy() in any listener is survived', async () => {
  for (const name of ['onchange', 'onconnect', 'onclose', 'onframe',
    'onerror']) {
    const { rpc, net, clock } = makeClient();
    rpc.addEventListener(name, () => rpc.destroy());
    const call = fate(rpc.call('f'));
    rpc.connect();
    for (const act of ['open', 'drop']) {
      if (rpc.state() !== 'destroyed') net.socket[act]();
      await turn();
    }
    if (rpc.state() !== 'destroyed') {
      await clock.tick(500);
      net.socket.drop();
      await turn();
    }
    assert.equal(rpc.state(), 'destroyed', name);
    assert.deepEqual([call.times, clock.pending], [1, 0], name);
  }
});

test('connect() in onclose and onerror begins at once, and once',
  async () => {
    for (const name of ['onclose', 'onerror']) {
      const { rpc, net, clock } = makeClient();
      rpc.onEvent(name, () => rpc.connect());
      rpc.connect();
      net.socket.drop();
      await turn();
      assert.equal(rpc.state(), 'connecting');
      net.socket.open();
      await clock.tick(30000);
      assert.equal(net.sockets.length, 2);
    }
  });

test('onchange may take over at every step', async () => {
  const { rpc, net, clock } = makeClient();
  const seen = closes(rpc);
  const acts = new Map([['waiting', 'connect'], ['open', 'close']]);
  let connects = 0;
  rpc.addEventListener('onconnect', () => { connects += 1; });
  rpc.addEventListener('onchange', (state) => {
    const act = acts.get(state);
    if (act) rpc[act]();
  });
  rpc.connect();
  net.socket.drop(); // waiting: connect
  await clock.tick(1000);
  assert.deepEqual([rpc.state(), net.sockets.length], ['connecting', 2]);
  assert.equal(net.asked.length, 0);
  net.socket.open(); // open: close
  assert.deepEqual([rpc.state(), connects], ['closed', 0]);
  assert.deepEqual(seen.map(({ code }) => code), [1000]);
  acts.set('connecting', 'close');
  rpc.connect();
  assert.deepEqual([rpc.state(), net.sockets.length], ['closed', 2]);
  acts.delete('connecting');
  acts.delete('open');
  acts.set('closed', 'connect');
  rpc.connect();
  net.socket.open();
  rpc.close(); // closed: connect
  assert.equal(rpc.state(), 'connecting');
  assert.equal(seen.length, 2); // the close that was overtaken is not told
  assert.equal(clock.pending, 1); // the limit of the handshake
});

test('close() before connect(): no event, there was no connection',
  async () => {
    const { rpc } = makeClient();
    const seen = closes(rpc);
    const call = fate(rpc.call('f'));
    rpc.close();
    await turn();
    assert.equal(rpc.state(), 'closed');
    assert.equal(call.state, 'rejected');
    assert.deepEqual(seen, []);
  });

test('what comes after a listener of its frame has closed is not heard',
  async () => {
    const { rpc, net } = connected();
    let count = 0;
    rpc.addRoute('f', () => { count += 1; });
    rpc.addEventListener('onframe', () => rpc.close());
    net.socket.say({ method: 'f' });
    await turn();
    assert.equal(count, 0);
  });

test('a transport that cannot be made is told, and is the end', async () => {
  class WebSocket { constructor() { throw new Error('SecurityError'); } }
  const { rpc, clock } = makeClient({ WebSocket });
  const errors = [];
  rpc.addEventListener('onerror', (error) => errors.push(error));
  const call = fate(rpc.call('f'));
  rpc.connect();
  await turn();
  assert.equal(rpc.state(), 'closed');
  assert.match(errors[0].message, /SecurityError/);
  assert.equal(call.error.maybeExecuted, false);
  assert.equal(clock.pending, 0);
});

test('subprotocols are offered only when given', () => {
  const { net } = connected();
  assert.equal(net.socket.protocols, undefined);
  const other = connected({ protocols: 'jsonrpc' });
  assert.deepEqual(other.net.socket.protocols, ['jsonrpc']);
});

// ------------------------------------------------------------- liveness

test('45 s of silence: a probe; 15 s without a word: lost', async () => {
  const { rpc, clock, net } = connected();
  const seen = closes(rpc);
  await clock.tick(30000);
  net.socket.say({ id: 99, result: 1 }); // a sign of life
  await clock.tick(44999);
  assert.deepEqual(net.socket.texts, []);
  await clock.tick(1);
  assert.deepEqual(net.socket.methods(), ['rpc.ping']);
  await clock.tick(14999);
  assert.equal(rpc.state(), 'open');
  await clock.tick(1);
  assert.equal(rpc.state(), 'waiting');
  assert.equal(seen[0].code, 1006);
  assert.equal(net.socket.closedWith.code, 4408);
});

test('any message answers the probe, and its own reply is known',
  async () => {
    const { rpc, clock, net } = connected();
    await clock.tick(45000);
    net.socket.reply(null);
    assert.equal(rpc.stats.unknownReplies, 0);
    await clock.tick(44999);
    assert.equal(net.socket.texts.length, 1);
    await clock.tick(1);
    assert.equal(net.socket.texts.length, 2);
    assert.equal(rpc.state(), 'open');
  });

test('a machine that slept asks again before it gives up (47)', async () => {
  const { rpc, clock, net } = connected();
  await clock.tick(45000);
  clock.sleep(3600000);
  await clock.tick(0); // the timer comes, an hour late
  assert.equal(rpc.state(), 'open');
  assert.equal(net.socket.texts.length, 2);
  net.socket.reply(null);
  await clock.tick(15000);
  assert.equal(rpc.state(), 'open');
});

test('a long upload is a sign of life', async () => {
  const { rpc, clock, net } = connected();
  net.socket.bufferedAmount = 5000;
  await clock.tick(45000);
  net.socket.bufferedAmount = 4000;
  await clock.tick(15000);
  assert.equal(rpc.state(), 'open');
  await clock.tick(15000); // and now nothing moves
  assert.equal(rpc.state(), 'waiting');
});

test('livenessMs 0: silence is no fault', async () => {
  const { rpc, clock, net } = connected({ livenessMs: 0 });
  await clock.tick(10 ** 7);
  assert.equal(rpc.state(), 'open');
  assert.equal(net.socket.texts.length, 0);
});

test('pingTimeoutMs 0: asked, and never given up', async () => {
  const { rpc, clock, net } = connected({ pingTimeoutMs: 0 });
  await clock.tick(10 ** 6);
  assert.equal(rpc.state(), 'open');
  assert.deepEqual(net.socket.methods(), ['rpc.ping']);
});

// ------------------------------------------------------------- the page

test('online: a waiting client tries at once, unless the server said when',
  async () => {
    for (const [code, hurries] of [[1006, true], [1013, false],
      [1012, false]]) {
      const window = new EventTarget();
      const { net } = connected({ window });
      net.socket.drop(code);
      window.dispatchEvent(new Event('online'));
      assert.equal(net.sockets.length, hurries ? 2 : 1);
    }
  });

test('online: an open connection is asked whether it lives', () => {
  const window = new EventTarget();
  const { net } = connected({ window });
  window.dispatchEvent(new Event('online'));
  assert.deepEqual(net.socket.methods(), ['rpc.ping']);
});

test('pagehide closes the socket, pageshow comes back, topics stay',
  async () => {
    const window = new EventTarget();
    const { rpc, clock, net } = connected({ window });
    rpc.subscribe('news', () => {});
    const call = fate(rpc.call('f'));
    window.dispatchEvent(new Event('pagehide'));
    await clock.tick(600000);
    assert.equal(net.socket.closedWith.code, 1000);
    assert.equal(call.error.maybeExecuted, true);
    assert.equal(net.sockets.length, 1);
    assert.equal(clock.pending, 0);
    window.dispatchEvent(new Event('pageshow'));
    net.socket.open();
    assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
    window.dispatchEvent(new Event('pageshow')); // a plain one: nothing
    assert.equal(net.sockets.length, 2);
  });

test('the page is not listened to before connect() and after the end',
  () => {
    const window = new EventTarget();
    const kept = new Set();
    const { addEventListener, removeEventListener } = window;
    window.addEventListener = (name, fn) => {
      kept.add(name);
      addEventListener.call(window, name, fn);
    };
    window.removeEventListener = (name, fn) => {
      kept.delete(name);
      removeEventListener.call(window, name, fn);
    };
    const { rpc } = makeClient({ window });
    assert.equal(kept.size, 0);
    rpc.connect();
    assert.deepEqual([...kept], ['online', 'pagehide', 'pageshow']);
    rpc.close();
    assert.equal(kept.size, 0);
    rpc.connect();
    rpc.destroy();
    assert.equal(kept.size, 0);
  });

// ------------------------------------------------------------ listeners

test('events: with and without on, off(), once, unknown names', async () => {
  const { rpc, net } = makeClient();
  const seen = [];
  const note = () => seen.push('note');
  const off = rpc.addEventListener('onconnect', () => seen.push('on'));
  rpc.addEventListener('connect', note);
  const once = rpc.addEventListener('connect', () => seen.push('x'));
  rpc.onEvent('onconnect', () => seen.push('once'));
  const promise = rpc.onEvent('change');
  rpc.removeEventListener('onconnect', once); // by what add returned
  rpc.connect();
  assert.equal(await promise, 'connecting');
  net.socket.open();
  assert.deepEqual(seen, ['on', 'note', 'once']);
  off();
  rpc.removeEventListener('connect', note);
  net.socket.drop();
  rpc.connect();
  net.socket.open();
  assert.equal(seen.length, 3);
  assert.throws(() => rpc.addEventListener('onopen', note),
    /no event onopen; there are onconnect/);
  assert.throws(() => rpc.addEventListener('__proto__', note), TypeError);
  assert.throws(() => rpc.addEventListener('onconnect'), TypeError);
  await assert.rejects(rpc.onEvent('nothing'), TypeError);
});

test('a listener added or taken away while an event is told', () => {
  const { rpc } = makeClient();
  const seen = [];
  let off = () => {};
  rpc.addEventListener('change', () => {
    off();
    rpc.addEventListener('change', () => seen.push('added'));
  });
  off = rpc.addEventListener('change', () => seen.push('taken away'));
  rpc.connect();
  assert.deepEqual(seen, []);
});

test('onframe shows the wire in both directions', () => {
  const { rpc, net } = connected();
  const seen = [];
  rpc.addEventListener('onframe', (frame) => seen.push(frame));
  rpc.call('f').catch(() => {});
  net.socket.say({ id: 99, result: 1 });
  assert.deepEqual(seen, [
    { direction: 'out', text: '{"jsonrpc":"2.0","id":1,"method":"f"}' },
    { direction: 'in', text: '{"id":99,"result":1}' }]);
});

test('what listeners throw goes to onerror and breaks nothing', async () => {
  const { rpc, net } = makeClient();
  const errors = [];
  rpc.addEventListener('onerror', (error) => errors.push(error.message));
  for (const name of ['onconnect', 'onchange', 'onframe', 'onclose']) {
    rpc.addEventListener(name, () => { throw new Error(name); });
    rpc.addEventListener(name, async () => { throw new Error(`a ${name}`); });
  }
  rpc.connect();
  net.socket.open();
  const call = rpc.call('f');
  net.socket.reply(1);
  assert.equal(await call, 1);
  net.socket.drop(1006);
  await turn();
  for (const name of ['onconnect', 'onchange', 'onframe', 'onclose']) {
    assert.ok(errors.includes(name) && errors.includes(`a ${name}`), name);
  }
  assert.equal(rpc.state(), 'waiting');
});

test('without onerror they go to the console; its own errors always',
  async (t) => {
    const said = listenToConsole(t);
    const { rpc, net } = makeClient();
    rpc.addEventListener('connect', () => { throw new Error('mine'); });
    rpc.connect();
    net.socket.open();
    assert.equal(said[0][2].message, 'mine');
    rpc.addEventListener('error', () => { throw new Error('worse'); });
    rpc.addEventListener('error', async () => { throw new Error('later'); });
    net.socket.raw('garbage');
    await turn();
    assert.deepEqual(said.slice(1).map(([, , error]) => error.message),
      ['worse', 'later']);
  });

test('the debug hook, and WSRPC.DEBUG', async (t) => {
  const said = [];
  const { rpc } = makeClient({ debug: (...words) => said.push(words) });
  rpc.connect();
  assert.deepEqual(said, [['state', 'connecting']]);
  const debug = t.mock.method(console, 'debug', () => {});
  makeClient().rpc.connect();
  assert.equal(debug.mock.callCount(), 0);
  WSRPC.DEBUG = true;
  makeClient().rpc.connect();
  WSRPC.DEBUG = false;
  assert.equal(debug.mock.callCount(), 1);
});
