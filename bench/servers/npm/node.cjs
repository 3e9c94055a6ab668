// The package ws on Node: a loop of send() over the server's clients, as its README has it.
//
// The same as for ws_hub: message, clients, readers, and the moment from which it is timed.
// What differs: one thread, which publishes and serves. The message is a Buffer made before,
// so that nothing is encoded for a client; its frame is built for each, and written by a call
// of its own at once. Nothing is joined. Compression and pings are off, as they are by default,
// and bufferutil is there to unmask.

"use strict";

const { WebSocket, WebSocketServer } = require("ws");
const { echo, serve } = require("./control.cjs");

let server;

serve({
  version: require("ws/package.json").version,
  start(listening) {
    server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 1024 });
    server.on("listening", () => listening(server.address().port));
    server.on("connection", (socket) => {
      socket.on("error", () => {}); // a reset; without this it would end the process
      socket.on("message", (data) => socket.send(echo(data.toString())));
    });
  },
  now: () => Number(process.hrtime.bigint()),
  clients: () => server.clients.size,
  publisher(text) {
    const data = Buffer.from(text);
    return () => {
      for (const client of server.clients) {
        if (client.readyState === WebSocket.OPEN) client.send(data, { binary: false });
      }
    };
  },
});
