// npm ws: pushes and echo.  node ws_node.mjs --port N
//
// /rpc            is pushed to
// /notify?msg=..  &times=1: pushes notify(msg) to all sockets of /rpc
// /echo           sends each message back as it came
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const rpc = new WebSocketServer({ noServer: true });
const echo = new WebSocketServer({ noServer: true });

echo.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});

const http = createServer((request, response) => {
  const query = new URL(request.url, "http://127.0.0.1").searchParams;
  const text = JSON.stringify({
    jsonrpc: "2.0", method: "notify", params: [query.get("msg")],
  });
  for (let n = Number(query.get("times") ?? 1); n > 0; n--) {
    for (const socket of rpc.clients) socket.send(text);
  }
  response.end("sent");
});

http.on("upgrade", (request, socket, head) => {
  const server = request.url === "/echo" ? echo : rpc;
  server.handleUpgrade(request, socket, head, (peer) => {
    server.emit("connection", peer, request);
  });
});

http.listen(port, "127.0.0.1", 1024);
