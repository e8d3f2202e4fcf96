/**
 * A page in TypeScript; checked, never run. Each `@ts-expect-error` is a
 * mistake that the types must find: where they do not, tsc fails.
 */
import WSRPC, {
  CallError, CallTimeoutError, ConnectionLostError, RPCError, WSRPC as Named,
} from '/api/wsrpc.mjs';
import type { Closed, Options, State, WSRPC as Client } from '/api/wsrpc.mjs';

const options: Options = {
  reconnectDelayMs: 5000, timeoutMs: 0, keepAliveMs: null,
  protocols: ['jsonrpc'], WebSocket,
  fetch, window, debug: console.debug,
};
const clients: Client[] = [
  WSRPC('/api', 5000), new WSRPC(), WSRPC(new URL('wss://h/api'), options),
  new Named(options), globalThis.WSRPC('/api'),
  WSRPC.servedBy(import.meta.url)(),
];
const rpc: Client = WSRPC('/api');
// @ts-expect-error unknown option
WSRPC('/api', { timeout: 5 });
// @ts-expect-error not a number of milliseconds
WSRPC('/api', '5000');

interface Sum { total: number }

export async function main(): Promise<void> {
  const none: any = await rpc.call('f');
  const sum: Sum = await rpc.call<Sum>('total.add', { n: 5 }, {
    timeoutMs: 5000, idempotencyKey: true,
  });
  const value: number = await rpc.proxy.calc.add(1, 2);
  // @ts-expect-error awaiting the proxy itself calls nothing
  rpc.proxy.then(() => 1);
  // @ts-expect-error a name is a string
  await rpc.call(5);
  // @ts-expect-error unknown option
  await rpc.call('f', [], { timeout: 5 });
  const sent: boolean = rpc.notify('seen', [sum.total, none, value]);
  const position: { epoch: string; offset: number } = await rpc.publish(
    'news', { sent });
  await rpc.publish('price', 9, { key: 'car-7' });
  // @ts-expect-error a key is a string
  await rpc.publish('price', 9, { key: 7 });
  const { users, anonymous } = await rpc.who<string>('room');
  const names: string[] = users.map(({ user }) => user);
  const away: () => void = rpc.presence<string>('room', (all, change) => {
    const joined: boolean = change !== null && change.event === 'join';
    console.log(all.concat(names), joined, anonymous);
  }, { onerror: (error) => console.log(error.message) });
  away();
  // @ts-expect-error a topic is a string
  rpc.presence(5, () => {});
  console.log(position, clients, WSRPC.endpoint, WSRPC.DEBUG);
}

const off: () => void = rpc.addRoute('whoAreYou', () => navigator.userAgent);
rpc.addRoute('add', async (a: number, b: number) => a + b);
rpc.addRoute('fail', () => { throw new RPCError(7, 'no', { a: 1 }); });
const there: boolean = rpc.deleteRoute('add');

const leave: () => void = rpc.subscribe<{ msg: string }>('news',
  (data, { topic, offset, epoch }) => {
    const words: string = data.msg + topic;
    const place: [number | null, string | null] = [offset, epoch];
    console.log(words, place, there);
  }, {
    onjoin: ({ recovered }) => {
      const known: boolean | null = recovered;
      console.log(known);
    },
    onerror: (error) => console.log(error.message),
  });

rpc.addEventListener('onconnect', () => off());
rpc.addEventListener('close', (closed: Closed) => {
  if (closed.willReconnectInMs === null) console.log(closed.status);
});
rpc.addEventListener('onchange', (state) => {
  const known: State = state;
  // @ts-expect-error no such state
  if (state === 'OPEN') leave();
  console.log(known);
});
rpc.addEventListener('frame', ({ direction, text }) => {
  const way: 'in' | 'out' = direction;
  console.log(way, text);
});
// @ts-expect-error no such event
rpc.addEventListener('onopen', () => {});
// @ts-expect-error onclose tells no number
rpc.addEventListener('onclose', (code: number) => console.log(code));
const next: Promise<Closed> = rpc.onEvent('onclose');
const once: () => void = rpc.onEvent('onerror', (error) => {
  if (error instanceof RPCError) {
    const { code, type, retryable, executed, remoteTraceback } = error;
    const said: [number, string | undefined, boolean, false | undefined,
      string | undefined] = [code, type, retryable, executed,
      remoteTraceback];
    console.log(said, error.data, error.maybeExecuted, error.stack);
  } else if (error instanceof ConnectionLostError) {
    console.log(error.code, error.reason, error.status);
  } else if (error instanceof CallTimeoutError) {
    console.log(error.timeoutMs, error.maybeExecuted);
  } else if (error instanceof WSRPC.QueueFullError) {
    const never: false = error.executed;
    console.log(never);
  } else if (error instanceof CallError && !error.maybeExecuted) {
    console.log('safe to call again');
  }
});
rpc.removeEventListener('onerror', once);
rpc.connect();
rpc.reconnect();
const { pending, queued, unknownReplies } = rpc.stats;
console.log(pending + queued + unknownReplies, rpc.url, next);
rpc.close(4000, 'done');
rpc.destroy();
