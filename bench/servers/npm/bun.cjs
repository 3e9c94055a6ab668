// Bun's own server, its native publish(): every client subscribes to one topic.
//
// The same as for ws_hub: message, clients, readers, and the moment from which it is timed.
// What differs: one thread, which publishes and serves. The frame is built once, in native
// code, and what a turn of the event loop publishes is joined for each client and written
// after the turn, like ws_hub's bursts. The calls are over before the first write. Compression
// and pings are off, and clients that say nothing are kept.

"use strict";

const { dlopen } = require("bun:ffi");
const { echo, serve } = require("./control.cjs");

const TOPIC = "everybody";
let server;

// Bun's own clocks begin with the process; the load's is the system's.
const CLOCK_MONOTONIC = 1;
const timespec = new BigInt64Array(2);
const { clock_gettime } = dlopen("libc.so.6", {
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
}).symbols;

function now() {
  clock_gettime(CLOCK_MONOTONIC, timespec);
  return Number(timespec[0] * 1_000_000_000n + timespec[1]);
}

serve({
  version: Bun.version,
  start(listening) {
    server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch(request, self) {
        return self.upgrade(request) ? undefined : new Response("no WebSocket", { status: 400 });
      },
      websocket: {
        idleTimeout: 0,
        sendPings: false,
        perMessageDeflate: false,
        open: (socket) => socket.subscribe(TOPIC),
        message: (socket, text) => socket.send(echo(text)),
      },
    });
    listening(server.port);
  },
  now,
  clients: () => server.subscriberCount(TOPIC),
  publisher: (text) => () => server.publish(TOPIC, text),
});
