/**
 * WSRPC: call the functions of a CherryPy server, let it call yours, and
 * follow its topics, over one WebSocket that comes back by itself.
 *
 *   const rpc = WSRPC('/api', 5000);
 *   rpc.addRoute('whoAreYou', () => navigator.userAgent);
 *   rpc.connect();
 *   await rpc.call('calc.add', [1, 2]);      // or rpc.proxy.calc.add(1, 2)
 *   const off = rpc.subscribe('news', data => show(data));
 *
 * A classic script with one global, `WSRPC`; wsrpc.mjs is the same as an ES
 * module, and CommonJS gets `module.exports`. The dialect is JSON-RPC 2.0.
 *
 * It is one long file, because it ships as it is: no build step, one request.
 * The parts, in the order in which they stand: limits, errors, arguments and
 * texts, addresses, what follows a close, timers, listeners, proxy, one call,
 * one topic, the client. None but the client touches the socket.
 *
 * Whatever is named by the wire (ids, methods, topics) is a key of a Map,
 * never of an object: a topic may be called `__proto__` and nothing happens.
 */
(function define(root) {
  'use strict';

  // ---------------------------------------------------------------- limits

  /**
   * The options and their defaults; wsrpc.d.ts says what each is for.
   * @type {import('./wsrpc.js').Options}
   */
  const DEFAULTS = {
    reconnectDelayMs: 1000,
    timeoutMs: 30000,
    connectTimeoutMs: 20000,
    livenessMs: 45000,
    pingTimeoutMs: 15000,
    maxQueued: 1000,
    maxQueuedChars: 16 * 1024 * 1024,
    maxBufferedBytes: 8 * 1024 * 1024,
    keepAliveMs: null,
    protocols: [],
  };

  /** No wait between two attempts grows past this. */
  const MAX_RECONNECT_DELAY_MS = 30000;
  /** Less would be a loop of attempts that hurts both ends. */
  const MIN_RECONNECT_DELAY_MS = 100;
  /** A connection that held this long was a good one: the back-off starts
   *  anew. Not at its opening: accept-then-kick would never back off. */
  const HELD_MS = 30000;
  const RESTART_SPREAD_MS = 5000;
  const OVERLOAD_DELAY_MS = 10000;
  const MAX_STRIKES = 3;
  const ASK_TIMEOUT_MS = 10000;
  const MAX_RETRIES = 3;
  const RETRY_DELAY_MS = 1000;
  const REJOIN_DELAY_MS = 10000;
  const WARN_UNCONNECTED_MS = 5000;
  /** Browsers have no event for "the buffer has emptied"; only while calls
   *  stand behind a full one it is looked at this often. */
  const DRAIN_POLL_MS = 50;
  /** A timer that comes this late means that the machine or the tab slept. */
  const SLEPT_MS = 5000;
  /** Beyond 2^31 - 1 ms browsers fire at once; 24 days stand for more. */
  const MAX_TIMER_MS = 2147483647;
  /** A call with an idempotency key is sent again for so long: the server
   *  keeps what came of it for 120 s. */
  const RESEND_WITHIN_MS = 100000;
  const MIN_KEY_CHARS = 16;
  const MAX_KEY_CHARS = 128;
  /** The first question how long the session lasts: in most pages, which
   *  are soon left, it never comes to that. CherryPy's shortest session
   *  lasts a minute. */
  const FIRST_KEEP_ALIVE_MS = 20000;
  const MIN_KEEP_ALIVE_MS = 1000;
  /** How often if the answer cannot be had, or read (other origins). */
  const BLIND_KEEP_ALIVE_MS = 60000;
  /** Told in a header that may go to other origins without a preflight. */
  const SESSION_TYPE = 'application/vnd.cp-wsrpc.session+json';
  const PROBE_TYPE = 'application/vnd.cp-wsrpc.probe+json';
  const MAX_ERROR_BYTES = 4096;
  const MAX_REASON_BYTES = 123;
  const MAX_BATCH = 100;
  /** Answers are not queued. A server that asks and asks and never reads
   *  is cut off when so many times `maxBufferedBytes` stand unsent. */
  const ANSWER_HEADROOM = 4;

  const OPEN = 1;
  const nothing = () => {};

  // ---------------------------------------------------------------- errors
  //
  // Error
  //   CallError              a call came to nothing; .maybeExecuted says
  //     RPCError             whether it may have run: the server refused it
  //     ConnectionLostError  the connection went, or was never there
  //     CallTimeoutError     its time was up
  //     QueueFullError       too much waits for a connection already

  class CallError extends Error {
    /**
     * @param {string} message
     * @param {boolean} maybeExecuted false: the method surely did not run,
     *   so that calling again is safe
     */
    constructor(message, maybeExecuted) {
      super(message);
      this.maybeExecuted = maybeExecuted;
    }
  }

  /** An error reply. Throw one in a route to send just this to the server. */
  class RPCError extends CallError {
    /**
     * @param {number} code JSON-RPC's, or the application's own
     * @param {string} message
     * @param {*} [data] what the server says besides
     */
    constructor(code, message, data) {
      const said = data !== null && typeof data === 'object' ? data : {};
      super(message, said.executed !== false);
      this.code = code;
      this.data = data;
      this.type = typeof said.type === 'string' ? said.type : undefined;
      this.executed = said.executed === false ? false : undefined;
      this.retryable = said.retryable === true;
      this.remoteTraceback = typeof said.traceback === 'string'
        ? said.traceback : undefined;
    }

    /** The error member of a reply; some servers put a bare value there. */
    static fromWire(error) {
      if (error === null || typeof error !== 'object') {
        return new RPCError(-32000, String(error), undefined);
      }
      const code = Number.isInteger(error.code) ? error.code : -32000;
      const message = typeof error.message === 'string'
        ? error.message : JSON.stringify(error);
      return new RPCError(code, message, error.data);
    }
  }

  class ConnectionLostError extends CallError {
    constructor(message, maybeExecuted, { code, reason, status }) {
      super(message, maybeExecuted);
      this.executed = maybeExecuted ? undefined : false;
      this.code = code;
      this.reason = reason;
      this.status = status;
    }
  }

  class CallTimeoutError extends CallError {
    constructor(name, timeoutMs, maybeExecuted) {
      super(`${name}: no answer within ${timeoutMs} ms` + (maybeExecuted
        ? '' : ' (it was not sent: there was no connection, or no room)'),
      maybeExecuted);
      this.executed = maybeExecuted ? undefined : false;
      this.timeoutMs = timeoutMs;
    }
  }

  class QueueFullError extends CallError {
    constructor(name, limit) {
      super(`${name}: ${limit} already wait for the connection`, false);
      this.executed = false;
    }
  }

  for (const kind of [CallError, RPCError, ConnectionLostError,
    CallTimeoutError, QueueFullError]) {
    // on the prototype, where Error has it: own names clutter every log
    Object.defineProperty(kind.prototype, 'name', { value: kind.name });
  }

  /**
   * Gives an error the stack of the call() that it answers: that of the
   * message handler, where it is made, would lead nowhere.
   */
  function withStackOf(origin, error) {
    const frames = String(origin.stack || '').replace(/^\w*Error\b.*\n/, '');
    error.stack = `${error.name}: ${error.message}\n${frames}`;
    return error;
  }

  /** An Error whose stack begins at the caller of `above`. */
  function originBelow(above) {
    const origin = new Error();
    if (Error.captureStackTrace) Error.captureStackTrace(origin, above);
    return origin;
  }

  // --------------------------------------------------- arguments and texts

  /** Kinds of objects that JSON would turn into `{}` without a word. */
  const LOST_IN_JSON = new Set([
    '[object Map]', '[object Set]', '[object WeakMap]', '[object WeakSet]',
    '[object Promise]', '[object ArrayBuffer]', '[object Blob]',
  ]);

  function isPlainObject(value) {
    if (value === null || typeof value !== 'object') return false;
    const prototype = Object.getPrototypeOf(value);
    // not `=== Object.prototype`: an iframe has another one
    return prototype === null || Object.getPrototypeOf(prototype) === null;
  }

  /**
   * What `call(name, args)` sends as params:
   *   nothing, null -> no params: f()      [1, 2] -> [1, 2]: f(1, 2)
   *   {a: 1} -> {"a": 1}: f(a=1)           5 -> [5]: f(5)
   * Objects of classes (a Date) are one value, written as JSON writes them.
   * @throws {TypeError} for what JSON cannot carry
   */
  function paramsOf(args) {
    if (args === undefined || args === null) return undefined;
    if (Array.isArray(args) || isPlainObject(args)) return args;
    const kind = Object.prototype.toString.call(args);
    if (typeof args === 'function' || typeof args === 'symbol'
        || LOST_IN_JSON.has(kind)) {
      throw new TypeError(`arguments cannot be sent as JSON: ${kind}; give `
        + 'an array, a plain object or a plain value');
    }
    return [args];
  }

  /** @throws {TypeError} for what cannot be one; `true` makes one */
  function idempotencyKeyOf(given) {
    if (given === undefined || given === null) return null;
    if (given === true) {
      // randomUUID() is for https alone
      const bytes = root.crypto.getRandomValues(new Uint8Array(16));
      return [...bytes].map((byte) => byte.toString(16).padStart(2, '0'))
        .join('');
    }
    if (typeof given !== 'string' || given.length < MIN_KEY_CHARS
        || given.length > MAX_KEY_CHARS) {
      throw new TypeError(`idempotencyKey: ${MIN_KEY_CHARS} to `
        + `${MAX_KEY_CHARS} characters, a random one, or true`);
    }
    return given;
  }

  /** The text of a request from its method on: `"method":"f","params":[1]}` */
  function requestTail(name, args, key = null) {
    if (typeof name !== 'string' || name === '') {
      throw new TypeError('the name of a method is a string, not '
        + (name === '' ? 'an empty one' : typeof name));
    }
    const params = paramsOf(args);
    const meta = key === null
      ? '}' : `,"_meta":{"idempotencyKey":${JSON.stringify(key)}}}`;
    return `"method":${JSON.stringify(name)}` + (params === undefined
      ? meta : `,"params":${JSON.stringify(params)}${meta}`);
  }

  function resultText(id, value) {
    // of a function or undefined JSON makes nothing at all
    const result = JSON.stringify(value) || 'null';
    return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${result}}`;
  }

  function errorText(id, error) {
    return JSON.stringify({ jsonrpc: '2.0', id, error });
  }

  /** The longest beginning of `text` that fits into `bytes` of UTF-8. */
  function cutToBytes(text, bytes) {
    const head = text.slice(0, bytes);
    const { read } = new TextEncoder().encodeInto(head, new Uint8Array(bytes));
    return head.slice(0, read);
  }

  /**
   * The error member for what a route has thrown, which may be anything: a
   * string, null, an object whose getters throw in turn.
   */
  function errorOf(thrown) {
    try {
      if (thrown instanceof RPCError) {
        const { code, message, data } = thrown;
        const error = { code, message, data };
        JSON.stringify(error);
        return error;
      }
      const isError = thrown instanceof Error;
      const message = String(isError ? thrown.message : thrown);
      const type = String(isError ? thrown.name : typeof thrown);
      const stack = String((isError && thrown.stack) || '');
      return {
        code: -32000,
        message: cutToBytes(message, MAX_ERROR_BYTES),
        data: {
          type: cutToBytes(type, MAX_REASON_BYTES),
          stack: cutToBytes(stack, MAX_ERROR_BYTES),
        },
      };
    } catch (unspeakable) {
      return { code: -32603, message: 'an error that cannot be described' };
    }
  }

  function applyRoute(fn, params) {
    if (params === undefined || params === null) return fn();
    return Array.isArray(params) ? fn(...params) : fn(params);
  }

  // ------------------------------------------------------------- addresses

  /** `https://host/api/wsrpc.js?v=3` -> `https://host/api`, else null. */
  function endpointOf(scriptUrl) {
    let url;
    try {
      url = new URL(scriptUrl);
    } catch (noUrl) {
      return null;
    }
    const path = url.pathname.replace(/\/wsrpc\.m?js$/, '');
    if (path === url.pathname) return null;
    // what has no authority (file:, blob:) is no endpoint
    const isServed = /^https?:$/.test(url.protocol);
    return isServed ? `${url.origin}${path || '/'}` : null;
  }

  /**
   * @param {string|URL} given absolute (ws, wss, http, https) or relative to
   *   the page
   * @returns {{socketUrl: string, httpUrl: string}} the same endpoint, for
   *   the WebSocket and for a question by fetch
   */
  function addressesOf(given) {
    const page = (root.document && root.document.baseURI)
      || (root.location && root.location.href);
    let url;
    try {
      url = new URL(given, page);
    } catch (error) {
      throw new TypeError(`not the URL of an endpoint: ${given}` + (page
        ? '' : ' (there is no page here that it could be relative to)'));
    }
    const schemes = new Map([['http:', 'ws:'], ['https:', 'wss:'],
      ['ws:', 'ws:'], ['wss:', 'wss:']]);
    if (!schemes.has(url.protocol)) {
      throw new TypeError(`not a ws, wss, http or https URL: ${given}`);
    }
    url.hash = '';
    url.protocol = schemes.get(url.protocol);
    const http = new URL(url);
    http.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
    http.username = '';
    http.password = ''; // fetch refuses URLs with credentials
    return { socketUrl: url.href, httpUrl: http.href };
  }

  // ---------------------------------------------------- what follows a close

  /** What to do next. `ask` puts the question to the endpoint first. */
  const NEXT = {
    stop: 'stop',
    ask: 'ask',
    backOff: 'backOff',
    spread: 'spread', // a restart: everybody comes back, not all at once
    overload: 'overload',
    strike: 'strike', // back off, and stop at the third in a row
  };

  /** protocol.md, section 5; what is not in it backs off. */
  const AFTER_CLOSE = new Map([
    [1000, NEXT.stop], [1008, NEXT.stop], [4400, NEXT.stop],
    [4401, NEXT.ask], [4403, NEXT.stop],
    [1001, NEXT.spread], [1012, NEXT.spread],
    [1013, NEXT.overload], [4429, NEXT.overload],
    [1006, NEXT.backOff], [1009, NEXT.backOff], [1011, NEXT.backOff],
    [4408, NEXT.backOff],
    [1002, NEXT.strike], [1003, NEXT.strike], [1007, NEXT.strike],
  ]);

  /**
   * Full jitter, so that the clients of a server that comes back do not come
   * back in step.
   * @param {string} next one of NEXT
   * @param {number} baseMs `reconnectDelayMs`
   * @param {number} failures how many times in a row it went wrong before
   * @param {() => number} random
   */
  function delayBefore(next, baseMs, failures, random) {
    const ceiling = Math.min(MAX_RECONNECT_DELAY_MS, baseMs * 2 ** failures);
    if (next === NEXT.spread) return random() * RESTART_SPREAD_MS;
    if (next === NEXT.overload) {
      return OVERLOAD_DELAY_MS + random() * Math.max(ceiling, 5000);
    }
    return random() * ceiling;
  }

  const REFUSALS = new Map([
    [401, { code: 4401, reason: 'the endpoint answers 401: not signed in' }],
    [403, { code: 4403, reason: 'the endpoint answers 403: the server\'s log '
      + 'says what is refused' }],
    [404, { code: 4403, reason: 'the endpoint answers 404: not at this URL' }],
  ]);

  /**
   * What the endpoint's answer to a POST means for the next attempt.
   * @param {?{status: number, type: string}} answer null: none came
   * @returns {{next: string, code?: number, reason?: string}}
   */
  function judgeAnswer(answer) {
    if (!answer) return { next: NEXT.backOff };
    const { status, type } = answer;
    if (type === 'opaqueredirect' || (status >= 300 && status < 400)) {
      return {
        next: NEXT.stop,
        code: 4401,
        reason: 'the endpoint redirects, most likely to a login page',
      };
    }
    if (REFUSALS.has(status)) {
      return { next: NEXT.stop, ...REFUSALS.get(status) };
    }
    return {
      next: NEXT.backOff,
      reason: status === 426
        ? 'the endpoint answers, the handshake failed: is a proxy dropping '
          + 'the Upgrade header?'
        : `the endpoint answers ${status}`,
    };
  }

  // ---------------------------------------------------------------- timers

  /** Time itself; tests put in their own. Monotonic: no jump of the wall
   *  clock ever counts as silence. */
  const SYSTEM_CLOCK = {
    now: () => performance.now(),
    wall: () => Date.now(),
    setTimeout: (fn, ms) => setTimeout(fn, ms),
    clearTimeout: (handle) => clearTimeout(handle),
    random: () => Math.random(),
  };

  /** Timers by name (or by the call or topic that they are for). */
  class Timers {
    #clock;
    #running = new Map();

    constructor(clock) {
      this.#clock = clock;
    }

    set(key, ms, fn) {
      this.clear(key);
      this.#running.set(key, this.#clock.setTimeout(() => {
        this.#running.delete(key);
        fn();
      }, Math.min(ms, MAX_TIMER_MS)));
    }

    has(key) {
      return this.#running.has(key);
    }

    clear(key) {
      if (!this.#running.has(key)) return;
      this.#clock.clearTimeout(this.#running.get(key));
      this.#running.delete(key);
    }

    clearAll() {
      for (const key of [...this.#running.keys()]) this.clear(key);
    }
  }

  // ------------------------------------------------------------- listeners

  const EVENTS = ['connect', 'close', 'error', 'change', 'frame'];

  /** The listeners of a client's events, in the order of their adding. */
  class Listeners {
    /** @type {Map<string, Set<{fn: Function, off: Function}>>} */
    #byEvent = new Map(EVENTS.map((name) => [name, new Set()]));
    #run;

    /** @param {Function} run calls a listener and survives what it throws */
    constructor(run) {
      this.#run = run;
    }

    #of(name) {
      const event = String(name).replace(/^on/, '');
      if (!this.#byEvent.has(event)) {
        throw new TypeError(`no event ${name}; there are `
          + EVENTS.map((known) => `on${known}`).join(', '));
      }
      return this.#byEvent.get(event);
    }

    add(name, fn) {
      const listeners = this.#of(name);
      if (typeof fn !== 'function') {
        throw new TypeError(`a listener is a function, not ${typeof fn}`);
      }
      const entry = { fn, off: () => { listeners.delete(entry); } };
      listeners.add(entry);
      return entry.off;
    }

    remove(name, fnOrOff) {
      const listeners = this.#of(name);
      for (const entry of [...listeners]) {
        if (entry.fn === fnOrOff || entry.off === fnOrOff) entry.off();
      }
    }

    has(name) {
      return this.#byEvent.get(name).size > 0;
    }

    emit(name, ...args) {
      const listeners = this.#byEvent.get(name);
      for (const entry of [...listeners]) {
        if (listeners.has(entry)) this.#run(name, entry.fn, ...args);
      }
    }

    clear() {
      for (const listeners of this.#byEvent.values()) listeners.clear();
    }
  }

  // ----------------------------------------------------------------- proxy

  /** What JavaScript itself asks of any object; a server's method that bears
   *  such a name is called by rpc.call(). Names with a leading underscore no
   *  server exposes. */
  const NOT_REMOTE = new Set([
    'then', 'catch', 'finally', 'toJSON', 'constructor', 'prototype',
    'valueOf', 'toLocaleString', 'hasOwnProperty', 'isPrototypeOf',
    'propertyIsEnumerable',
  ]);

  /**
   * `proxy.calc.add(1, 2)` -> `invoke('calc.add', [1, 2], <this function>)`.
   * Reading a name sends nothing, so a proxy may be awaited and logged.
   */
  function makeProxy(invoke, path) {
    const label = () => `[WSRPC proxy ${path}]`;
    return new Proxy(() => {}, {
      get(target, key) {
        if (key === 'toString' || key === Symbol.toPrimitive) return label;
        if (typeof key === 'symbol' || key.startsWith('_')
            || NOT_REMOTE.has(key)) return undefined;
        return makeProxy(invoke, path ? `${path}.${key}` : key);
      },
      apply: function callRemote(target, self, args) {
        if (!path) throw new TypeError('call rpc.proxy.<name>(...)');
        return invoke(path, args.length ? args : undefined, callRemote);
      },
      has: () => false,
      set: () => false,
      defineProperty: () => false,
    });
  }

  // -------------------------------------------------------------- one call

  /**
   * A request on its way: queued -> sent -> settled, and back to the queue
   * when the server says that it did not run it (busy, going away), or when
   * the connection is lost with a call that has an idempotency key.
   */
  class Call {
    /** The id under which it was last sent; 0: not on the wire. */
    id = 0;
    retries = 0;
    settled = false;
    expiresAt = Infinity;
    /** It was on a connection that was lost: it may have run. */
    inDoubt = false;
    /** @type {?{now: number, wall: number}} when it was first sent */
    #sentAt = null;

    /**
     * @param {string} name
     * @param {string} tail its text, from the method on: encoded when it is
     *   made, so that later changes of the arguments change nothing
     * @param {object} how
     * @param {number} how.timeoutMs 0: no limit
     * @param {boolean} [how.hasKey] it has an idempotency key
     * @param {boolean} [how.isNotification] no id, no reply
     * @param {boolean} [how.isBound] belongs to one connection and ends,
     *   silently, with it (joining a topic, asking for a sign of life)
     * @param {(value: *) => void} succeed called at most once, synchronously
     * @param {(error: Error) => void} fail
     */
    constructor(name, tail, how, succeed, fail) {
      this.name = name;
      this.tail = tail;
      this.timeoutMs = how.timeoutMs;
      this.hasKey = Boolean(how.hasKey);
      this.isNotification = Boolean(how.isNotification);
      this.isBound = Boolean(how.isBound);
      this.succeed = succeed;
      this.fail = fail;
    }

    noteSent(clock) {
      this.#sentAt ||= { now: clock.now(), wall: clock.wall?.() ?? 0 };
    }

    /** Whether the server may have forgotten the key by now. By the wall
     *  clock, too: the other one may stand still while the machine sleeps. */
    isStale(clock) {
      if (this.#sentAt === null) return false;
      const { now, wall } = this.#sentAt;
      return Math.max(clock.now() - now, (clock.wall?.() ?? 0) - wall)
        >= RESEND_WITHIN_MS;
    }

    text() {
      return this.isNotification ? `{"jsonrpc":"2.0",${this.tail}`
        : `{"jsonrpc":"2.0","id":${this.id},${this.tail}`;
    }
  }

  // ------------------------------------------------------------- one topic

  /**
   * A topic that somebody listens to, over all connections.
   *
   *   out -> joining -> in -> (connection lost) -> out
   *
   * However many listeners it has, it is one subscription on the wire.
   */
  class Topic {
    state = 'out';
    /** @type {?string} the server's name for the subscription */
    id = null;
    /** @type {?{epoch: string, offset: number}} the last event seen; epoch
     *  and offset are taken over together or not at all: an offset means
     *  nothing in another stream */
    position = null;
    /** @type {?{epoch: string, offset: number}} what the join has sent, and
     *  where we had been ourselves then: another's `since` is not for all */
    #since = null;
    #own = null;
    /** @type {Set<TopicListener>} */
    listeners = new Set();

    constructor(name) {
      this.name = name;
    }

    /** What is sent to join: where we have been, or the state with which the
     *  page was made, or null. */
    joinParams() {
      this.#own = this.position;
      this.#since = this.position;
      for (const { since } of this.listeners) this.#since ||= since;
      return { topic: this.name, since: this.#since };
    }

    /**
     * Says of a listener whether what it is to hear goes on where it has
     * been: `recovered` is what it will be told.
     * @param {boolean} recovered what the join has brought
     * @param {?{epoch: string, offset: number}} from where that begins;
     *   not null when it is recovered
     */
    #judge(listener, recovered, from) {
      const { known, since } = listener;
      if (!known && since === null) {
        listener.recovered = null;
        listener.since = this.position; // a gap is not for who is new
        return;
      }
      listener.recovered = recovered && (known ? from === this.#own
        : since.epoch === from.epoch && since.offset >= from.offset);
      if (!listener.recovered) listener.since = null;
    }

    /** One who comes when we are in. */
    admit(listener) {
      this.#judge(listener, this.position !== null, this.position);
    }

    /**
     * Takes over the reply to rpc.subscribe: an id, or, of a server that
     * keeps history, `{subscription, epoch, offset, recovered,
     * publications: [{offset, data}]}`.
     * @returns {?Array<{data: *, offset: ?number, epoch: ?string}>} the
     *   events of the gap, null when this is no such reply
     */
    adopt(reply) {
      const said = reply !== null && typeof reply === 'object'
        ? reply : { subscription: reply };
      if (typeof said.subscription !== 'string') return null;
      this.id = said.subscription;
      this.state = 'in';
      const { epoch, offset, publications } = said;
      const recovered = said.recovered === true;
      const gap = Array.isArray(publications) ? publications : [];
      let missed = [];
      if (typeof epoch !== 'string' || !Number.isSafeInteger(offset)) {
        this.position = null;
      } else {
        missed = gap.filter((event) => event !== null
            && typeof event === 'object' && Number.isSafeInteger(event.offset)
            && this.#isNew(event.offset, epoch))
          .map(({ data, offset: place }) => ({ data, offset: place, epoch }));
        this.position = { epoch, offset };
      }
      for (const listener of this.listeners) {
        this.#judge(listener, recovered, this.#since);
      }
      return missed;
    }

    /**
     * A live event.
     * @returns {?{data: *, offset: ?number, epoch: ?string, isGap: boolean}}
     *   null for one that has been seen; isGap: something is missing between
     *   the last one and this
     */
    take({ result, offset, epoch }) {
      const { position } = this;
      const known = position ? position.epoch : null;
      const stream = typeof epoch === 'string' ? epoch : known;
      if (!Number.isSafeInteger(offset)) {
        return { data: result, offset: null, epoch: stream, isGap: false };
      }
      const isGap = position !== null
        && (stream !== known || offset > position.offset + 1);
      if (!this.#isNew(offset, stream)) return null;
      return { data: result, offset, epoch: stream, isGap };
    }

    /**
     * The server has lost what came between, and goes on from a position.
     * @returns {boolean} false if we are there already
     */
    reset({ epoch, offset }) {
      return typeof epoch === 'string' && Number.isSafeInteger(offset)
        && this.#isNew(offset, epoch);
    }

    #isNew(offset, epoch) {
      if (epoch === null) return true; // no epoch: nothing to compare with
      const { position } = this;
      if (position && position.epoch === epoch && offset <= position.offset) {
        return false;
      }
      this.position = { epoch, offset };
      return true;
    }

    /** The connection has gone. */
    leave() {
      this.state = 'out';
      this.id = null;
      for (const listener of this.listeners) listener.joined = false;
    }
  }

  /** What begins the topic of another's joins and leaves. */
  const PRESENCE = 'rpc.presence.';

  /**
   * Who is on a topic: what rpc.who has said, and the changes after the
   * position of it. Changes that come before the answer wait for it.
   */
  class PresentUsers {
    /** @type {Map<string, *>} by their JSON text */
    #users = new Map();
    /** @type {?Array} what waits for the answer; null when it is there */
    #waiting = [];
    #gaveUp = false;
    #position = null;
    #turn = 0;

    get all() {
      return [...this.#users.values()];
    }

    get isLoading() {
      return this.#waiting !== null;
    }

    /** All is to be asked for anew. @returns {number} for isAt() */
    restart() {
      this.#waiting = [];
      this.#gaveUp = false;
      this.#turn += 1;
      return this.#turn;
    }

    /** Refused for good: nothing is kept before the next restart(). */
    giveUp() {
      this.#waiting = [];
      this.#gaveUp = true;
    }

    isAt(turn) {
      return turn === this.#turn;
    }

    /** @returns {boolean} false: it is of another stream, ask again */
    adopt({ users, epoch, offset }) {
      const waiting = this.#waiting;
      this.#waiting = null;
      this.#position = { epoch, offset };
      this.#users = new Map(users.map(({ user }) => [
        JSON.stringify(user), user]));
      return waiting.every(([change, meta]) => this.take(change, meta)
        !== null);
    }

    /** @returns {?boolean} whether it has changed; null: ask again */
    take(change, { epoch, offset }) {
      if (this.#waiting) {
        if (!this.#gaveUp) this.#waiting.push([change, { epoch, offset }]);
        return false;
      }
      if (epoch !== this.#position.epoch) return null;
      if (offset <= this.#position.offset) return false;
      this.#position.offset = offset;
      const key = JSON.stringify(change.user);
      if (change.event === 'join') this.#users.set(key, change.user);
      else this.#users.delete(key);
      return true;
    }
  }

  /**
   * @typedef {object} TopicListener
   * @property {Function} fn
   * @property {?Function} onjoin
   * @property {?Function} onerror
   * @property {boolean} joined told of the join on this connection
   * @property {boolean} known has ever been told of a join
   * @property {?boolean} recovered what it is to be told of this one
   * @property {?{epoch: string, offset: number}} since where its state is
   *   from: what is not after that is not for it
   */

  // ------------------------------------------------------------ the client

  /**
   * State is one attribute, changed in #enter alone along this table.
   *
   *   new         connect() was never called; calls wait, without a clock
   *   connecting  a handshake is under way
   *   open        calls go out
   *   waiting     no connection; the next attempt comes by itself
   *   closed      stopped for good; connect() begins anew
   *   destroyed   the end
   */
  const STATES = new Map([
    ['new', ['connecting', 'closed', 'destroyed']],
    ['connecting', ['open', 'waiting', 'closed', 'destroyed']],
    ['open', ['waiting', 'closed', 'destroyed']],
    ['waiting', ['connecting', 'closed', 'destroyed']],
    ['closed', ['connecting', 'destroyed']],
    ['destroyed', []],
  ]);

  class WSRPCClient {
    #addresses;
    /** @type {import('./wsrpc.js').Options} */
    #options;
    #clock;
    #debug;
    #events = new Listeners((what, fn, ...args) => {
      this.#run(what, fn, ...args);
    });
    #proxy = makeProxy((name, args, above) => (
      this.#request(name, args, {}, above)), '');

    /** @type {Map<string, Function>} */
    #routes = new Map();
    /** @type {Map<string, Topic>} */
    #topics = new Map();
    /** @type {Map<string, Topic>} those that are joined, by subscription */
    #subscriptions = new Map();

    #state = 'new';
    /** Counts up when the course of things is taken over by another event:
     *  whoever waited, or called listeners, looks whether it is still his. */
    #turn = 0;
    #socket = null;
    /** The queue of before this connection has gone out. */
    #ready = false;
    /** The server goes away: it takes no new calls on this connection. */
    #draining = false;
    #suspended = false;
    /** @type {?AbortController} of the question to the endpoint */
    #asking = null;
    #warned = false;
    /** The next attempt waits for a network, not for a server that asked. */
    #mayHurry = false;
    #failures = 0;
    #strikes = 0;
    #openedAt = 0;
    #heardAt = 0;
    /** How often the session is to be renewed, by the server's word. null:
     *  not asked yet; 0: there is none. */
    #sessionMs = null;

    #nextId = 1;
    /** @type {Set<Call>} not yet given to the socket, in order */
    #queue = new Set();
    /** @type {Set<Call>} the queue, set aside while onconnect runs */
    #held = new Set();
    #queuedChars = 0;
    /** @type {Map<number, Call>} on the wire, by id */
    #pending = new Map();
    /** @type {Set<Call>} to be tried again when their timer comes */
    #resting = new Set();

    /** @type {Timers} */
    #timers;
    /** @type {Timers} the deadlines of the calls */
    #deadlines;
    #pageListeners = [];
    #stats = {
      sent: 0,
      received: 0,
      connections: 0,
      badMessages: 0,
      unknownReplies: 0,
      unknownEvents: 0,
      unknownNotifications: 0,
      duplicateEvents: 0,
      droppedNotifications: 0,
    };

    /**
     * @param {string|URL} [url] default: the endpoint that served the script
     * @param {number|import('./wsrpc.js').Options} [options] a number is
     *   `reconnectDelayMs`
     */
    constructor(url, options) {
      if (isPlainObject(url)) return new new.target(undefined, url);
      const endpoint = url === undefined || url === null
        ? new.target.endpoint : url;
      if (!endpoint) {
        throw new TypeError('WSRPC(url): which endpoint? (only a script that '
          + 'was served as <endpoint>/wsrpc.js knows it)');
      }
      this.#addresses = addressesOf(endpoint);
      const given = typeof options === 'number'
        ? { reconnectDelayMs: options } : options;
      this.#options = checkedOptions(given);
      this.#clock = this.#options.clock || SYSTEM_CLOCK;
      this.#timers = new Timers(this.#clock);
      this.#deadlines = new Timers(this.#clock);
      this.#debug = this.#options.debug || ((...said) => {
        if (root.WSRPC && root.WSRPC.DEBUG) console.debug('WSRPC:', ...said);
      });
    }

    // ...................................................... for the page

    /** The endpoint's WebSocket URL. */
    get url() {
      return this.#addresses.socketUrl;
    }

    /** `await rpc.proxy.calc.add(1, 2)`: positional arguments, always. */
    get proxy() {
      return this.#proxy;
    }

    /** A snapshot of what was counted. */
    get stats() {
      return {
        ...this.#stats,
        queued: this.#queue.size + this.#held.size + this.#resting.size,
        pending: this.#pending.size,
      };
    }

    /** One of new, connecting, open, waiting, closed, destroyed. */
    state() {
      return this.#state;
    }

    /**
     * Begins; while it waits for its next attempt, makes it now. Once begun
     * it goes on by itself until close(), destroy() or a final refusal.
     * @throws {Error} after destroy(), and where there is no WebSocket
     */
    connect() {
      this.#refuseDestroyed('connect()');
      if (this.#state === 'open' || this.#state === 'connecting') return;
      if (!this.#transport()) {
        throw new TypeError('no WebSocket here: give one as an option, '
          + 'WSRPC(url, {WebSocket})');
      }
      if (this.#state !== 'waiting') {
        this.#failures = 0;
        this.#strikes = 0;
        this.#timers.clear('unconnected');
        for (const call of this.#queue) this.#startClock(call);
        this.#listenToPage();
      }
      this.#attempt();
    }

    /**
     * Ends the connection and makes another one, at once: after a login or
     * a logout, whose cookie only a new connection brings to the server.
     * Calls that were sent are rejected, also those with an idempotency
     * key: they were another's. Those that wait, wait on.
     * @throws {Error} as connect()
     */
    reconnect() {
      this.#refuseDestroyed('reconnect()');
      this.#sessionMs = null;
      const state = this.#state;
      if (state === 'new' || state === 'closed') {
        this.connect();
        return;
      }
      const turn = this.#takeOver();
      const loss = { code: 1000, reason: 'reconnect', status: null };
      this.#failures = 0;
      this.#strikes = 0;
      this.#timers.clear('reconnect');
      this.#dropSocket(1000, loss.reason);
      this.#endConversation(loss, 'reconnect() was called');
      for (const call of [...this.#queue].filter((one) => one.inDoubt)) {
        this.#settle(call, lostError(call, loss.reason, loss));
      }
      if (turn === this.#turn && state !== 'waiting') this.#enter('waiting');
      if (turn === this.#turn && state === 'open') {
        this.#events.emit('close', { ...loss, willReconnectInMs: 0 });
      }
      if (turn === this.#turn) this.#attempt();
    }

    /**
     * Ends the connection; connect() works again, routes and subscriptions
     * stay. Calls that wait are rejected.
     * @param {number} [code] 1000 or 3000 to 4999: a browser sends no other
     * @param {string} [reason] cut at 123 bytes
     */
    close(code = 1000, reason = '') {
      if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
        throw new RangeError(`close(${code}): 1000 or 3000 to 4999`);
      }
      if (this.#state === 'closed' || this.#state === 'destroyed') return;
      this.#stop('closed', { code, reason, status: null }, 'it was closed');
    }

    /** Ends everything for ever: all promises are settled, no timer left. */
    destroy() {
      if (this.#state === 'destroyed') return;
      const loss = { code: 1000, reason: 'destroyed', status: null };
      this.#stop('destroyed', loss, 'the client was destroyed');
      // whoever still holds the client does not hold the page through it
      this.#routes.clear();
      this.#topics.clear();
      this.#events.clear();
    }

    /**
     * Calls a method of the server.
     * @param {string} name
     * @param {*} [args] none: f(); [1, 2]: f(1, 2); {a: 1}: f(a=1); any
     *   other value: f(value); one object as a value: [{a: 1}]
     * @param {object} [options]
     * @param {number} [options.timeoutMs] 0: no limit; default the client's
     *   `timeoutMs`, counted from here, time in the queue included
     * @param {string|true} [options.idempotencyKey] the call has one effect,
     *   though it is sent again when its connection is lost, for up to 100 s.
     *   16 to 128 characters, another one for each call, best random: true
     *   makes one
     * @returns {Promise<*>} rejects with a CallError, or with a TypeError
     *   for what cannot be sent
     */
    call(name, args, options) {
      return this.#request(name, args, options || {}, this.call);
    }

    /**
     * Tells the server, which does not answer. Waits in the queue as a call.
     * @returns {boolean} false: dropped, the client is closed or its queue
     *   is full
     * @throws {TypeError} for what cannot be sent
     */
    notify(name, args) {
      const how = { timeoutMs: this.#options.timeoutMs, isNotification: true };
      let taken = true;
      const drop = (error) => {
        taken = false;
        this.#stats.droppedNotifications += 1;
        this.#debug('notification dropped', error.message);
      };
      const tail = requestTail(name, args);
      this.#take(new Call(name, tail, how, nothing, drop));
      return taken;
    }

    /**
     * Publishes on a topic that lets this client do so.
     * @param {{key?: string}} [options] key: on a topic of mode "latest",
     *   whose newest event it is
     */
    publish(topic, data, options) {
      const params = { topic, data: data === undefined ? null : data };
      const { key } = options || {};
      if (key !== undefined && key !== null) params.key = key;
      return this.#request('rpc.publish', params, {}, this.publish);
    }

    /**
     * Lets the server call `fn`: positional arguments spread, keywords as
     * one object. It may return a promise; what it throws goes back.
     * @returns {() => void} off()
     */
    addRoute(name, fn) {
      if (typeof name !== 'string' || typeof fn !== 'function') {
        throw new TypeError('addRoute(name, function)');
      }
      if (name.startsWith('rpc.') || name.startsWith('$/')) {
        throw new TypeError(`addRoute: ${name} is reserved by the protocol`);
      }
      this.#routes.set(name, fn);
      return () => {
        if (this.#routes.get(name) === fn) this.#routes.delete(name);
      };
    }

    /** @returns {boolean} whether there was one */
    deleteRoute(name) {
      return this.#routes.delete(name);
    }

    /**
     * Follows a topic, over reconnects, until off().
     * @param {string} name
     * @param {(data: *, meta: {topic: string, offset: ?number,
     *   epoch: ?string}) => void} fn
     * @param {object} [options]
     * @param {(info: {recovered: ?boolean}) => void} [options.onjoin] called
     *   at each join, before its events, and when the server has lost some.
     *   recovered: null at the first; true: all that was missed follows;
     *   false: something may have been missed, load the state anew
     * @param {?({epoch: string, offset: number} | [string, number])}
     *   [options.since] where the state is from that the page was made with:
     *   what publish() returned; the events after it follow
     * @param {(error: Error) => void} [options.onerror] the server refused;
     *   without it the event `onerror` tells
     * @returns {() => void} off()
     */
    subscribe(name, fn, options) {
      this.#refuseDestroyed('subscribe()');
      if (typeof name !== 'string' || typeof fn !== 'function') {
        throw new TypeError('subscribe(topic, function)');
      }
      const { onjoin = null, onerror = null, since } = options || {};
      const listener = { fn, onjoin, onerror, joined: false, known: false,
        recovered: null, since: checkedPosition(since) };
      const topic = this.#topics.get(name) || new Topic(name);
      this.#topics.set(name, topic);
      topic.listeners.add(listener);
      if (topic.state === 'in') {
        topic.admit(listener);
        // not at once: the caller does not hold off() yet
        queueMicrotask(() => this.#tellJoined(topic, listener));
      } else if (topic.state === 'out') {
        this.#join(topic);
      }
      return () => {
        if (topic.listeners.delete(listener)) this.#maybeLeave(topic);
      };
    }

    /**
     * Asks who is on a topic, where the server keeps presence.
     * @param {string} topic
     * @returns {Promise<{users: Array<{user: *, count: number,
     *   connections: string[]}>, anonymous: number, epoch: string,
     *   offset: number}>} each user once; the position up to which the joins
     *   and leaves on `rpc.presence.` + topic are counted in
     */
    who(topic) {
      return this.#request('rpc.who', [topic], {}, this.who);
    }

    /**
     * Follows who is on a topic, over reconnects, until off(). It makes
     * nobody appear there: that does subscribe(topic, ...).
     * @param {string} topic
     * @param {(users: Array<*>, change: ?{event: 'join' | 'leave', user: *})
     *   => void} fn called with all users, each once; at first, and whenever
     *   that has changed: change is null where the list was asked for anew
     * @param {object} [options]
     * @param {(error: Error) => void} [options.onerror] the server refused;
     *   without it the event `onerror` tells
     * @returns {() => void} off()
     */
    presence(topic, fn, options) {
      if (typeof topic !== 'string' || typeof fn !== 'function') {
        throw new TypeError('presence(topic, function)');
      }
      const { onerror = null } = options || {};
      const list = new PresentUsers();
      let ended = false;
      const tell = (change) => {
        if (!ended) this.#run('a follower of presence', fn, list.all, change);
      };
      const load = () => {
        const turn = list.restart();
        const refused = (error) => {
          if (ended || !list.isAt(turn)) return;
          // the next join asks again
          if (error instanceof ConnectionLostError) return;
          if (onerror) this.#run('onerror', onerror, error);
          else this.#report(error);
          if (!error.retryable && !(error instanceof CallTimeoutError)) {
            if (list.isAt(turn)) list.giveUp();
            return;
          }
          const delayMs = REJOIN_DELAY_MS * (0.5 + this.#clock.random());
          this.#timers.set(list, delayMs, load);
        };
        this.#timers.clear(list);
        this.who(topic).then((found) => {
          if (ended || !list.isAt(turn)) return;
          if (list.adopt(found)) tell(null);
          else load();
        }, refused);
      };
      const leave = this.subscribe(PRESENCE + topic, (change, meta) => {
        const taken = list.take(change, meta);
        if (taken === null) load();
        else if (taken) tell(change);
      }, {
        onjoin: ({ recovered }) => {
          if (recovered !== true || list.isLoading) load();
        },
        ...(onerror && { onerror }),
      });
      return () => {
        ended = true;
        this.#timers.clear(list);
        leave();
      };
    }

    /**
     * Events: onconnect (), onclose ({code, reason, status,
     * willReconnectInMs}), onerror (Error), onchange (state), onframe
     * ({direction: 'in' | 'out', text}); with or without the `on`.
     * @returns {() => void} off()
     */
    addEventListener(name, fn) {
      return this.#events.add(name, fn);
    }

    /** @param {Function} fn the listener, or the off() that it was given */
    removeEventListener(name, fn) {
      this.#events.remove(name, fn);
    }

    /**
     * The next event of this name alone.
     * @returns {Promise<*>|(() => void)} without `fn` a promise of what a
     *   listener would be given; with it, off()
     */
    onEvent(name, fn) {
      if (fn === undefined) {
        return new Promise((resolve) => { this.onEvent(name, resolve); });
      }
      if (typeof fn !== 'function') {
        throw new TypeError(`a listener is a function, not ${typeof fn}`);
      }
      const off = this.#events.add(name, (...args) => {
        off();
        return fn(...args);
      });
      return off;
    }

    // .................................... a call: queue, socket, settled

    #request(name, args, options, above) {
      const origin = originBelow(above);
      return new Promise((resolve, reject) => {
        const { timeoutMs = this.#options.timeoutMs } = options;
        checkMs('timeoutMs', timeoutMs);
        const fail = (error) => reject(withStackOf(origin, error));
        const key = idempotencyKeyOf(options.idempotencyKey);
        const tail = requestTail(name, args, key);
        const how = { timeoutMs, hasKey: key !== null };
        this.#take(new Call(name, tail, how, resolve, fail));
      });
    }

    /** Takes a new call: it will be settled, once, whatever happens. */
    #take(call) {
      const refusal = this.#refusalOf(call);
      if (refusal) {
        this.#settle(call, refusal);
        return;
      }
      if (this.#state === 'new') this.#warnUnconnected(call.name);
      else this.#startClock(call);
      this.#enqueue(call);
    }

    #refusalOf(call) {
      if (this.#state === 'closed' || this.#state === 'destroyed') {
        const loss = { code: 1000, reason: this.#state, status: null };
        return new ConnectionLostError(`${call.name}: the client is `
          + `${this.#state}` + (this.#state === 'closed'
          ? '; connect() begins anew' : ''), false, loss);
      }
      // the few of the client itself are not refused: it depends on them
      if (call.isBound) return null;
      if (this.#maySend() && !this.#queue.size) return null;
      const { maxQueued, maxQueuedChars } = this.#options;
      if (this.#queue.size + this.#held.size >= maxQueued) {
        return new QueueFullError(call.name, `${maxQueued} calls`);
      }
      if (this.#queuedChars + call.tail.length > maxQueuedChars) {
        return new QueueFullError(call.name, `${maxQueuedChars} characters`);
      }
      return null;
    }

    #warnUnconnected(name) {
      if (this.#warned) return;
      this.#warned = true;
      this.#timers.set('unconnected', WARN_UNCONNECTED_MS, () => {
        console.warn(`WSRPC: ${name} waits for connect(), which was not `
          + 'called within 5 s');
      });
    }

    #startClock(call) {
      if (!call.timeoutMs) return;
      call.expiresAt = this.#clock.now() + call.timeoutMs;
      this.#deadlines.set(call, call.timeoutMs, () => {
        this.#settle(call, new CallTimeoutError(call.name, call.timeoutMs,
          call.id !== 0 || call.inDoubt));
      });
    }

    #enqueue(call) {
      this.#queue.add(call);
      this.#queuedChars += call.tail.length;
      this.#flush();
    }

    #unqueue(call) {
      if (this.#queue.delete(call) || this.#held.delete(call)) {
        this.#queuedChars -= call.tail.length;
      }
    }

    #maySend() {
      const socket = this.#socket;
      // a closing socket swallows what it is given, without a word
      return this.#state === 'open' && !this.#draining
        && socket.readyState === OPEN
        && !(socket.bufferedAmount >= this.#options.maxBufferedBytes);
    }

    /** Gives the socket as much of the queue as it takes now. */
    #flush() {
      for (const call of this.#queue) {
        if (!this.#maySend()) break;
        this.#hand(call);
      }
      if (this.#queue.size && this.#state === 'open' && !this.#draining
          && this.#socket.readyState === OPEN) {
        this.#timers.set('drain', DRAIN_POLL_MS, () => this.#flush());
      }
    }

    #hand(call) {
      if (call.isStale(this.#clock)) {
        const loss = { code: 1006, reason: '', status: null };
        this.#settle(call, lostError(call, 'the connection was lost', loss));
        return;
      }
      this.#unqueue(call);
      if (call.hasKey) call.noteSent(this.#clock);
      if (!call.isNotification) {
        call.id = this.#nextId;
        this.#nextId += 1;
        this.#pending.set(call.id, call); // first: the answer may be quick
      }
      this.#transmit(call.text());
      if (call.isNotification) this.#settle(call, null);
    }

    #transmit(text) {
      const socket = this.#socket;
      try {
        socket.send(text);
      } catch (error) {
        if (socket === this.#socket) this.#lost(1006, String(error));
        return;
      }
      this.#stats.sent += 1;
      this.#showFrame('out', text);
    }

    #showFrame(direction, text) {
      if (!this.#events.has('frame')) return;
      this.#events.emit('frame', { direction, text });
    }

    /** The one place where a call ends. */
    #settle(call, error, value) {
      if (call.settled) return;
      this.#forget(call);
      if (error) call.fail(error);
      else call.succeed(value);
    }

    #forget(call) {
      call.settled = true;
      this.#deadlines.clear(call);
      this.#timers.clear(call);
      this.#unqueue(call);
      this.#resting.delete(call);
      this.#pending.delete(call.id);
    }

    #takeReply({ id, result, error }) {
      const call = this.#pending.get(id);
      if (!call) {
        this.#stats.unknownReplies += 1;
        // it could not read what we sent, so it cannot say which it was
        if (id === null && error) this.#report(RPCError.fromWire(error));
        return;
      }
      this.#pending.delete(id);
      call.id = 0;
      if (error === undefined || error === null) {
        this.#settle(call, null, result);
        return;
      }
      const refusal = RPCError.fromWire(error);
      if (this.#maybeRetry(call, refusal)) return;
      // this time it was not executed, or nobody knows; the first, maybe
      this.#settle(call, call.inDoubt && leavesDoubt(refusal)
        ? lostError(call, `refused when sent again (${refusal.message})`,
          { code: 1006, reason: '', status: null }) : refusal);
    }

    /** Busy and going away: not run, so it may be sent again. */
    #maybeRetry(call, { executed, retryable, code }) {
      if (executed !== false || !retryable) return false;
      // the connection lives on for the calls that run; new ones would only
      // spend their tries on it, so the queue waits for the next connection
      if (code === -32011) this.#draining = true;
      const delayMs = this.#clock.random() * RETRY_DELAY_MS
        * 2 ** call.retries;
      if (call.retries >= MAX_RETRIES
          || this.#clock.now() + delayMs >= call.expiresAt) return false;
      call.retries += 1;
      this.#resting.add(call);
      this.#timers.set(call, delayMs, () => {
        this.#resting.delete(call);
        this.#enqueue(call);
      });
      return true;
    }

    // ........................................... the course of connection

    #transport() {
      return this.#options.WebSocket || root.WebSocket;
    }

    #enter(state) {
      if (!STATES.get(this.#state).includes(state)) {
        throw new Error(`WSRPC: ${this.#state} -> ${state}`);
      }
      this.#state = state;
      this.#debug('state', state);
      this.#events.emit('change', state);
    }

    /** @returns {number} what #turn is as long as nobody else takes over */
    #takeOver() {
      if (this.#asking) this.#asking.abort();
      this.#asking = null;
      this.#turn += 1;
      return this.#turn;
    }

    #attempt() {
      const turn = this.#takeOver();
      this.#suspended = false;
      this.#timers.clear('reconnect');
      this.#enter('connecting');
      if (turn !== this.#turn) return;
      const socket = this.#openSocket();
      if (!socket) return;
      this.#socket = socket;
      // whatever an abandoned socket still says is not heard any more
      const ifCurrent = (fn) => (event) => {
        if (this.#socket === socket) fn(event);
      };
      socket.onopen = ifCurrent(() => this.#opened());
      socket.onmessage = ifCurrent(({ data }) => this.#received(data));
      socket.onclose = ifCurrent(({ code, reason }) => {
        this.#lost(code, reason);
      });
      socket.onerror = nothing; // says nothing that onclose does not say
      const { connectTimeoutMs } = this.#options;
      if (!connectTimeoutMs) return;
      this.#timers.set('connect', connectTimeoutMs, () => {
        this.#lost(1006, `no handshake within ${connectTimeoutMs} ms`);
      });
    }

    #openSocket() {
      const { protocols } = this.#options;
      const Transport = this.#transport();
      try {
        return protocols.length ? new Transport(this.url, protocols)
          : new Transport(this.url);
      } catch (error) {
        // ws: on an https page, a malformed subprotocol: as good as never
        const loss = { code: 1006, reason: String(error), status: null };
        this.#report(error);
        this.#stop('closed', loss, loss.reason);
        return null;
      }
    }

    #opened() {
      const turn = this.#turn;
      this.#timers.clear('connect');
      this.#stats.connections += 1;
      this.#openedAt = this.#clock.now();
      this.#heardAt = this.#openedAt;
      // what onconnect listeners call goes ahead of what has waited
      this.#held = this.#queue;
      this.#queue = new Set();
      this.#enter('open');
      if (turn === this.#turn) this.#events.emit('connect');
      for (const call of this.#held) this.#queue.add(call);
      this.#held = new Set();
      if (turn !== this.#turn) return;
      this.#ready = true;
      this.#flush();
      for (const topic of [...this.#topics.values()]) {
        if (topic.state === 'out') this.#join(topic);
      }
      if (turn !== this.#turn) return;
      this.#watchLiveness();
      this.#keepSession();
    }

    /** Nothing of the connection is left but what #lost makes of it. */
    #dropSocket(code, reason) {
      const socket = this.#socket;
      this.#socket = null;
      this.#ready = false;
      this.#draining = false;
      for (const timer of ['connect', 'drain', 'liveness', 'keepAlive']) {
        this.#timers.clear(timer);
      }
      if (!socket) return;
      try {
        socket.close(code, cutToBytes(reason, MAX_REASON_BYTES));
      } catch (error) {
        this.#debug('close', error);
      }
    }

    /**
     * Rejects what was sent and forgets what belonged to the connection.
     * @param {boolean} [resends] what has a key is queued again, first of all
     */
    #endConversation(loss, why, resends = false) {
      const again = [];
      for (const call of [...this.#pending.values(), ...this.#queue,
        ...this.#held, ...this.#resting]) {
        if (call.isBound) {
          this.#forget(call);
        } else if (call.id) {
          if (resends && call.hasKey && !call.isStale(this.#clock)) {
            again.push(call);
          } else {
            this.#settle(call, lostError(call, why, loss));
          }
        }
      }
      for (const call of again) {
        this.#pending.delete(call.id);
        call.id = 0;
        call.inDoubt = true;
        this.#queuedChars += call.tail.length;
      }
      if (again.length) this.#queue = new Set([...again, ...this.#queue]);
      this.#subscriptions.clear();
      for (const topic of [...this.#topics.values()]) {
        topic.leave();
        this.#maybeLeave(topic);
      }
    }

    /** @param {boolean} [isFinal] also what is in doubt */
    #rejectQueued(loss, why, isFinal = false) {
      for (const call of [...this.#queue, ...this.#held, ...this.#resting]) {
        if (!call.inDoubt) {
          this.#settle(call, new ConnectionLostError(
            `${call.name}: not sent, ${why}`, false, loss));
        } else if (isFinal || call.isStale(this.#clock)) {
          this.#settle(call, lostError(call, why, loss));
        }
      }
    }

    /**
     * The connection, or the attempt at one, has ended.
     * @param {number} code the peer's, or what stands for our own reason
     * @param {string} reason
     * @param {number} [wireCode] what the peer is told when we end it
     */
    #lost(code, reason, wireCode = 4408) {
      const turn = this.#takeOver();
      const loss = { code, reason: String(reason || ''), status: null };
      const wasOpen = this.#state === 'open';
      if (wasOpen && this.#clock.now() - this.#openedAt >= HELD_MS) {
        this.#failures = 0;
        this.#strikes = 0;
      }
      const next = AFTER_CLOSE.get(code) || NEXT.backOff;
      this.#dropSocket(wireCode, loss.reason);
      // after a 4401 who comes back may be somebody else
      this.#endConversation(loss, `the connection was lost (${code})`,
        next !== NEXT.ask);
      this.#enter('waiting');
      if (turn !== this.#turn) return;
      if (wasOpen && next !== NEXT.ask) this.#goOn(loss, next, wasOpen);
      else this.#askEndpoint(turn, loss, wasOpen);
    }

    /**
     * A browser shows every refused handshake as 1006, so the endpoint is
     * asked: by POST, whose Origin the server checks as it does the
     * upgrade's (a GET of the same origin carries none).
     */
    async #askEndpoint(turn, loss, wasOpen) {
      const answer = await this.#fetchAnswer();
      if (turn !== this.#turn) return;
      const judged = judgeAnswer(answer);
      const code = judged.code || loss.code;
      const status = answer ? answer.status : null;
      // the peer's own words, unless they were about something else
      const reason = (code === loss.code && loss.reason) || judged.reason
        || '';
      let { next } = judged;
      if (wasOpen) {
        // 4401, yet the endpoint lets us in: somebody has signed in anew.
        // A strike, so that a server that means it is not asked for ever.
        next = status === 426 ? NEXT.strike : NEXT.stop;
      }
      this.#goOn({ code, reason, status }, next, wasOpen);
    }

    /** @returns {Promise<?{status: number, type: string}>} */
    async #fetchAnswer() {
      const fetch = this.#options.fetch || root.fetch;
      if (!fetch) return null;
      const abort = new AbortController();
      this.#asking = abort;
      this.#timers.set(abort, ASK_TIMEOUT_MS, () => abort.abort());
      try {
        const { status, type, body } = await fetch(this.#addresses.httpUrl, {
          method: 'POST',
          headers: { Accept: PROBE_TYPE },
          redirect: 'manual',
          credentials: 'include', // as a WebSocket sends them
          cache: 'no-store',
          signal: abort.signal,
        });
        if (body && body.cancel) body.cancel().catch(nothing);
        return { status, type };
      } catch (error) {
        this.#debug('no answer from the endpoint', error);
        return null;
      } finally {
        this.#timers.clear(abort);
      }
    }

    /** Stops, or sets the next attempt; then tells. */
    #goOn(loss, next, wasOpen) {
      if (next === NEXT.strike) this.#strikes += 1;
      else if (wasOpen) this.#strikes = 0;
      const what = wasOpen ? 'the connection was closed' : 'no connection';
      const why = `${what} (${loss.code}${loss.reason && ` ${loss.reason}`})`;
      const isFinal = next === NEXT.stop || this.#strikes >= MAX_STRIKES;
      const turn = this.#turn;
      if (!wasOpen) {
        this.#rejectQueued(loss, why);
        this.#events.emit('error', new ConnectionLostError(why, false, loss));
        if (turn !== this.#turn) return;
      }
      if (isFinal) {
        this.#stop('closed', loss, why);
        return;
      }
      const delayMs = delayBefore(next, this.#options.reconnectDelayMs,
        this.#failures, this.#clock.random);
      this.#failures += 1;
      this.#mayHurry = next === NEXT.backOff;
      this.#timers.set('reconnect', delayMs, () => this.#attempt());
      this.#events.emit('close', { ...loss, willReconnectInMs: delayMs });
    }

    /** The end, for good or until connect(). */
    #stop(state, loss, why) {
      const turn = this.#takeOver();
      const wasActive = this.#state !== 'new' && this.#state !== 'closed';
      this.#suspended = false;
      this.#dropSocket(loss.code >= 3000 ? loss.code : 1000, loss.reason);
      this.#endConversation(loss, why);
      this.#rejectQueued(loss, why, true);
      this.#timers.clearAll();
      for (const [name, fn] of this.#pageListeners.splice(0)) {
        this.#page().removeEventListener(name, fn);
      }
      this.#enter(state);
      if (!wasActive || turn !== this.#turn) return;
      this.#events.emit('close', { ...loss, willReconnectInMs: null });
    }

    #refuseDestroyed(what) {
      if (this.#state !== 'destroyed') return;
      throw new Error(`WSRPC: ${what} after destroy()`);
    }

    // ......................................... signs of life, and the page

    /**
     * A browser shows no WebSocket pings, so silence is measured in
     * messages, and a silent server is asked before it is given up.
     */
    #watchLiveness() {
      const { livenessMs } = this.#options;
      if (!livenessMs) return;
      const silentMs = this.#clock.now() - this.#heardAt;
      const restMs = livenessMs - silentMs;
      if (restMs <= 0) {
        this.#probe();
        return;
      }
      this.#timers.set('liveness', restMs, () => this.#watchLiveness());
    }

    #probe() {
      const { pingTimeoutMs } = this.#options;
      const socket = this.#socket;
      const askedAt = this.#clock.now();
      const buffered = socket.bufferedAmount;
      this.#takeBound('rpc.ping', undefined, nothing, nothing);
      if (socket !== this.#socket || !pingTimeoutMs) return;
      this.#timers.set('liveness', pingTimeoutMs, () => {
        const lateMs = this.#clock.now() - askedAt - pingTimeoutMs;
        if (this.#heardAt >= askedAt) {
          this.#watchLiveness();
        } else if (lateMs > SLEPT_MS || socket.bufferedAmount < buffered) {
          // the timer slept, and the answer may stand behind it; or our
          // bytes still go out, and the question stands behind them
          this.#probe();
        } else {
          this.#lost(1006, 'the server does not answer');
        }
      });
    }

    #takeBound(name, args, succeed, fail,
      timeoutMs = this.#options.timeoutMs) {
      this.#take(new Call(name, requestTail(name, args),
        { timeoutMs, isBound: true }, succeed, fail));
    }

    /**
     * A page that stays open keeps its session, and the cookie, which no
     * WebSocket can renew: it asks the endpoint by GET, each half of what
     * the session lasts. How long that is stands in the first answer.
     */
    #keepSession() {
      const { keepAliveMs } = this.#options;
      const periodMs = keepAliveMs === null ? this.#sessionMs : keepAliveMs;
      const isPage = this.#page().location; // where there are cookies
      if (periodMs === 0 || (keepAliveMs === null && !isPage)) return;
      const delayMs = periodMs === null
        ? FIRST_KEEP_ALIVE_MS * (0.5 + this.#clock.random() / 2)
        : Math.max(periodMs, MIN_KEEP_ALIVE_MS);
      this.#timers.set('keepAlive', delayMs, () => this.#renewSession());
    }

    async #renewSession() {
      const socket = this.#socket;
      const fetch = this.#options.fetch || root.fetch;
      if (!fetch) return;
      const abort = new AbortController();
      this.#timers.set(abort, ASK_TIMEOUT_MS, () => abort.abort());
      try {
        const answer = await fetch(this.#addresses.httpUrl, {
          method: 'GET',
          headers: { Accept: SESSION_TYPE },
          redirect: 'manual',
          credentials: 'include',
          cache: 'no-store',
          signal: abort.signal,
        });
        const said = answer.status === 200
          ? await answer.json().catch(nothing) : null;
        // no answer of ours: there is nothing to be kept
        this.#sessionMs = said && said.keepAliveMs > 0 ? said.keepAliveMs : 0;
      } catch (error) {
        this.#debug('was the session renewed?', error);
        this.#sessionMs ||= BLIND_KEEP_ALIVE_MS;
      } finally {
        this.#timers.clear(abort);
      }
      if (socket === this.#socket) this.#keepSession();
    }

    #page() {
      return this.#options.window || root;
    }

    #listenToPage() {
      const page = this.#page();
      if (typeof page.addEventListener !== 'function') return;
      this.#pageListeners = [
        ['online', () => this.#online()],
        ['pagehide', () => this.#suspend()],
        ['pageshow', () => { if (this.#suspended) this.#attempt(); }],
      ];
      for (const [name, fn] of this.#pageListeners) {
        page.addEventListener(name, fn);
      }
    }

    /** Another network: an attempt may succeed, a connection may be dead. */
    #online() {
      if (this.#state === 'open') {
        this.#probe();
      } else if (this.#mayHurry && this.#timers.has('reconnect')) {
        this.#attempt();
      }
    }

    /**
     * The page is left, and may be kept by the browser (bfcache), which it
     * is only without an open socket. pageshow goes on.
     */
    #suspend() {
      this.#takeOver();
      const loss = { code: 1000, reason: 'page hidden', status: null };
      this.#dropSocket(1000, loss.reason);
      this.#endConversation(loss, 'the page was left', true);
      this.#timers.clear('reconnect');
      this.#suspended = true;
      if (this.#state !== 'waiting') this.#enter('waiting');
    }

    // .................................................. what the peer says

    #received(text) {
      const socket = this.#socket;
      this.#heardAt = this.#clock.now();
      this.#stats.received += 1;
      if (typeof text === 'string') this.#showFrame('in', text);
      if (socket !== this.#socket) return; // a listener has ended it
      let message;
      try {
        if (typeof text !== 'string') throw new TypeError('a binary frame');
        message = JSON.parse(text);
      } catch (error) {
        this.#refuseFrame(error);
        return;
      }
      if (Array.isArray(message)) this.#takeBatch(message, socket);
      else this.#takeMessage(message, socket);
      if (this.#queue.size) this.#flush(); // room may have come
    }

    /**
     * Not JSON: this is no endpoint of ours, or something garbles the
     * stream, and an answer may have been in it. The peer is told 4400 (bad
     * protocol); for us it is as a 1007: back off, and stop at the third.
     */
    #refuseFrame(error) {
      this.#stats.badMessages += 1;
      const reason = `the server sent no JSON: ${error.message}`;
      this.#report(new SyntaxError(reason));
      if (this.#socket) this.#lost(1007, reason, 4400);
    }

    #takeMessage(message, socket) {
      if (message !== null && typeof message === 'object') {
        if (message.method !== undefined) {
          this.#serve(message).then((text) => this.#answer(text, socket));
          return;
        }
        if (message.result !== undefined || message.error !== undefined) {
          this.#takeReply(message);
          return;
        }
      }
      this.#stats.badMessages += 1;
      this.#debug('neither request nor reply', message);
    }

    /** The replies to the requests of one batch go back as one array. */
    #takeBatch(messages, socket) {
      if (messages.length === 0 || messages.length > MAX_BATCH) {
        this.#stats.badMessages += 1;
        const error = messages.length
          ? { code: -32010, message: `more than ${MAX_BATCH} in a batch` }
          : { code: -32600, message: 'an empty batch' };
        this.#answer(errorText(null, error), socket);
        return;
      }
      const replies = [];
      for (const message of messages) {
        // a listener may have ended it all with the message before
        if (socket !== this.#socket) return;
        const isRequest = message !== null && typeof message === 'object'
          && message.method !== undefined;
        if (isRequest) replies.push(this.#serve(message));
        else this.#takeMessage(message, socket);
      }
      Promise.all(replies).then((texts) => {
        const spoken = texts.filter((text) => text !== null);
        if (spoken.length) this.#answer(`[${spoken.join(',')}]`, socket);
      });
    }

    /** An answer goes to the connection that asked, or nowhere. */
    #answer(text, socket) {
      if (text === null || socket !== this.#socket
          || socket.readyState !== OPEN) return;
      const limit = this.#options.maxBufferedBytes * ANSWER_HEADROOM;
      if (socket.bufferedAmount > limit) {
        this.#lost(4408, 'the server asks and does not read');
        return;
      }
      this.#transmit(text);
    }

    /**
     * @returns {Promise<?string>} the text of the reply, null for a
     *   notification; never rejects. Events are delivered before the first
     *   await, so that they keep their place among the other messages.
     */
    async #serve({ id, method, params }) {
      const fails = (error) => (id === undefined
        ? null : errorText(id, error));
      if (typeof method !== 'string'
          || (id !== null && typeof id === 'object')) {
        this.#stats.badMessages += 1;
        return errorText(null, { code: -32600, message: 'Invalid request' });
      }
      if (method === 'rpc.subscription') {
        this.#takeEvent(params);
        return id === undefined ? null : resultText(id, null);
      }
      // reserved names never got into the routes: see addRoute
      const route = this.#routes.get(method);
      if (!route) {
        if (id === undefined) this.#stats.unknownNotifications += 1;
        return fails({ code: -32601, message: 'Method not found' });
      }
      try {
        const value = await applyRoute(route, params);
        return id === undefined ? null : resultText(id, value);
      } catch (error) {
        this.#debug('route failed', method, error);
        return fails(errorOf(error));
      }
    }

    // .............................................................. topics

    #join(topic) {
      if (!this.#ready) return; // it will be its turn after the queue
      this.#timers.clear(topic);
      topic.state = 'joining';
      // No limit of time, it ends with the connection: the server has no
      // less subscribed us when its answer comes late.
      this.#takeBound('rpc.subscribe', topic.joinParams(),
        (reply) => this.#joined(topic, reply),
        (error) => this.#joinFailed(topic, error), 0);
    }

    #joined(topic, reply) {
      const missed = topic.adopt(reply);
      if (!missed) {
        this.#joinFailed(topic, new RPCError(-32603,
          'rpc.subscribe was answered without a subscription'));
        return;
      }
      this.#subscriptions.set(topic.id, topic);
      this.#maybeLeave(topic); // the last listener has gone meanwhile
      for (const listener of [...topic.listeners]) {
        this.#tellJoined(topic, listener);
      }
      for (const event of missed) this.#deliver(topic, event);
    }

    /**
     * One attempt for each connection (the next may have another user), but
     * for faults that pass: those are tried again on this one.
     */
    #joinFailed(topic, error) {
      topic.state = 'out';
      if (topic.listeners.size === 0) {
        this.#maybeLeave(topic);
        return;
      }
      const heard = [...topic.listeners].map(({ onerror }) => onerror);
      for (const onerror of heard.filter(Boolean)) {
        this.#run('onerror', onerror, error);
      }
      if (heard.includes(null)) this.#report(error);
      if (!error.retryable) return;
      if (topic.state !== 'out' || !topic.listeners.size || !this.#ready) {
        return;
      }
      const delayMs = REJOIN_DELAY_MS * (0.5 + this.#clock.random());
      this.#timers.set(topic, delayMs, () => this.#join(topic));
    }

    /** Lets go of a topic that nobody listens to. */
    #maybeLeave(topic) {
      if (topic.listeners.size || topic.state === 'joining') return;
      this.#topics.delete(topic.name);
      this.#timers.clear(topic);
      if (topic.state !== 'in') return;
      this.#subscriptions.delete(topic.id);
      this.#takeBound('rpc.unsubscribe', [topic.id], nothing, nothing);
      topic.leave();
    }

    #tellJoined(topic, listener) {
      if (listener.joined || topic.state !== 'in'
          || !topic.listeners.has(listener)) return;
      const { recovered } = listener;
      listener.joined = true;
      listener.known = true;
      if (listener.onjoin) this.#run('onjoin', listener.onjoin, { recovered });
    }

    #takeEvent(params) {
      const said = params !== null && typeof params === 'object' ? params : {};
      const topic = this.#subscriptions.get(said.subscription)
        || this.#topics.get(said.topic);
      if (!topic || topic.state !== 'in') {
        this.#stats.unknownEvents += 1;
        return;
      }
      if (said.recovered === false) {
        if (topic.reset(said)) this.#tellGap(topic);
        return;
      }
      const event = topic.take(said);
      if (!event) {
        this.#stats.duplicateEvents += 1;
        return;
      }
      if (event.isGap) this.#tellGap(topic);
      this.#deliver(topic, event);
    }

    /** Something was lost while we were in: as after a join. */
    #tellGap(topic) {
      for (const listener of [...topic.listeners]) {
        this.#tellJoined(topic, listener);
        listener.since = null;
        if (listener.onjoin && topic.listeners.has(listener)) {
          this.#run('onjoin', listener.onjoin, { recovered: false });
        }
      }
    }

    #deliver(topic, { data, offset, epoch }) {
      for (const listener of [...topic.listeners]) {
        this.#tellJoined(topic, listener);
        // any of them may have sent this one off, or ended the connection
        if (topic.listeners.has(listener)
            && !isUpTo(listener.since, epoch, offset)) {
          const meta = { topic: topic.name, offset, epoch };
          this.#run('a subscriber', listener.fn, data, meta);
        }
      }
    }

    // ........................................ what the page's code throws

    /** Calls code of the page; its errors are told and go no further. */
    #run(what, fn, ...args) {
      const tell = (error) => {
        if (what === 'error') console.error('WSRPC: onerror threw', error);
        else this.#report(error);
      };
      try {
        const result = fn(...args);
        if (result instanceof Promise) result.catch(tell);
      } catch (error) {
        tell(error);
      }
    }

    #report(error) {
      if (this.#events.has('error')) this.#events.emit('error', error);
      else console.error('WSRPC:', error);
    }
  }

  function leavesDoubt({ executed, data }) {
    return executed === false || (data !== null && typeof data === 'object'
      && data.maybeExecuted === true);
  }

  function lostError(call, why, loss) {
    return new ConnectionLostError(`${call.name}: ${why} before the answer `
      + 'came; it may have run', true, loss);
  }

  /** Whether an event is one of those that a state has in it. */
  function isUpTo(since, epoch, offset) {
    return since !== null && offset !== null && since.epoch === epoch
      && offset <= since.offset;
  }

  function checkedPosition(given) {
    if (given === undefined || given === null) return null;
    const [epoch, offset] = Array.isArray(given) ? given
      : [given.epoch, given.offset];
    if (typeof epoch !== 'string' || !Number.isSafeInteger(offset)) {
      throw new TypeError('subscribe: since is {epoch, offset}, as publish() '
        + 'returned it');
    }
    return { epoch, offset };
  }

  function checkMs(name, value) {
    if (typeof value !== 'number' || !(value >= 0)) {
      throw new TypeError(`${name} is milliseconds, 0 or more, not ${value}`);
    }
  }

  function checkedOptions(given) {
    const options = { ...DEFAULTS };
    for (const [name, value] of Object.entries(given || {})) {
      if (!OPTION_NAMES.has(name)) {
        throw new TypeError(`WSRPC: no option ${name}; there are `
          + [...OPTION_NAMES].join(', '));
      }
      if (value !== undefined) options[name] = value;
      if (/Ms$|^max/.test(name)
          && !(name === 'keepAliveMs' && options[name] === null)) {
        checkMs(name, options[name]);
      }
    }
    options.reconnectDelayMs = Math.max(options.reconnectDelayMs,
      MIN_RECONNECT_DELAY_MS);
    options.protocols = [].concat(options.protocols);
    return options;
  }

  const OPTION_NAMES = new Set([...Object.keys(DEFAULTS),
    'WebSocket', 'fetch', 'window', 'clock', 'debug']);

  // ------------------------------------------------------------ the global

  /**
   * A WSRPC whose default URL is the endpoint that served this script.
   * @param {?string} scriptUrl `import.meta.url` of wsrpc.mjs, say
   */
  function servedBy(scriptUrl) {
    function WSRPC(url, options) {
      return Reflect.construct(WSRPCClient, [url, options],
        new.target || WSRPC);
    }
    WSRPC.prototype = WSRPCClient.prototype;
    WSRPC.endpoint = endpointOf(scriptUrl);
    WSRPC.DEBUG = false;
    return Object.assign(WSRPC, {
      servedBy,
      CallError,
      RPCError,
      ConnectionLostError,
      CallTimeoutError,
      QueueFullError,
    });
  }

  // A script knows where it comes from only while it runs as a classic one.
  // As a part of wsrpc.mjs it leaves a copy that stands in the page already:
  // its default URL is the page's, and one set of classes serves instanceof.
  const script = root.document && root.document.currentScript;
  const isThere = root.WSRPC && root.WSRPC.servedBy;
  const WSRPC = isThere && !script ? root.WSRPC
    : servedBy(script && script.src);
  root.WSRPC = WSRPC;
  if (typeof module === 'object' && module && module.exports) {
    module.exports = WSRPC;
  }
})(globalThis);
