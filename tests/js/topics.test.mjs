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
  if (reply !== null) net.socket.reply(reply);
}

test('subscribe: one request, onjoin first, then the events', () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  assert.deepEqual(net.socket.last, {
    jsonrpc: '2.0', id: 1, method: 'rpc.subscribe',
    params: { topic: 'news', since: null },
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
    assert.deepEqual(net.socket.sent[0].params,
      { topic: 'news', since: null });
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
    [{ topic: 'news', since: null }, { topic: 'more', since: null }]);
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
  net.socket.reply('s1');
  assert.deepEqual(seen[1], { recovered: null });
});

test('a join is answered however late, and leaves one subscription',
  async () => {
    const { rpc, net, clock } = connected({ timeoutMs: 1000, livenessMs: 0 });
    const { seen, off } = follow(rpc);
    await clock.tick(60000);
    assert.deepEqual(net.socket.methods(), ['rpc.subscribe']);
    net.socket.reply('s1');
    assert.deepEqual(seen, [{ recovered: null }]);
    off();
    assert.deepEqual(net.socket.methods(),
      ['rpc.subscribe', 'rpc.unsubscribe']);
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

// Servers that keep history answer with a position.

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
      ['b1', meta(1, 'B')], { recovered: false }, ['c1', meta(1, 'C')]]);
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

/** The `since` of the last rpc.subscribe. */
const sinceOf = ({ net }) => net.socket.last.params.since;

test('it comes back with the position of the last event it has seen',
  async () => {
    for (const [says, since] of [
      [[], { epoch: 'A', offset: 5 }],
      [[event(6, { offset: 6 })], { epoch: 'A', offset: 6 }],
      [[event(1, { offset: 2, epoch: 'B' })], { epoch: 'B', offset: 2 }],
    ]) {
      const client = connected();
      follow(client.rpc);
      client.net.socket.reply(joined());
      client.net.socket.say(...says);
      await comeBack(client, null);
      assert.deepEqual(sinceOf(client), since);
    }
  });

test('a topic without history: nothing to come back with', async () => {
  const client = connected();
  const { seen } = follow(client.rpc);
  const without = joined({ epoch: null, offset: null });
  client.net.socket.reply(without);
  client.net.socket.say(event('one'));
  await comeBack(client, null);
  assert.equal(sinceOf(client), null);
  client.net.socket.reply(without);
  assert.deepEqual(seen,
    [{ recovered: null }, ['one', meta()], { recovered: false }]);
});

test('a hole in the offsets, or another epoch, is told before the event',
  () => {
    for (const [more, m] of [[{ offset: 7 }, meta(7, 'A')],
      [{ offset: 6, epoch: 'B' }, meta(6, 'B')]]) {
      const { rpc, net } = connected();
      const { seen } = follow(rpc);
      net.socket.reply(joined());
      net.socket.say(event('x', more));
      assert.deepEqual(seen,
        [{ recovered: null }, { recovered: false }, ['x', m]]);
    }
  });

test('the server says that it has lost events', async () => {
  const lost = (epoch, offset) => event(undefined, {
    result: undefined, recovered: false, epoch, offset,
  });
  const client = connected();
  const { rpc, net } = client;
  const { seen } = follow(rpc);
  net.socket.reply(joined());
  net.socket.say(lost('A', 5)); // we are there already
  assert.deepEqual(seen, [{ recovered: null }]);
  net.socket.say(lost('B', 3), lost('B', 3),
    event('old', { epoch: 'B', offset: 3 }), lost(5, 5), lost('B', '4'));
  assert.deepEqual(seen.slice(1), [{ recovered: false }]);
  await comeBack(client, null);
  assert.deepEqual(sinceOf(client), { epoch: 'B', offset: 3 });
});

function followSince(rpc, since) {
  const seen = [];
  rpc.subscribe('news', (data) => seen.push(data),
    { since, onjoin: ({ recovered }) => seen.push(recovered) });
  return seen;
}

test('since: a page that was made with a state has the events after it',
  () => {
    for (const since of [{ epoch: 'A', offset: 3 }, ['A', 3]]) {
      const client = connected();
      const seen = followSince(client.rpc, since);
      assert.deepEqual(sinceOf(client), { epoch: 'A', offset: 3 });
      client.net.socket.reply(joined({
        recovered: true,
        publications: [{ offset: 4, data: 4 }, { offset: 5, data: 5 }],
      }));
      client.net.socket.say(event(5, { offset: 5 }), event(6, { offset: 6 }));
      assert.deepEqual(seen, [true, 4, 5, 6]);
    }
  });

test('since: refused, it says so, as it does where there is no history',
  () => {
    for (const reply of ['s1', joined({ recovered: false }),
      joined({ epoch: null, offset: null, recovered: false })]) {
      const client = connected();
      const seen = followSince(client.rpc, { epoch: 'A', offset: 3 });
      client.net.socket.reply(reply);
      client.net.socket.say(event(6, { offset: 6 }));
      assert.deepEqual(seen, [false, 6]);
    }
  });

test('since: several parts of a page, each is told the truth', async () => {
  const client = connected();
  const { rpc, net } = client;
  const first = followSince(rpc, ['A', 4]);
  const newer = followSince(rpc, ['A', 5]);
  const older = followSince(rpc, ['A', 3]);
  const other = followSince(rpc, ['B', 4]);
  const plain = followSince(rpc, null);
  assert.deepEqual(sinceOf(client), { epoch: 'A', offset: 4 });
  net.socket.reply(joined({
    recovered: true, offset: 6,
    publications: [{ offset: 5, data: 5 }, { offset: 6, data: 6 }],
  }));
  net.socket.say(event(7, { offset: 7 }));
  const late = [followSince(rpc, ['A', 8]), followSince(rpc, ['A', 7]),
    followSince(rpc, ['A', 6]), followSince(rpc)];
  await turn();
  net.socket.say(event(8, { offset: 8 }), event(9, { offset: 9 }));
  assert.deepEqual(first, [true, 5, 6, 7, 8, 9]);
  assert.deepEqual(newer, [true, 6, 7, 8, 9]);
  assert.deepEqual(older, [false, 5, 6, 7, 8, 9]);
  assert.deepEqual(other, [false, 5, 6, 7, 8, 9]);
  assert.deepEqual(plain, [null, 7, 8, 9]);
  assert.deepEqual(late,
    [[true, 9], [true, 8, 9], [false, 8, 9], [null, 8, 9]]);
  await comeBack(client, joined({ offset: 9, recovered: true }));
  for (const seen of [first, newer, older, other, plain, ...late]) {
    assert.equal(seen.at(-1), true);
  }
});

test('since: the truth of one is not that of another who had no position',
  async () => {
    const client = connected();
    const old = followSince(client.rpc, null);
    client.net.socket.reply('s1'); // no position: history came later
    client.net.socket.drop(1006);
    followSince(client.rpc, ['A', 5]);
    await client.clock.tick(31000);
    client.net.socket.open();
    assert.deepEqual(sinceOf(client), { epoch: 'A', offset: 5 });
    client.net.socket.reply(joined({ recovered: true }));
    assert.deepEqual(old, [null, false]);
  });

test('since must be a position', () => {
  const { rpc } = makeClient();
  for (const since of [5, 'A', {}, ['A'], [5, 'A'], { epoch: 'A' },
    { epoch: 'A', offset: 1.5 }, { epoch: 5, offset: 5 }]) {
    assert.throws(() => rpc.subscribe('news', () => {}, { since }),
      TypeError);
  }
});
