/**
 * Over real sockets: the transport of Node's `ws` in the place of the
 * browser's, and the real clock. What was refused is asked by a real POST.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { WSRPC } from './fakes.mjs';

/** An endpoint as ours: upgrades are served, a POST gets `plain`. */
async function serve(t, { refuse = 0, plain = 426 } = {}) {
  const server = http.createServer((request, response) => {
    response.writeHead(plain, { location: '/login' }).end();
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on('upgrade', (request, socket, head) => {
    if (refuse) {
      socket.end(`HTTP/1.1 ${refuse} Refused\r\nConnection: close\r\n\r\n`);
      return;
    }
    sockets.handleUpgrade(request, socket, head, (ws) => {
      ws.on('message', (data) => {
        const { id, method, params } = JSON.parse(data);
        if (method === 'kill') ws.terminate();
        else if (method === 'leave') ws.close(4403, 'enough');
        else ws.send(JSON.stringify({ jsonrpc: '2.0', id, result: params }));
      });
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const rpc = WSRPC(`http://127.0.0.1:${server.address().port}/api`, {
    WebSocket, reconnectDelayMs: 100,
  });
  t.after(() => {
    rpc.destroy();
    for (const ws of sockets.clients) ws.terminate();
    server.close();
    server.closeAllConnections();
  });
  return rpc;
}

test('call, reconnect, final close', async (t) => {
  const rpc = await serve(t);
  const early = rpc.call('echo', [1, 'é😀']);
  rpc.connect();
  assert.deepEqual(await early, [1, 'é😀']);
  const lost = rpc.onEvent('close');
  await assert.rejects(rpc.call('kill'), { maybeExecuted: true, code: 1006 });
  assert.ok((await lost).willReconnectInMs <= 100);
  assert.deepEqual(await rpc.proxy.echo(2), [2]); // by itself
  assert.equal(rpc.stats.connections, 2);
  rpc.call('leave').catch(() => {});
  const end = await rpc.onEvent('close');
  assert.deepEqual(end, {
    code: 4403, reason: 'enough', status: null, willReconnectInMs: null,
  });
});

for (const [plain, code, status] of [
  [401, 4401, 401], [303, 4401, 303], [403, 4403, 403], [404, 4403, 404]]) {
  test(`a refused handshake, ${plain} to the POST`, async (t) => {
    const rpc = await serve(t, { refuse: plain, plain });
    rpc.connect();
    const call = rpc.call('f');
    call.catch(() => {});
    const end = await rpc.onEvent('close');
    assert.deepEqual([end.code, end.status, end.willReconnectInMs],
      [code, status, null]);
    await assert.rejects(call, { code, maybeExecuted: false });
  });
}

test('a refused handshake, 426 to the POST: goes on', async (t) => {
  const rpc = await serve(t, { refuse: 400 });
  rpc.connect();
  const first = await rpc.onEvent('close');
  const second = await rpc.onEvent('close');
  for (const loss of [first, second]) {
    assert.deepEqual([loss.code, loss.status], [1006, 426]);
    assert.ok(loss.willReconnectInMs <= 200);
  }
});

test('nobody there: goes on', async (t) => {
  const server = http.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  const rpc = WSRPC(`ws://127.0.0.1:${port}/api`, { WebSocket });
  t.after(() => rpc.destroy());
  rpc.connect();
  const { code, status, willReconnectInMs } = await rpc.onEvent('close');
  assert.deepEqual([code, status], [1006, null]);
  assert.ok(willReconnectInMs <= 1000);
});
