/**
 * Types of wsrpc.js and wsrpc.mjs.
 *
 * For a page that imports the module from its endpoint, map the address in
 * tsconfig.json:
 *   "paths": {"/api/wsrpc.mjs": ["./vendor/wsrpc.d.ts"]}
 * For the classic script a reference is enough, WSRPC is a global then:
 *   /// <reference path="./vendor/wsrpc.d.ts" />
 */

/** Any value that JSON can carry. */
export type Json = null | boolean | number | string | Json[]
  | { [name: string]: Json };

export interface Options {
  /**
   * The wait before a reconnect is a random one in
   * [0, min(30 000, reconnectDelayMs * 2^n)], n counting the failures in a
   * row; it falls back to 0 only after a connection that held 30 s. Less
   * than 100 counts as 100. Default 1000.
   */
  reconnectDelayMs?: number;
  /**
   * How long a call may take, counted from call(), time in the queue
   * included (but not before the first connect()). 0: no limit.
   * Default 30 000: longer than any reconnect that is worth waiting for.
   */
  timeoutMs?: number;
  /** A handshake that takes longer has failed. 0: no limit. Default 20 000:
   *  browsers wait for minutes. */
  connectTimeoutMs?: number;
  /**
   * After so long without any message the server is asked (`rpc.ping`): a
   * browser shows nothing of the pings below. 0: never. Default 45 000, as
   * the server finds out a dead peer.
   */
  livenessMs?: number;
  /** After so long without any message since that question, the connection
   *  is given up and made anew. 0: never. Default 15 000. */
  pingTimeoutMs?: number;
  /** Calls and notifications that may wait for a connection; past it they
   *  fail with QueueFullError. Default 1000. */
  maxQueued?: number;
  /** The same, in characters of text. Default 16 777 216. */
  maxQueuedChars?: number;
  /** While so much stands unsent in the socket, calls wait in the queue.
   *  Default 8 388 608. */
  maxBufferedBytes?: number;
  /**
   * A page that stays open keeps its CherryPy session and the cookie: it asks
   * the endpoint by GET so often. 0: never. null: each half of
   * `tools.sessions.timeout`, by the server's word, in pages; nothing where
   * there is no session. Default null.
   */
  keepAliveMs?: number | null;
  /** Subprotocols to offer. Default none: the server tells the dialect by
   *  the messages. */
  protocols?: string | string[];
  /** The transport. Default the global one; in Node, that of `ws`. */
  WebSocket?: new (url: string, protocols?: string[]) => Transport;
  /** Asks the endpoint why it refuses. Default the global one. */
  fetch?: (url: string, init: any) => Promise<{
    readonly status: number; readonly type: string; readonly body?: any;
  }>;
  /** Where `online`, `pagehide` and `pageshow` are heard. Default the
   *  global object. */
  window?: {
    addEventListener(name: string, fn: () => void): void;
    removeEventListener(name: string, fn: () => void): void;
  };
  /** Time and chance, for tests. */
  clock?: {
    /** Milliseconds, monotonic. */
    now(): number;
    /** Milliseconds of a clock that goes on while the machine sleeps. */
    wall?(): number;
    setTimeout(fn: () => void, ms: number): any;
    clearTimeout(handle: any): void;
    /** In [0, 1). */
    random(): number;
  };
  /** Is told what happens. Default: console.debug while WSRPC.DEBUG. */
  debug?: (...words: any[]) => void;
}

/** What of a WebSocket is used. */
export interface Transport {
  readonly readyState: number;
  readonly bufferedAmount: number;
  onopen: any;
  onmessage: any;
  onclose: any;
  onerror: any;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/**
 * new: connect() was not called · connecting · open · waiting: the next
 * attempt comes by itself · closed: stopped, connect() begins anew ·
 * destroyed: the end.
 */
export type State =
  'new' | 'connecting' | 'open' | 'waiting' | 'closed' | 'destroyed';

export interface Loss {
  /**
   * The close code. 4401 (not signed in) and 4403 (forbidden, or nothing at
   * this URL) also stand for a refused handshake; 1006 for a connection that
   * broke or could not be made; 1007 for a server that sent no JSON.
   */
  code: number;
  reason: string;
  /** What the endpoint answers over HTTP, where it was asked. 0: a redirect
   *  (a browser shows no more of it). */
  status: number | null;
}

export interface Closed extends Loss {
  /** null: no reconnect; connect() begins anew. */
  willReconnectInMs: number | null;
}

export interface Frame {
  direction: 'in' | 'out';
  text: string;
}

/** The events and what their listeners are given; also without the `on`. */
export interface EventMap {
  onconnect: [];
  onclose: [closed: Closed];
  /** Failed attempts, refused topics without an onerror of their own, what
   *  listeners threw, what could not be read. */
  onerror: [error: Error];
  onchange: [state: State];
  onframe: [frame: Frame];
}

type Short<Name> = Name extends `on${infer Rest}` ? Rest : never;
export type EventName = keyof EventMap | Short<keyof EventMap>;
type EventArgs<Name> = Name extends keyof EventMap ? EventMap[Name]
  : Name extends string
    ? `on${Name}` extends keyof EventMap ? EventMap[`on${Name}`] : never
    : never;

export interface Meta {
  topic: string;
  /** The place of the event in its stream; null for a topic without one. */
  offset: number | null;
  /** Which stream: offsets compare within one epoch only. */
  epoch: string | null;
}

export interface Joined {
  /** null: the first join. true: all that was missed follows. false:
   *  something may have been missed, load the state anew. */
  recovered: boolean | null;
}

export interface Position {
  epoch: string;
  offset: number;
}

/** Who is on a topic, each user once. */
export interface Presence<User = any> {
  users: Array<{
    user: User;
    /** His connections, in all processes. */
    count: number;
    /** Their ids, 100 of each process at most. */
    connections: string[];
  }>;
  /** Connections without a user. */
  anonymous: number;
  /** Up to where the joins and leaves are counted in. */
  epoch: string;
  offset: number;
}

export interface PresenceChange<User = any> {
  event: 'join' | 'leave';
  user: User;
}

export interface SubscribeOptions {
  /** Where the state is from that the page was made with: what the server's
   *  `publish` returned, as an object or as `[epoch, offset]`. */
  since?: Position | [string, number] | null;
  /** At each join, before its events; and when the server has lost some. */
  onjoin?: (joined: Joined) => void;
  /** The server refused. Without it, the event `onerror` tells. */
  onerror?: (error: Error) => void;
}

export interface CallOptions {
  /** 0: no limit. Default: the client's. */
  timeoutMs?: number;
  /**
   * The call has one effect, though it is sent again when its connection is
   * lost, for up to 100 s, instead of being rejected. 16 to 128 characters,
   * another one for each call, best random; true makes one. Only for an
   * endpoint of cp_wsrpc: another server may run it twice.
   */
  idempotencyKey?: string | true;
}

export interface Stats {
  readonly sent: number;
  readonly received: number;
  readonly connections: number;
  /** Not JSON, or JSON that is no message. */
  readonly badMessages: number;
  /** Replies to ids that do not wait: late, foreign, twice. */
  readonly unknownReplies: number;
  readonly unknownEvents: number;
  readonly unknownNotifications: number;
  readonly duplicateEvents: number;
  readonly droppedNotifications: number;
  /** Calls that wait now. */
  readonly queued: number;
  /** Calls on the wire now. */
  readonly pending: number;
}

/** Takes back what it was returned for; again: nothing. */
export type Off = () => void;

/** Any dotted name, called with positional arguments. */
export interface Proxy {
  (...args: any[]): Promise<any>;
  readonly [name: string]: Proxy;
  /** Names that JavaScript itself asks for call nothing; a method of such a
   *  name is called by rpc.call(). */
  readonly then: never;
  readonly catch: never;
  readonly finally: never;
  readonly toJSON: never;
  readonly constructor: never;
}

export interface WSRPC {
  /** The endpoint's WebSocket URL. */
  readonly url: string;
  readonly proxy: Proxy;
  /** A snapshot. */
  readonly stats: Stats;
  state(): State;
  /** Begins, or makes the attempt now that it waits for.
   *  @throws Error after destroy(); TypeError where there is no WebSocket */
  connect(): void;
  /** Ends the connection and makes another one, at once: after a login or a
   *  logout, whose cookie only a new connection brings. Calls that were sent
   *  are rejected, those that wait, wait on. */
  reconnect(): void;
  /** Stops; connect() works again. Code 1000 or 3000 to 4999. */
  close(code?: number, reason?: string): void;
  /** Ends everything for ever. */
  destroy(): void;
  /**
   * @param args none, null: f() · [1, 2]: f(1, 2) · {a: 1}: f(a=1) · any
   *   other value: f(value) · one object as a value: [{a: 1}]
   * @returns rejects with RPCError, ConnectionLostError, CallTimeoutError,
   *   QueueFullError; with TypeError for what cannot be sent
   */
  call<Result = any>(name: string, args?: unknown, options?: CallOptions):
    Promise<Result>;
  /** No answer. false: dropped, the client is closed or its queue full. */
  notify(name: string, args?: unknown): boolean;
  /** @param options key: on a topic of mode "latest", whose newest event it
   *  is. */
  publish(topic: string, data: unknown, options?: { key?: string }):
    Promise<any>;
  /** Lets the server call `fn`. It may return a promise; what it throws goes
   *  back to the server, with its stack. */
  addRoute(name: string, fn: (...args: any[]) => unknown): Off;
  deleteRoute(name: string): boolean;
  subscribe<Data = any>(topic: string, fn: (data: Data, meta: Meta) => void,
    options?: SubscribeOptions): Off;
  /** Who is on a topic, where the server keeps presence. */
  who<User = any>(topic: string): Promise<Presence<User>>;
  /**
   * Follows who is on a topic; makes nobody appear there.
   * @param fn called with all users, each once, at first and whenever that
   *   has changed; change is null where the list was asked for anew
   */
  presence<User = any>(topic: string,
    fn: (users: User[], change: PresenceChange<User> | null) => void,
    options?: { onerror?: (error: Error) => void }): Off;
  addEventListener<Name extends EventName>(name: Name,
    fn: (...args: EventArgs<Name>) => void): Off;
  removeEventListener<Name extends EventName>(name: Name,
    fn: ((...args: EventArgs<Name>) => void) | Off): void;
  /** The next event of this name alone. */
  onEvent<Name extends EventName>(name: Name): Promise<EventArgs<Name>[0]>;
  onEvent<Name extends EventName>(name: Name,
    fn: (...args: EventArgs<Name>) => void): Off;
}

/** A call came to nothing. */
export class CallError extends Error {
  protected constructor(message: string, maybeExecuted: boolean);
  /** false: the method surely did not run, calling again is safe. */
  readonly maybeExecuted: boolean;
}

/** The server answered with an error. Thrown in a route it goes to the
 *  server as it is. */
export class RPCError extends CallError {
  constructor(code: number, message: string, data?: unknown);
  readonly code: number;
  readonly data: any;
  /** The class of the exception, where the server tells. */
  readonly type: string | undefined;
  /** false: the server says that the method did not run. */
  readonly executed: false | undefined;
  /** It was tried again three times already. */
  readonly retryable: boolean;
  /** Of a server with `debug` on. */
  readonly remoteTraceback: string | undefined;
}

/** The connection went, or there was none. */
export class ConnectionLostError extends CallError {
  private constructor();
  readonly code: number;
  readonly reason: string;
  readonly status: number | null;
  readonly executed: false | undefined;
}

export class CallTimeoutError extends CallError {
  private constructor();
  readonly timeoutMs: number;
  readonly executed: false | undefined;
}

export class QueueFullError extends CallError {
  private constructor();
  readonly executed: false;
}

export interface WSRPCConstructor {
  /**
   * @param url absolute (ws, wss, http, https) or relative to the page;
   *   default the endpoint that served the script
   * @param options a number is `reconnectDelayMs`
   */
  new (url?: string | URL | null, options?: number | Options): WSRPC;
  new (options: Options): WSRPC;
  (url?: string | URL | null, options?: number | Options): WSRPC;
  (options: Options): WSRPC;
  readonly prototype: WSRPC;
  /** The default URL: the endpoint that served the script, null if none. */
  endpoint: string | null;
  /** true: clients without a `debug` of their own tell console.debug. */
  DEBUG: boolean;
  /** A WSRPC whose default URL is the endpoint that served this script. */
  servedBy(scriptUrl: string | null): WSRPCConstructor;
  readonly CallError: typeof CallError;
  readonly RPCError: typeof RPCError;
  readonly ConnectionLostError: typeof ConnectionLostError;
  readonly CallTimeoutError: typeof CallTimeoutError;
  readonly QueueFullError: typeof QueueFullError;
}

export const WSRPC: WSRPCConstructor;
export default WSRPC;

type GlobalWSRPC = WSRPCConstructor;

declare global {
  /** Of the classic script. */
  var WSRPC: GlobalWSRPC;
}
