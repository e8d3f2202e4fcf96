import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connected, event, turn } from './fakes.mjs';

const TOPIC = 'rpc.presence.room';
const ADA = { id: 1, name: 'ada' };

/** Follows; writes down what it is told. */
function follow(rpc, options) {
  const seen = [];
  const off = rpc.presence('room', (users, change) => {
    seen.push([users, change && change.event]);
  }, options);
  return { seen, off };
}

const joined = (offset, epoch = 'e') => ({
  subscription: 's1', epoch, offset, recovered: null, publications: [],
});
const found = (users, offset, epoch = 'e') => ({
  users: users.map((user) => ({ user, count: 1, connections: ['#1'] })),
  anonymous: 0,
  epoch,
  offset,
});
const change = (what, user, offset, epoch = 'e') => event(
  { event: what, user },
  { topic: TOPIC, offset, epoch },
);

test('who asks once', async () => {
  const { rpc, net } = connected();
  const asked = rpc.who('room');
  assert.equal(net.socket.last.method, 'rpc.who');
  assert.deepEqual(net.socket.last.params, ['room']);
  net.socket.reply(found(['ada'], 3));
  assert.equal((await asked).users[0].user, 'ada');
});

test('a list is asked for, and changes after its position kept', async () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  assert.deepEqual(net.socket.last.params, { topic: TOPIC, since: null });
  net.socket.reply(joined(2));
  assert.equal(net.socket.last.method, 'rpc.who');
  // these come before the answer, and the first is counted in there
  net.socket.say(change('join', 'bob', 3), change('join', 'eve', 4));
  assert.deepEqual(seen, []);
  net.socket.reply(found([ADA, 'bob'], 3));
  await turn();
  assert.deepEqual(seen, [[[ADA, 'bob', 'eve'], null]]);
  net.socket.say(change('leave', { ...ADA }, 5), change('join', 7, 6));
  assert.deepEqual(seen.slice(1), [
    [['bob', 'eve'], 'leave'], [['bob', 'eve', 7], 'join']]);
});

test('back again it goes on, or asks anew when something is missing',
  async () => {
    const { rpc, net, clock } = connected();
    const { seen } = follow(rpc);
    net.socket.reply(joined(0));
    net.socket.reply(found([], 0));
    await turn();
    for (const [recovered, epoch] of [[true, 'e'], [false, 'f']]) {
      net.socket.drop(1006);
      await clock.tick(31000); // eslint-disable-line no-await-in-loop
      net.socket.open();
      net.socket.reply({
        ...joined(1, epoch),
        recovered,
        publications: recovered
          ? [{ offset: 1, data: { event: 'join', user: 'ada' } }] : [],
      });
    }
    assert.equal(net.socket.last.method, 'rpc.who');
    net.socket.reply(found(['bob'], 1, 'f'));
    await turn();
    assert.deepEqual(seen, [
      [[], null], [['ada'], 'join'], [['bob'], null]]);
  });

test('an answer of another stream is asked for again', async () => {
  const { rpc, net } = connected();
  const { seen } = follow(rpc);
  net.socket.reply(joined(0));
  net.socket.say(change('join', 'ada', 1));
  net.socket.reply(found([], 0, 'f'));
  await turn();
  assert.deepEqual(seen, []);
  net.socket.reply(found(['ada'], 1));
  await turn();
  assert.deepEqual(seen, [[['ada'], null]]);
});

test('a refusal is told, a busy server asked again later', async () => {
  const { rpc, net, clock } = connected();
  const errors = [];
  const { seen } = follow(rpc, { onerror: (error) => errors.push(error) });
  net.socket.reply(joined(0));
  const asked = () => net.socket.sent.filter(
    ({ method }) => method === 'rpc.who').length;
  for (let times = 0; times < 4; times += 1) {
    net.socket.say({
      jsonrpc: '2.0',
      id: net.socket.last.id,
      error: {
        code: -32009, message: 'busy', data: { retryable: true, executed: false },
      },
    });
    await clock.tick(5000); // eslint-disable-line no-await-in-loop
  }
  await clock.tick(20000);
  assert.equal(errors.length, 1);
  assert.ok(asked() >= 5);
  net.socket.reply(found(['ada'], 0));
  await turn();
  assert.deepEqual(seen, [[['ada'], null]]);
});

test('an answer that is late or lost is asked for again', async () => {
  const { rpc, net, clock } = connected();
  const errors = [];
  const { seen } = follow(rpc, { onerror: (error) => errors.push(error.name) });
  net.socket.reply(joined(0));
  await clock.tick(46000);            // 30 s for the answer, then a pause
  assert.deepEqual(errors, ['CallTimeoutError']);
  assert.equal(net.socket.methods().filter(
    (method) => method === 'rpc.who').length, 2);
  net.socket.drop(1006);
  await clock.tick(31000);
  net.socket.open();
  net.socket.reply({ ...joined(0), recovered: true });
  assert.equal(net.socket.last.method, 'rpc.who');
  net.socket.reply(found(['ada'], 0));
  await turn();
  assert.deepEqual([seen, errors.length], [[[['ada'], null]], 1]);
});

test('after off nothing is told', async () => {
  const { rpc, net } = connected();
  const { seen, off } = follow(rpc);
  net.socket.reply(joined(0));
  off();
  net.socket.say({ jsonrpc: '2.0', id: 2, result: found(['ada'], 0) });
  await turn();
  assert.deepEqual(seen, []);
  assert.throws(() => rpc.presence('room'), TypeError);
  assert.throws(() => rpc.presence(5, () => {}), TypeError);
});
