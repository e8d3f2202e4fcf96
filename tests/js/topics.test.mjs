import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  WSRPC, connected, event, listenToConsole, makeClient, turn,
} from './fakes.mjs';

/** Subscribes and writes down what happens, in its order. */
function follow(rpc, topic = 'news') {
  const seen = [];
  const off = rpc.subscribe(topic, (data, meta) => seen.push([data, meta]), {
    onjoin: (info) => seen.push(info),
    onerror: (error) => seen.push(error),
  });
  return { seen, off };
}

const meta = (offset = null, epoch = null) => ({
  topic: 'news', offset, epoch,
});

/** Lose the connection, come back, and answer the join. */
async function comeBack({ clock, net }, reply = 's1') {
  net.socket.drop(1006);
  await clock.tick(31000);
  net.socket.open();
  if (reply !== undefined) net.socket.reply(reply);
}

test('subscribe: one request, onjoin first, then the events', () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  assert.deepEqual(net.socket.last, {
    jsonrpc: '2.0', id: 1, method: 'rpc.subscribe', params: ['news'],
  });
  net.socket.reply('s1');
  net.socket.say(event({ a: 1 }, { offset: 9 }), event(0), event(null));
  assert.deepEqual(seen, [{ recovered: null },
    [{ a: 1 }, meta(9)], [0, meta()], [null, meta()]]);
});

test('events in the same tick as the reply, or in one batch with it', () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  net.socket.say([{ id: 1, result: 's1' }, event(1), event(2)]);
  assert.deepEqual(seen.map((one) => one[0]), [undefined, 1, 2]);
});

test('events are routed by subscription, else by topic', () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  net.socket.reply('s1');
  net.socket.say(
    event(1, { topic: undefined }),
    event(2, { subscription: 'gone' }),
    event(3, { subscription: undefined }),
    event(4, { subscription: 'gone', topic: 'other' }),
  );
  assert.deepEqual(seen.slice(1).map(([data]) => data), [1, 2, 3]);
  assert.equal(rpc.stats.unknownEvents, 1);
});

test('an event as a call is delivered and answered', async () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  net.socket.reply('s1');
  net.socket.say({ ...event(1), id: 2 });
  await turn();
  assert.equal(seen.length, 2);
  assert.deepEqual(net.socket.last, { jsonrpc: '2.0', id: 2, result: null });
});

test('several listeners share one subscription on the wire', async () => {
  const { rpc, net } = connected();
  const first = follow(rpc);
  const second = follow(rpc);
  net.socket.reply('s1');
  const third = follow(rpc); // joined already: told all the same
  assert.deepEqual(third.seen, []);
  await turn();
  assert.deepEqual(third.seen, [{ recovered: null }]);
  net.socket.say(event(1));
  for (const { seen } of [first, second, third]) assert.equal(seen.length, 2);
  first.off();
  third.off();
  net.socket.say(event(2));
  assert.deepEqual([first, second, third].map(({ seen }) => seen.length),
    [2, 3, 2]);
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
  second.off();
  second.off();
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe',
    'rpc.unsubscribe']);
  assert.deepEqual(net.socket.last.params, ['s1']);
  net.socket.say(event(3));
  assert.equal(second.seen.length, 3);
});

test('a listener that comes amid a batch hears onjoin before its event',
  () => {
    const { rpc, net } = connected();
    let late;
    rpc.subscribe('news', () => { late = late || follow(rpc); });
    net.socket.reply('s1');
    net.socket.say([event(1), event(2)]);
    assert.deepEqual(late.seen, [{ recovered: null }, [2, meta()]]);
  });

test('the last one leaves while the join is in flight', () => {
  const { rpc, net } = connected();
  const { seen, off } = follow(rpc);
  off();
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
  net.socket.reply('s1');
  assert.deepEqual(net.socket.last.params, ['s1']);
  assert.equal(net.socket.last.method, 'rpc.unsubscribe');
  net.socket.say(event(1));
  assert.deepEqual(seen, []);
});

test('one leaves and another comes while the join is in flight', () => {
  const { rpc, net } = connected();
  const { off } = follow(rpc);
  off();
  const { seen } = follow(rpc);
  net.socket.reply('s1', 0);
  net.socket.say(event(1));
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
  assert.equal(seen.length, 2);
});

test('leave and join again: the old subscription is not the new one', () => {
  const { rpc, net } = connected();
  const { off } = follow(rpc);
  net.socket.reply('s1');
  off();
  const { seen } = follow(rpc);
  assert.deepEqual(net.socket.methods(),
    ['rpc.subscribe', 'rpc.unsubscribe', 'rpc.subscribe']);
  net.socket.say(event('before the join'));
  assert.deepEqual(seen, []);
  net.socket.reply('s1'); // ids belong to topics: the same one
  net.socket.say(event(1));
  assert.equal(seen.length, 2);
  off(); // of a topic that is another by now
  net.socket.say(event(2));
  assert.equal(seen.length, 3);
});

test('refused while nobody listens any more', async () => {
  const { rpc, net } = connected();
  const { seen, off } = follow(rpc);
  off();
  net.socket.refuse({ code: -32012, message: 'no' });
  assert.deepEqual(seen, []);
  const again = follow(rpc);
  net.socket.reply('s1');
  assert.equal(again.seen.length, 1);
});

test('subscriptions survive reconnects; recovered is false there',
  async () => {
    const client = connected();
    const { rpc, net } = client;
    const { seen } = follow(rpc);
    net.socket.reply('s1');
    net.socket.say(event(1, { offset: 7 }));
    await comeBack(client, 's9');
    assert.deepEqual(net.socket.sent[0].params, ['news']);
    const late = follow(rpc);
    await turn();
    // another server's offsets mean nothing here: nothing is dropped
    net.socket.say(event(2, { subscription: 's9', offset: 1 }));
    assert.deepEqual(seen, [{ recovered: null }, [1, meta(7)],
      { recovered: false }, [2, meta(1)]]);
    assert.deepEqual(late.seen[0], { recovered: null });
  });

test('the ids of a connection end with it', async () => {
  const client = connected();
  const { rpc, net } = client;
  const { seen } = follow(rpc);
  net.socket.reply('s1');
  await comeBack(client, 's9');
  net.socket.say(event(1, { topic: 'other' }));
  assert.equal(seen.length, 2);
  assert.equal(rpc.stats.unknownEvents, 1);
});

test('a full queue does not keep the client from joining', async () => {
  const { rpc, net, clock } = connected(
    { maxQueued: 1, maxBufferedBytes: 10 });
  net.socket.bufferedAmount = 10;
  rpc.call('f').catch(() => {});
  const { seen } = follow(rpc);
  net.socket.bufferedAmount = 0;
  await clock.tick(50);
  assert.deepEqual(net.socket.methods(), ['f', 'rpc.subscribe']);
  assert.deepEqual(seen, []);
});

test('left in its own onerror: not tried again', async () => {
  const { rpc, net, clock } = connected();
  const off = rpc.subscribe('news', () => {}, { onerror: () => off() });
  await clock.tick(30000); // no answer
  await clock.tick(14000);
  assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
  assert.equal(clock.pending, 1); // that of liveness
});

test('left while the connection is away: not joined again', async () => {
  const client = connected();
  const { off } = follow(client.rpc);
  client.net.socket.reply('s1');
  client.net.socket.drop(1006);
  off();
  await client.clock.tick(1000);
  client.net.socket.open();
  assert.deepEqual(client.net.socket.texts, []);
});

test('a join that was in flight is neither lost nor doubled', async () => {
  const client = connected({ maxBufferedBytes: 10 });
  const { rpc, net, clock } = client;
  const sent = follow(rpc);
  net.socket.bufferedAmount = 10;
  const queued = follow(rpc, 'more');
  net.socket.drop(1006);
  await clock.tick(500);
  net.socket.open();
  assert.deepEqual(net.socket.sent.map(({ params }) => params),
    [['news'], ['more']]);
  assert.deepEqual([...sent.seen, ...queued.seen], []);
});

test('topics outlive a final stop', () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  net.socket.reply('s1');
  net.socket.drop(4403);
  rpc.connect();
  net.socket.open();
  net.socket.reply('s1');
  assert.deepEqual(seen, [{ recovered: null }, { recovered: false }]);
});

test('a refusal goes to onerror, and is not asked again on this connection',
  async () => {
    const client = connected({ livenessMs: 0 });
    const { rpc, net, clock } = client;
    const told = [];
    rpc.addEventListener('error', (error) => told.push(error));
    const { seen } = follow(rpc);
    net.socket.refuse({ code: -32012, message: 'topic refused' });
    assert.deepEqual(told, []); // who has an onerror of his own was told
    assert.ok(seen[0] instanceof WSRPC.RPCError);
    assert.equal(seen[0].code, -32012);
    await clock.tick(600000);
    assert.equal(net.socket.texts.length, 1);
    await comeBack(client); // perhaps as another user: once more
    assert.deepEqual(seen[1], { recovered: null });
  });

test('faults that pass are tried again on the same connection', async () => {
  const busy = {
    code: -32009, message: 'busy', data: { retryable: true, executed: false },
  };
  const { rpc, net, clock } = connected();
  const { seen } = follow(rpc);
  for (let tries = 0; tries < 4; tries += 1) {
    net.socket.refuse(busy);
    await clock.tick(5000);
  }
  assert.equal(seen[0].code, -32009);
  await clock.tick(5000);
  assert.equal(net.socket.texts.length, 5);
  await clock.tick(30000); // and no answer at all
  assert.equal(seen[1].name, 'CallTimeoutError');
  await clock.tick(10000);
  net.socket.reply('s1');
  assert.deepEqual(seen[2], { recovered: null });
});

test('without onerror a refusal goes to the event onerror, once each time',
  (t) => {
    const said = listenToConsole(t);
    const { rpc, net } = connected();
    rpc.subscribe('news', () => {});
    rpc.subscribe('news', () => {});
    net.socket.refuse({ code: -32012, message: 'no' });
    assert.equal(said.length, 1);
    const errors = [];
    rpc.addEventListener('error', (error) => errors.push(error));
    rpc.subscribe('news', () => {});
    net.socket.refuse({ code: -32012, message: 'no' });
    assert.equal(errors.length, 1);
  });

test('an answer without a subscription is an error', () => {
  for (const reply of [null, 5, true, {}, [], { subscription: 1 }]) {
    const { rpc, net } = connected();
    const { seen } = follow(rpc);
    net.socket.reply(reply);
    assert.match(seen[0].message, /without a subscription/);
  }
});

test('what subscribers throw reaches onerror and nobody else', async () => {
  const { rpc, net } = connected();
  const errors = [];
  rpc.addEventListener('error', (error) => errors.push(error.message));
  const bad = () => { throw new Error('bad'); };
  rpc.subscribe('news', bad, { onjoin: bad });
  rpc.subscribe('news', async () => bad());
  const { seen } = follow(rpc);
  net.socket.reply('s1');
  net.socket.say(event(1));
  await turn();
  assert.equal(seen.length, 2);
  assert.deepEqual(errors, ['bad', 'bad', 'bad']);
});

test('a subscriber may end anything while it is called', () => {
  for (const act of ['close', 'destroy']) {
    const { rpc, net } = connected();
    let count = 0;
    const seen = () => {
      count += 1;
      rpc[act]();
    };
    rpc.subscribe('news', seen);
    net.socket.reply('s1');
    net.socket.say([event(1), event(2)]);
    assert.equal(count, 1);
  }
  const { rpc, net } = connected();
  const offs = [];
  const counts = [0, 0];
  for (const i of [0, 1]) {
    offs.push(rpc.subscribe('news', () => {
      counts[i] += 1;
      offs.forEach((off) => off());
    }));
  }
  net.socket.reply('s1');
  net.socket.say(event(1));
  assert.deepEqual(counts, [1, 0]);
});

test('subscribe wants a string and a function', () => {
  const { rpc } = makeClient();
  for (const args of [[], ['x'], [5, () => {}], ['x', 'y']]) {
    assert.throws(() => rpc.subscribe(...args), TypeError);
  }
});

// Servers that keep history answer with a position. What the client sends is
// `[topic]` until they do; what it does with their answer stands already.

const joined = (more) => ({
  subscription: 's1', epoch: 'A', offset: 5, recovered: null,
  publications: [], ...more,
});

test('epoch and offset reach the listener; seen offsets are dropped',
  () => {
    const { rpc, net } = connected();
    const { seen } = follow(rpc);
    net.socket.reply(joined());
    net.socket.say(event('old', { offset: 5 }), event('new', { offset: 6 }),
      event('again', { offset: 6 }), event('none'), event('x', { offset: 7 }));
    assert.deepEqual(seen, [{ recovered: null }, ['new', meta(6, 'A')],
      ['none', meta(null, 'A')], ['x', meta(7, 'A')]]);
    assert.equal(rpc.stats.duplicateEvents, 2);
  });

test('the gap: onjoin, then what was missed, each once, then live',
  async () => {
    const client = connected();
    const { rpc, net } = client;
    const { seen } = follow(rpc);
    net.socket.reply(joined());
    net.socket.say(event('six', { offset: 6 }));
    await comeBack(client, joined({
      offset: 8,
      recovered: true,
      publications: [{ offset: 6, data: 'six' }, { offset: 7, data: 'seven' },
        { offset: 8, data: 'eight' }, null, { data: 'none' }],
    }));
    net.socket.say(event('eight', { offset: 8 }), event(9, { offset: 9 }));
    assert.deepEqual(seen.slice(2), [{ recovered: true },
      ['seven', meta(7, 'A')], ['eight', meta(8, 'A')], [9, meta(9, 'A')]]);
  });

test('another epoch: its offsets begin anew, never mixed with the old',
  async () => {
    const client = connected();
    const { rpc, net } = client;
    const { seen } = follow(rpc);
    net.socket.reply(joined());
    await comeBack(client, joined(
      { epoch: 'B', offset: 0, recovered: false }));
    net.socket.say(event('b1', { offset: 1 }),
      event('c1', { offset: 1, epoch: 'C' }));
    assert.deepEqual(seen.slice(1), [{ recovered: false },
      ['b1', meta(1, 'B')], ['c1', meta(1, 'C')]]);
  });

test('an epoch without an offset, or the reverse, is no position',
  async () => {
    for (const more of [{ epoch: undefined }, { offset: undefined },
      { epoch: 5 }, { offset: '5' }]) {
      const { rpc, net } = connected();
      const { seen } = follow(rpc);
      net.socket.reply(joined(more));
      net.socket.say(event(1, { offset: 1 }), event(1, { offset: 1 }));
      assert.equal(seen.length, 3);
      assert.deepEqual(seen[1], [1, meta(1)]);
    }
  });
