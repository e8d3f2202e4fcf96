/** How the client comes into a page, and how it finds its endpoint. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import vm from 'node:vm';
import { WSRPC, makeClient } from './fakes.mjs';

const SOURCE = readFileSync(
  new URL('../../static/wsrpc.js', import.meta.url), 'utf8');

/** A page: a global object of its own, a document, no module. */
function page({ src, at = 'https://site.example/shop/cart?x=1' } = {}) {
  const context = vm.createContext({
    URL, TextEncoder, console, location: { href: at },
    document: { baseURI: at, currentScript: src ? { src } : null },
  });
  const before = new Set(vm.runInContext(
    'Object.getOwnPropertyNames(globalThis)', context));
  vm.runInContext(SOURCE, context);
  context.document.currentScript = null; // as after any script
  const globals = vm.runInContext(
    'Object.getOwnPropertyNames(globalThis)', context)
    .filter((name) => !before.has(name));
  const run = (code) => vm.runInContext(code, context);
  return { context, globals: [...globals], run };
}

test('one global', () => {
  assert.deepEqual(page().globals, ['WSRPC']);
});

test('with and without new, subclassed, and always an instance', () => {
  class Mine extends WSRPC { hello() { return this.url; } }
  for (const rpc of [WSRPC('ws://h/a'), new WSRPC('ws://h/a'),
    new Mine('ws://h/a'), new WSRPC(new URL('ws://h/a'))]) {
    assert.ok(rpc instanceof WSRPC);
    assert.equal(rpc.url, 'ws://h/a');
  }
  assert.equal(new Mine('ws://h/a').hello(), 'ws://h/a');
});

test('URLs, on an https page', () => {
  const { run } = page();
  for (const [given, url] of [
    ['/api', 'wss://site.example/api'],
    ['/api/', 'wss://site.example/api/'],
    ['api/', 'wss://site.example/shop/api/'],
    ['../api', 'wss://site.example/api'],
    ['?x=2', 'wss://site.example/shop/cart?x=2'],
    ['//other:8443/api', 'wss://other:8443/api'],
    ['https://other/api', 'wss://other/api'],
    ['http://other:80/api', 'ws://other/api'],
    ['wss://other/api', 'wss://other/api'],
    ['ws://localhost:8080/api#x', 'ws://localhost:8080/api'],
    ['WSS://Other/api', 'wss://other/api'],
  ]) {
    assert.equal(run(`WSRPC(${JSON.stringify(given)}).url`), url, given);
  }
});

test('URLs, on an http page', () => {
  const { run } = page({ at: 'http://localhost:8080/' });
  assert.equal(run('WSRPC("api").url'), 'ws://localhost:8080/api');
  assert.equal(run('WSRPC("https://h/api").url'), 'wss://h/api');
});

test('what is no URL of an endpoint is refused, with a sentence', () => {
  assert.throws(() => WSRPC('/api'), /no page here/);
  for (const url of ['ftp://h/', 'javascript:alert(1)', 'http://[',
    'file:///api']) {
    assert.throws(() => WSRPC(url), TypeError);
  }
  assert.throws(() => WSRPC(), /which endpoint\?/);
  assert.throws(() => WSRPC(null, 5000), /which endpoint\?/);
});

test('the default URL is the endpoint that served the script', () => {
  for (const [src, url] of [
    ['https://site.example/api/wsrpc.js', 'wss://site.example/api'],
    ['https://site.example/api/wsrpc.js?v=3#x', 'wss://site.example/api'],
    ['http://cdn.example:81/a/b/wsrpc.js', 'ws://cdn.example:81/a/b'],
    ['https://site.example/wsrpc.js', 'wss://site.example/'],
  ]) {
    const { run } = page({ src });
    assert.equal(run('WSRPC().url'), url);
    assert.equal(run('new WSRPC(undefined, 5000).url'), url);
    assert.equal(run('WSRPC({reconnectDelayMs: 5}).url'), url);
    assert.equal(run('new (class extends WSRPC {})().url'), url);
    assert.equal(run('WSRPC("/x").url'), 'wss://site.example/x');
  }
  for (const src of [undefined, 'https://site.example/bundle.js',
    'blob:https://site.example/wsrpc.js', 'file:///api/wsrpc.js']) {
    assert.throws(() => page({ src }).run('WSRPC()'), /which endpoint/);
  }
});

test('a plain object of another realm is one all the same', () => {
  const { run } = page({ src: 'https://h/api/wsrpc.js' });
  const sent = [];
  class WebSocket {
    readyState = 1;

    bufferedAmount = 0;

    send(text) { sent.push(JSON.parse(text).params); }
  }
  const Client = run('WSRPC');
  const sockets = [];
  const options = { livenessMs: 0,
    connectTimeoutMs: 0,
    clock: makeClient().clock,
    WebSocket: function Fake() {
      sockets.push(new WebSocket());
      return sockets[0];
    } };
  const rpc = Client(undefined, options);
  rpc.connect();
  sockets[0].onopen({});
  for (const args of [{ a: 1 }, [1], new (class Point { x = 1; })()]) {
    rpc.call('f', args).catch(() => {});
  }
  assert.deepEqual(sent, [{ a: 1 }, [1], [{ x: 1 }]]);
});

test('the module is the same client, and knows its own address',
  async () => {
    const module = await import('../../static/wsrpc.mjs');
    const { default: fromModule, ...named } = module;
    assert.deepEqual(Object.keys(named), ['CallError', 'CallTimeoutError',
      'ConnectionLostError', 'QueueFullError', 'RPCError', 'WSRPC']);
    assert.equal(named.WSRPC, fromModule);
    const rpc = fromModule('ws://h/');
    assert.ok(rpc instanceof globalThis.WSRPC);
    for (const name of ['CallError', 'RPCError', 'ConnectionLostError',
      'CallTimeoutError', 'QueueFullError']) {
      assert.equal(named[name], globalThis.WSRPC[name]);
    }
    for (const [address, endpoint] of [
      ['https://h/api/wsrpc.mjs', 'https://h/api'],
      ['https://h/wsrpc.mjs?v=1', 'https://h/'],
      ['file:///x/wsrpc.mjs', null], ['https://h/app.mjs', null],
      [null, null],
    ]) {
      assert.equal(WSRPC.servedBy(address).endpoint, endpoint);
    }
    assert.equal(WSRPC.servedBy('https://h/api/wsrpc.mjs')().url,
      'wss://h/api');
  });

test('a module beside a classic script leaves its default URL', () => {
  const { context, run } = page({ src: 'https://h/api/wsrpc.js' });
  run('classic = WSRPC');
  vm.runInContext(SOURCE, context); // as the import of wsrpc.mjs does
  assert.equal(run('WSRPC().url'), 'wss://h/api');
  assert.ok(run('WSRPC === classic'));
  assert.ok(run('classic() instanceof WSRPC.servedBy("https://h/b.mjs")'));
});

test('the last classic script is the global', () => {
  const { context, run } = page({ src: 'https://h/api/wsrpc.js' });
  context.document.currentScript = { src: 'https://h/more/wsrpc.js' };
  vm.runInContext(SOURCE, context);
  assert.equal(run('WSRPC().url'), 'wss://h/more');
});

test('options are checked by name and by value', () => {
  const url = 'ws://h/';
  assert.throws(() => WSRPC(url, { timeout: 5 }),
    /no option timeout; there are reconnectDelayMs, timeoutMs/);
  for (const [name, value] of [['timeoutMs', '5'], ['timeoutMs', -1],
    ['maxQueued', NaN], ['reconnectDelayMs', null]]) {
    assert.throws(() => WSRPC(url, { [name]: value }), TypeError);
  }
  assert.throws(() => WSRPC(url, -1), TypeError);
  assert.equal(WSRPC(url, { timeoutMs: undefined }).state(), 'new');
});

test('without a WebSocket connect() says what to do', (t) => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  t.after(() => { if (WebSocket) globalThis.WebSocket = WebSocket; });
  const rpc = WSRPC('ws://h/');
  assert.throws(() => rpc.connect(), /WSRPC\(url, \{WebSocket\}\)/);
  assert.equal(rpc.state(), 'new');
});
