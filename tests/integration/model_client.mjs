/* model_client.mjs: ws_hub.js on a socket and a clock of the test's, driven over stdin.
 *
 * One command a line in, one outcome a line out; see tests/wire_model.py.
 */

import {createInterface} from "node:readline";

const {HubClient} = await import(process.argv[2]);

let timers = new Map();
let now = 0;
let nextTimer = 1;
globalThis.setTimeout = (fn, delay) => {
  timers.set(nextTimer, [now + delay, fn]);
  return nextTimer++;
};
globalThis.clearTimeout = (id) => timers.delete(id);
performance.now = () => now;

let outcome;
let client;
let socket;
let subscriptions;

class Socket {
  constructor() {
    socket = this;
    this.readyState = 0;
  }
  send(text) {
    outcome.sent.push(JSON.parse(text));
  }
  close() {
    this.readyState = 2;
  }
}

function lost(channel, count) {
  outcome.lost.push([channel, count]);
}

const commands = {
  new() {
    timers = new Map();
    subscriptions = new Map();
    client = new HubClient("ws://host/ws", {WebSocket: Socket, random: () => 0.5, pingInterval: 0});
    client.addEventListener("message", ({detail}) => outcome.messages.push(detail));
    client.connect();
  },
  subscribe({channel, position}) {
    const handler = (message) => outcome.messages.push(message);
    subscriptions.set(
      channel,
      client.subscribe(channel, handler, {
        ...position,
        onGap: (count) => lost(channel, count),
        onSync: ({restarted, missed}) => {
          if (restarted) lost(channel, null);
          if (missed) lost(channel, missed);
        },
      }),
    );
  },
  unsubscribe({channel}) {
    subscriptions.get(channel).close();
  },
  connect() {
    if (socket.readyState === 1) {
      socket.onclose({code: 1006, reason: ""});
      const [id, [at, fn]] = [...timers].sort((a, b) => a[1][0] - b[1][0])[0];
      timers.delete(id);
      now = at;
      fn();
    }
    socket.readyState = 1;
    socket.onopen({});
  },
  relieve() {
    now += 1500; // longer than a server that is too busy is left alone
    for (const [id, [at, fn]] of [...timers]) {
      if (at > now) continue;
      timers.delete(id);
      fn();
    }
  },
  receive({messages}) {
    socket.onmessage({data: messages.map((each) => JSON.stringify(each)).join("\n")});
  },
};

for await (const line of createInterface({input: process.stdin})) {
  const command = JSON.parse(line);
  outcome = {sent: [], messages: [], lost: []};
  commands[command.op](command);
  process.stdout.write(JSON.stringify(outcome) + "\n");
}
