// What every JavaScript server under test answers to: hello, await_clients, publish.
//
// The same as bench/control.py and bench/servers/base.py: one JSON object a line, in and out,
// and the end of the input ends the process. What differs for these servers: they have one
// thread, so that a publication is made where the clients are served, as in every application
// on such a server, and a burst is published before anything else runs.

"use strict";

exports.echo = (text) => JSON.stringify({ type: "echo", data: JSON.parse(text).data });

// start(listening): calls listening(port) once the server accepts.
// clients(): how many clients a publication reaches.
// publisher(text): returns what publishes that text once.
// now(): nanoseconds of the clock that Python's time.monotonic_ns() reads.
exports.serve = ({ path = "/", version, start, clients, publisher, now }) => {
  const methods = {
    async hello() {
      return { port: await listening, path, greeting: null, version };
    },
    async await_clients({ count, timeout }) {
      const deadline = now() + timeout * 1e9;
      while (clients() !== count) {
        if (now() > deadline) throw new Error(`${clients()} clients, not ${count}`);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      return { now: now() };
    },
    publish({ count, size, targets = [""], threads = 1 }) {
      if (threads !== 1 || targets.length !== 1 || targets[0]) {
        throw new Error("only ws_hub has channels and threads here");
      }
      const call = publisher(ready(size));
      const began = now();
      for (let turn = 0; turn < count; turn++) call();
      return { began, ended: now() };
    },
  };
  const listening = new Promise((resolve) => start(resolve));
  obey(methods);
};

// The text of wire.text(size).
function ready(size) {
  const [before, after] = ['{"type": "event", "data": "|', '"}'];
  return before + "x".repeat(size - before.length - after.length) + after;
}

function obey(methods) {
  let rest = "";
  let last = Promise.resolve();
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) last = last.then(() => answer(methods, JSON.parse(line)));
  });
  process.stdin.on("end", () => process.exit(0));
}

async function answer(methods, { do: name, ...request }) {
  let found;
  try {
    found = await methods[name](request);
  } catch (error) {
    found = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(JSON.stringify(found) + "\n");
}
