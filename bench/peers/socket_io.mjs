// npm socket.io: an event with an answer.  node socket_io.mjs --port N
import { createServer } from "node:http";
import { Server } from "socket.io";

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const http = createServer();
const io = new Server(http, { transports: ["websocket"] });
io.on("connection", (socket) => {
  socket.on("add", (a, b, answer) => answer(a + b));
});
http.listen(port, "127.0.0.1");
