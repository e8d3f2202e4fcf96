/**
 * A wire and a clock in the hand of the test: nothing happens by itself,
 * nothing waits. The wire can hold, drop and reorder; the clock only moves
 * when it is told to.
 */
import { createRequire } from 'node:module';

export const WSRPC = createRequire(import.meta.url)('../../static/wsrpc.js');

/** Lets promises that are settled reach those who wait for them. */
export const turn = () => new Promise((resolve) => { setImmediate(resolve); });

export class FakeClock {
  #time = 0;

  #timers = new Map();

  #next = 1;

  /** What random() gives: the middle of every jitter. */
  random = () => 0.5;

  now = () => this.#time;

  setTimeout = (fn, ms) => {
    const handle = this.#next;
    this.#next += 1;
    // as browsers do: beyond 31 bits it fires at once
    const delayMs = ms > 2147483647 ? 1 : ms;
    this.#timers.set(handle, { at: this.#time + delayMs, fn });
    return handle;
  };

  clearTimeout = (handle) => { this.#timers.delete(handle); };

  get pending() {
    return this.#timers.size;
  }

  /** Moves on, each timer at its own moment, promises settled after each. */
  async tick(ms) {
    const end = this.#time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end)
        .sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#time = Math.max(this.#time, due[1].at);
      due[1].fn();
      await turn();
    }
    this.#time = end;
    await turn();
  }

  /** The machine sleeps: time passes, and no timer runs in it. */
  sleep(ms) {
    this.#time += ms;
  }
}

class FakeSocket {
  readyState = 0;

  bufferedAmount = 0;

  /** @type {string[]} */
  texts = [];

  /** @type {?{code: number, reason: string}} */
  closedWith = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    if (this.readyState !== 1) throw new Error('not open');
    this.texts.push(text);
  }

  close(code, reason) {
    if (this.readyState >= 2) return;
    if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new Error(`a browser refuses close(${code})`);
    }
    if (new TextEncoder().encode(reason).length > 123) {
      throw new Error('a browser refuses a reason over 123 bytes');
    }
    this.readyState = 2;
    this.closedWith = { code, reason };
  }

  // what the other end does:

  get sent() {
    return this.texts.map((text) => JSON.parse(text));
  }

  get last() {
    return this.sent.at(-1);
  }

  methods() {
    return this.sent.map(({ method }) => method);
  }

  open() {
    this.readyState = 1;
    this.onopen({});
  }

  say(...messages) {
    for (const message of messages) this.raw(JSON.stringify(message));
  }

  raw(data) {
    this.onmessage({ data });
  }

  /** Answers the request that was sent as number `index` (or the last). */
  reply(result, index = -1) {
    const { id } = this.sent.at(index);
    this.say({ jsonrpc: '2.0', id, result });
  }

  refuse(error, index = -1) {
    const { id } = this.sent.at(index);
    this.say({ jsonrpc: '2.0', id, error });
  }

  drop(code = 1006, reason = '') {
    this.readyState = 3;
    this.onerror({});
    this.onclose({ code, reason });
  }
}

/**
 * A client on a wire of its own.
 * @returns {{rpc, clock, net}} net.socket is the newest connection,
 *   net.asked the questions by fetch, net.answer what they are answered
 */
export function makeClient(options = {}, url = 'ws://host/api') {
  const clock = options.clock || new FakeClock();
  const net = {
    sockets: [],
    asked: [],
    /** a status, a Response-like object, or an Error: no network */
    answer: 426,
    get socket() {
      return net.sockets.at(-1);
    },
  };
  function WebSocket(address, protocols) {
    const socket = new FakeSocket(address, protocols);
    net.sockets.push(socket);
    return socket;
  }
  async function fetch(address, init) {
    net.asked.push({ url: address, ...init });
    const answer = await net.answer;
    if (answer instanceof Error) throw answer;
    return typeof answer === 'number'
      ? { status: answer, type: 'basic' } : answer;
  }
  const rpc = WSRPC(url, {
    WebSocket, fetch, clock, window: new EventTarget(), ...options,
  });
  return { rpc, clock, net };
}

/** The same, connected. */
export function connected(options, url) {
  const all = makeClient(options, url);
  all.rpc.connect();
  all.net.socket.open();
  return all;
}

/** What becomes of promises, to be looked at without waiting for them. */
export function fate(promise) {
  const seen = { state: 'pending', times: 0 };
  promise.then((value) => {
    Object.assign(seen, { state: 'fulfilled', value, times: seen.times + 1 });
  }, (error) => {
    Object.assign(seen, { state: 'rejected', error, times: seen.times + 1 });
  });
  return seen;
}

/** The console, silenced and written down, while a test runs. */
export function listenToConsole(t) {
  const said = [];
  for (const level of ['warn', 'error']) {
    t.mock.method(console, level, (...words) => {
      said.push([level, ...words]);
    });
  }
  return said;
}

export const event = (result, more = {}) => ({
  jsonrpc: '2.0',
  method: 'rpc.subscription',
  params: { subscription: 's1', topic: 'news', result, ...more },
});
