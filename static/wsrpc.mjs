/**
 * WSRPC as an ES module: `import WSRPC from '/api/wsrpc.mjs'`.
 *
 * wsrpc.js is the one source. It is imported for what it does, setting the
 * global: a file that is to be a classic script too cannot hold `export`.
 * Nothing is evaluated from strings and nothing comes from another place, so
 * a Content-Security-Policy of `script-src 'self'` is enough.
 */
import './wsrpc.js';

// A module knows its own address, a classic script's `currentScript` it has
// not: so the default URL, the endpoint that served it, is given here.
const WSRPC = globalThis.WSRPC.servedBy(import.meta.url);
const {
  CallError, RPCError, ConnectionLostError, CallTimeoutError, QueueFullError,
} = WSRPC;

export {
  WSRPC as default, WSRPC,
  CallError, RPCError, ConnectionLostError, CallTimeoutError, QueueFullError,
};
