// npm rpc-websockets: node rpc_websockets.mjs --port N
import { Server } from "rpc-websockets";

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
const server = new Server({ port, host: "127.0.0.1" });
server.register("add", ([a, b]) => a + b);
