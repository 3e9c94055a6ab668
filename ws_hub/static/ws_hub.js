/* ws_hub.js: a client of a ws_hub server, or of a Go hub with the same wire, for browsers.
 *
 *   import {HubClient} from "/ws_hub.js";
 *
 *   const hub = new HubClient("/ws");
 *   hub.subscribe("process:build-42", (message) => console.log(message.data), {since: 0});
 *   hub.connect();
 *
 * It comes back after a lost connection, with exponential backoff and full jitter, and
 * subscribes again from the last message it has: what was missed is handed on in order, once,
 * and what is lost for good is said (`onGap`). No dependencies, no build step, no DOM.
 *
 * Must not know how anything is shown.
 */

/** The answers that would be given again: who you are (4401), what you may (4403). */
const FINAL_CODES = new Set([4401, 4403]);
/** What a server says to many at once: a wider spread than after a lost line. */
const SPREAD_CODES = new Set([1001, 1012, 1013]);
const SPREAD = 5000;
const MAX_ASKED = 3600000; // milliseconds that a server may ask for
const CLOSE_GOING_AWAY = 4000; // ours, when the server has been silent too long

/** Return `initial * multiplier ** (attempt - 1)` milliseconds, at most `maximum`. */
export function calculateBackoff(attempt, initial = 1000, maximum = 30000, multiplier = 2) {
  return Math.min(initial * multiplier ** (Math.max(attempt, 1) - 1), maximum);
}

/** Return a wait drawn evenly from 0 to `delay`; `random` yields numbers in [0, 1). */
export function fullJitter(delay, random = Math.random) {
  return delay * random();
}

/** Return the milliseconds that a Close frame's reason asks to wait; null when it does not. */
export function waitAsked(reason) {
  const found = /come back after ([0-9]{1,9}) ms/.exec(reason);
  return found && Math.min(Number(found[1]), MAX_ASKED);
}

/** Return the messages of one text frame: a Go hub joins several with newlines. */
export function splitBatch(text) {
  return text.indexOf("\n") < 0 ? [text] : text.split("\n").filter((piece) => piece.trim() !== "");
}

/** Return a WebSocket URL: "/ws" and "https://host/ws" are understood. */
export function webSocketUrl(url, base = globalThis.location?.href) {
  const absolute = new URL(url, base);
  absolute.protocol = {"http:": "ws:", "https:": "wss:"}[absolute.protocol] ?? absolute.protocol;
  absolute.hash = "";
  return absolute.href;
}

/** Return the subprotocols by which a browser, which cannot set headers, hands over a token. */
export function tokenProtocols(token) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  const base64 = btoa(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  return ["ws-hub", `bearer.${base64}`];
}

/** One channel of a client. `HubClient.subscribe` makes it, `close()` ends it. */
export class Subscription {
  constructor(client, channel, handler, options) {
    this.channel = channel;
    this.handler = handler;
    this.options = options;
    /** The last message received, in channels that keep history; else 0. */
    this.seq = 0;
    /** Which numbering `seq` belongs to; "" where there is none. */
    this.epoch = "";
    this.synced = false;
    this._client = client;
    this._retry = null;
  }

  /** Listen no more. */
  close() {
    this._client._unsubscribe(this);
  }

  _request(id) {
    const request = {type: "subscribe", channel: this.channel, data: this.channel, id};
    if (this.epoch) {
      return {...request, since: this.seq, epoch: this.epoch};
    }
    const {since, last} = this.options;
    if (since !== undefined) request.since = since;
    else if (last !== undefined) request.last = last;
    return request;
  }

  /** Take the server's answer to a subscribe: from here on its messages follow. */
  _accepted(data) {
    const first = !this.synced;
    const resumed = !first && this.epoch !== "";
    const restarted = resumed && data.epoch !== this.epoch;
    const replayed = data.replayed ?? 0;
    let missed = 0;
    if (data.epoch) {
      const start = data.seq - replayed;
      // The oldest message that is still there tells how many are gone.
      if (restarted || (first && this.options.since === 0)) missed = start;
      else if (resumed) missed = Math.max(0, start - this.seq);
      this.epoch = data.epoch;
      this.seq = restarted || first ? start : Math.max(start, Math.min(this.seq, data.seq));
    }
    this.synced = true;
    const recovered = data.recovered !== false;
    this.options.onSync?.({first, replayed, recovered, restarted, missed});
  }

  /** Say whether a message is new, and tell of a hole before it. */
  _isNew(seq) {
    if (!Number.isInteger(seq)) return true; // a channel without history
    if (seq <= this.seq) return false;
    if (this.epoch && seq > this.seq + 1) this.options.onGap?.(seq - this.seq - 1);
    this.seq = seq;
    return true;
  }
}

/**
 * A connection that comes back.
 *
 * Events: "state" (detail: {state, attempt, retryIn, code, reason}), "message" (detail: a message
 * of no subscribed channel: broadcasts, answers), "error" (detail: {message, error}).
 *
 * States: "idle" → "connecting" → "connected" → "waiting" → "connecting" ...; "closed" after
 * `close()`, and after a close code that says not to come back (4401, 4403). A browser does not
 * tell a page which HTTP status refused a handshake, so a 401 or 403 there is retried.
 */
export class HubClient extends EventTarget {
  /**
   * @param {string} url where: "/ws", "wss://host/ws".
   * @param {object} options milliseconds: `initialBackoff` (1000), `maxBackoff` (30000),
   *   `stableAfter` (5000: how long a connection must hold before attempts count from 1 again),
   *   `pingInterval` (25000: silence after which the server is asked), `pingTimeout` (10000: and
   *   until it counts as gone), `connectTimeout` (10000); `multiplier` (2), `jitter` (true),
   *   `protocols`; `WebSocket` and `random`, for tests. `token` says who we are: a text, or a
   *   function that returns a fresh one (or a promise of it), called before each connection;
   *   `tokenIn` how it is sent: as "subprotocol", or as first "message" to a hub that waits for it.
   */
  constructor(url, options = {}) {
    super();
    this.url = webSocketUrl(url);
    this.options = {
      initialBackoff: 1000,
      maxBackoff: 30000,
      multiplier: 2,
      jitter: true,
      stableAfter: 5000,
      pingInterval: 25000,
      pingTimeout: 10000,
      connectTimeout: 10000,
      protocols: [],
      token: null,
      tokenIn: "subprotocol",
      WebSocket: globalThis.WebSocket,
      random: Math.random,
      ...options,
    };
    this.state = "idle";
    /** Failed attempts since a connection last held. */
    this.attempt = 0;
    this._subscriptions = new Map();
    this._pending = new Map(); // id of a subscribe → its subscription
    this._nextId = 1;
    this._socket = null;
    this._asking = null; // the attempt that waits for a token
    this._timers = {};
    this._heard = 0; // when the server last said anything
  }

  /** Connect, and stay so until `close()`. No change when it does already. */
  connect() {
    if (this.state === "idle" || this.state === "closed") {
      this.attempt = 0;
      this._open();
    }
  }

  /** End the connection for good. Subscriptions are kept for another `connect()`. */
  close(code = 1000, reason = "") {
    const socket = this._drop();
    socket?.close(code, reason);
    this._become("closed", {code, reason});
  }

  /** Try now instead of at the end of the wait: the network is back, the page is seen again. */
  retryNow() {
    if (this.state === "waiting") this._open();
  }

  /** Send a message, an object; say whether there was a connection to send it on. */
  send(message) {
    if (this.state !== "connected") return false;
    this._socket.send(JSON.stringify(message));
    return true;
  }

  /**
   * Have `handler(message)` called with each message of a channel, in order, each once.
   *
   * Remembered across connections. One subscription a channel: a second one is an error.
   *
   * @param {object} options `since: 0` for all that is kept, `last: n` for the newest n, none for
   *   what comes from now on (of a process: all that is kept). `onSync({first, replayed, recovered,
   *   restarted, missed})`: the server has answered, `replayed` missed messages follow and `missed`
   *   are gone; `restarted`: the numbering began anew, as after a restart of the server. `onGap(n)`:
   *   n messages never came. `onLagged()`: we were too slow, the rest follows. `onError(message)`.
   */
  subscribe(channel, handler, options = {}) {
    if (this._subscriptions.has(channel)) {
      throw new Error(`${channel} is subscribed to already: close() that subscription first`);
    }
    const subscription = new Subscription(this, channel, handler, options);
    this._subscriptions.set(channel, subscription);
    this._request(subscription);
    return subscription;
  }

  _unsubscribe(subscription) {
    const {channel} = subscription;
    if (this._subscriptions.get(channel) !== subscription) return;
    this._subscriptions.delete(channel);
    clearTimeout(subscription._retry);
    this._forget(subscription);
    this.send({type: "unsubscribe", channel, data: channel});
  }

  _request(subscription) {
    if (this.state !== "connected") return; // sent when it is
    this._forget(subscription);
    const id = this._nextId++;
    this._pending.set(id, subscription);
    this.send(subscription._request(id));
  }

  _forget(subscription) {
    for (const [id, each] of this._pending) if (each === subscription) this._pending.delete(id);
  }

  // --- the connection ----------------------------------------------------------------------

  _open() {
    this._drop();
    this.attempt += 1;
    const {token} = this.options;
    if (typeof token !== "function") {
      this._dial(token);
      return;
    }
    // What it promises may come when this attempt is over: then it is nobody's any more.
    const mine = (this._asking = {});
    const still = (fn) => (value) => {
      if (this._asking === mine) fn(value);
    };
    this._timer("connect", this.options.connectTimeout, () => this._giveUp("no token"));
    this._become("connecting", {attempt: this.attempt});
    Promise.resolve()
      .then(() => token())
      .then(
        still((fresh) => this._dial(fresh)),
        still((error) => {
          this._emit("error", {error});
          this._giveUp("no token");
        }),
      );
  }

  _dial(token) {
    const {protocols, tokenIn} = this.options;
    const byProtocol = token && tokenIn === "subprotocol";
    const offered = byProtocol ? [...protocols, ...tokenProtocols(token)] : protocols;
    let socket;
    try {
      socket = new this.options.WebSocket(this.url, offered);
    } catch (error) { // a URL that can never work
      this._become("closed", {code: 1006, reason: String(error.message ?? error)});
      return;
    }
    this._socket = socket;
    // A socket that we gave up may still speak: it is no longer listened to.
    const mine = (fn) => (event) => {
      if (this._socket === socket) fn(event);
    };
    socket.onopen = mine(() => {
      if (token && tokenIn === "message") socket.send(JSON.stringify({type: "auth", data: token}));
      this._opened();
    });
    socket.onmessage = mine((event) => this._received(event.data));
    socket.onclose = mine((event) => this._lost(event.code, event.reason));
    this._timer("connect", this.options.connectTimeout, () => this._giveUp("no answer"));
    if (this.state !== "connecting") this._become("connecting", {attempt: this.attempt});
  }

  _opened() {
    clearTimeout(this._timers.connect);
    this._timer("stable", this.options.stableAfter, () => (this.attempt = 0));
    this._heard = Date.now();
    this._watch();
    this._become("connected", {attempt: this.attempt});
    for (const subscription of this._subscriptions.values()) this._request(subscription);
  }

  /** Ask after a silence: browsers hide ping frames, and a dead line says nothing. */
  _watch() {
    const {pingInterval, pingTimeout} = this.options;
    const silent = Date.now() - this._heard;
    if (silent < pingInterval) {
      this._timer("ping", pingInterval - silent, () => this._watch());
      return;
    }
    const asked = Date.now();
    this.send({type: "ping", id: this._nextId++});
    this._timer("ping", pingTimeout, () => {
      if (this._heard >= asked) this._watch();
      else this._giveUp("the server is silent");
    });
  }

  _giveUp(reason) {
    const socket = this._drop();
    socket?.close(CLOSE_GOING_AWAY, reason); // its own close may take a minute: not waited for
    this._retry(1006, reason);
  }

  _lost(code, reason) {
    this._drop();
    if (FINAL_CODES.has(code)) this._become("closed", {code, reason});
    else this._retry(code, reason);
  }

  _retry(code, reason) {
    const {initialBackoff, maxBackoff, multiplier, jitter, random} = this.options;
    const told = SPREAD_CODES.has(code);
    const asked = told ? waitAsked(reason) : null;
    let delay = calculateBackoff(this.attempt, initialBackoff, maxBackoff, multiplier);
    if (asked !== null) delay = Math.max(delay, asked); // perhaps others were told the same
    else if (told) delay = Math.min(Math.max(delay, SPREAD), maxBackoff);
    const retryIn = (asked ?? 0) + (jitter || told ? fullJitter(delay, random) : delay);
    this._timer("retry", retryIn, () => this._open());
    this._become("waiting", {attempt: this.attempt, retryIn, code, reason});
  }

  _drop() {
    const socket = this._socket;
    this._socket = null;
    this._asking = null;
    for (const timer of Object.values(this._timers)) clearTimeout(timer);
    this._pending.clear();
    return socket;
  }

  _timer(name, delay, fn) {
    clearTimeout(this._timers[name]);
    this._timers[name] = setTimeout(fn, delay);
  }

  _become(state, detail) {
    this.state = state;
    this._emit("state", {state, ...detail});
  }

  _emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  // --- what comes in -----------------------------------------------------------------------

  _received(data) {
    this._heard = Date.now();
    if (typeof data !== "string") return;
    for (const text of splitBatch(data)) {
      let message;
      try {
        message = JSON.parse(text);
      } catch (error) {
        this._emit("error", {error});
        continue;
      }
      if (message !== null && typeof message === "object") this._dispatch(message);
    }
  }

  _dispatch(message) {
    const {type, id, channel} = message;
    const asked = id === undefined ? undefined : this._pending.get(id);
    if (type === "ack" && asked) {
      this._pending.delete(id);
      asked._accepted(message.data ?? {});
    } else if (type === "error" && asked) {
      this._pending.delete(id);
      this._refused(asked, message);
    } else if (type === "lagged" && this._subscriptions.has(channel)) {
      const subscription = this._subscriptions.get(channel);
      subscription.options.onLagged?.();
      this._request(subscription);
    } else if (channel && this._subscriptions.has(channel) && type !== "error") {
      const subscription = this._subscriptions.get(channel);
      if (subscription._isNew(message.seq)) this._call(subscription.handler, message);
    } else if (type === "error") {
      this._emit("error", {message});
    } else if (type !== "pong") {
      this._emit("message", message);
    }
  }

  _refused(subscription, message) {
    if (message.code === "internal" || message.code === "rate_limited") {
      // The server's trouble, not ours: ask again.
      const delay = fullJitter(2 * this.options.initialBackoff, this.options.random);
      subscription._retry = setTimeout(() => this._request(subscription), delay);
      return;
    }
    subscription.options.onError?.(message);
    this._emit("error", {message});
  }

  _call(handler, message) {
    try {
      handler(message);
    } catch (error) { // one handler's fault must not cost the others their messages
      if (typeof reportError === "function") reportError(error);
      else console.error(error);
    }
  }
}
