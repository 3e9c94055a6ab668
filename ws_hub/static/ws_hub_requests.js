/* ws_hub_requests.js: answers to what the server asks, and messages that wait for a connection.
 *
 * Types: ws_hub_requests.d.ts.
 */

export function answerAsks(client, answer) {
  if (typeof answer !== "function") {
    throw new TypeError(`answer must be a function, not ${String(answer)}`);
  }
  return client.on("message", async ({type, id, data}) => {
    if (type !== "ask") return;
    try {
      client.send({type: "ack", id, data: await answer(data)});
    } catch (error) {
      const told = error?.name === "HubError"; // of whichever file: there may be a copy
      const [text, code] = told ? [error.message, error.code] : ["internal error", "internal"];
      client.send({type: "error", id, data: text, code});
      if (!told) throw error; // reported by the client
    }
  });
}

const OVERFLOWS = ["refuse", "oldest", "newest"];

// A call of the client's that nobody waits for: it is over once it is sent.
function keptCall(buffer, text) {
  const one = {
    text,
    reject: () => buffer._remove(one),
    get sent() {
      return false;
    },
    set sent(sent) {
      if (sent) buffer._remove(one);
    },
  };
  return one;
}

export class SendBuffer {
  constructor(client, {size = 100, overflow = "refuse"} = {}) {
    if (typeof client?._write !== "function") {
      throw new TypeError("a SendBuffer takes a HubClient first: new SendBuffer(hub, {size: 100})");
    }
    if (!(size >= 1)) throw new RangeError(`size must be a number of messages, not ${size}`);
    if (!OVERFLOWS.includes(overflow)) {
      throw new RangeError(`overflow must be one of ${OVERFLOWS.join(", ")}, not ${overflow}`);
    }
    this.dropped = 0;
    this._client = client;
    this._size = size;
    this._overflow = overflow;
    this._kept = new Set(); // oldest first
  }

  get waiting() {
    return this._kept.size;
  }

  send(message) {
    const {_client: client, _kept: kept} = this;
    const text = client._encode(message);
    if (client._write(text)) return true;
    if (client.state === "closed") return false;
    if (kept.size >= this._size) {
      if (this._overflow === "refuse") return false;
      this.dropped += 1;
      if (this._overflow === "newest") return false;
      this._remove(kept.values().next().value);
    }
    const one = keptCall(this, text);
    kept.add(one);
    client._calls.set(one, one);
    return true;
  }

  clear() {
    for (const one of this._kept) this._remove(one);
  }

  _remove(one) {
    this._kept.delete(one);
    this._client._calls.delete(one);
  }
}
