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
const LONGEST_TIMER = 2147483647; // milliseconds: a longer one would be over at once
const MAX_UNANSWERED = 1024; // requests that a Go hub, which never answers, makes us remember
const MAX_NAME = 4096; // characters: twice in a request, and a hub hangs up at 64 KiB, each time
const OPEN = 1; // of a WebSocket's readyState
const NOT_LOOKED_AT =
  'the server selected no subprotocol, so it has not looked at the token: use tokenIn: "message"';

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

/** Say what a callback of the application raised, as the engine says it of its own. */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

/** Call a callback of the application: its fault must not cost anybody a message. */
function call(fn, ...args) {
  try {
    const result = fn?.(...args);
    if (typeof result?.then === "function") result.then(undefined, report);
  } catch (error) {
    report(error);
  }
}

/** Say whether a server has ended a subscription; a refused publish says `Publish: ...`. */
function isEnd({id, code, data}) {
  return id === undefined && code === "forbidden" && String(data).startsWith("Subscribe:");
}

/** Say whether a time is one that can be waited for: 0, Infinity and NaN switch a timer off. */
function isWait(milliseconds) {
  return milliseconds > 0 && milliseconds < Infinity;
}

/**
 * One channel of a client. `HubClient.subscribe` makes it, `close()` ends it.
 *
 * A numbered message counts from the answer to the newest request on: what comes before it
 * belongs to an older subscription, or comes again.
 */
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
    this._reset();
  }

  /** Listen no more. */
  close() {
    this._client._unsubscribe(this);
  }

  /** Forget what belongs to a connection: it is over. */
  _reset() {
    clearTimeout(this._retry);
    this._pending = null; // id of the newest request, while it has no answer
    this._live = false; // this connection's server has answered: its numbers count
    this._answer = null; // what was answered, until the first message of its replay
    this._head = 0; // the newest number at the last answer: up to it messages are its replay
    this._replaying = 0; // so many of them are still to come
  }

  _request(id) {
    this._pending = id;
    this._answer = null;
    const request = {type: "subscribe", channel: this.channel, data: this.channel, id};
    if (this.epoch) return {...request, since: this.seq, epoch: this.epoch};
    const {since, last} = this.options;
    if (since !== undefined) request.since = since;
    else if (last !== undefined) request.last = last;
    return request;
  }

  /** Take the server's answer to the newest request: from here on its messages follow. */
  _accepted({epoch, seq, replayed, recovered}) {
    this._pending = null;
    this._live = true;
    const numbered = typeof epoch === "string" && Number.isInteger(seq);
    this._head = numbered ? seq : 0;
    this._replaying = numbered && Number.isInteger(replayed) ? replayed : 0;
    this._answer = {
      epoch: numbered ? epoch : "",
      replayed: this._replaying,
      recovered: recovered !== false,
    };
    if (!this._replaying) this._sync(this._head + 1);
  }

  /** Go by the answer, now that the number of the first message that is kept is known. */
  _sync(kept) {
    const {epoch, replayed, recovered} = this._answer;
    this._answer = null;
    const first = !this.synced;
    const known = !first && this.epoch !== "";
    const restarted = known && (epoch !== this.epoch || this._head < this.seq);
    let had = null; // what came after this number is missing as far as it is not kept
    if (restarted) had = 0;
    else if (known) had = recovered ? null : this.seq;
    else if (first && (this.options.since === 0 || !recovered)) had = this.options.since ?? null;
    const missed = epoch && had !== null ? Math.max(0, kept - had - 1) : 0;
    if (!replayed) this.seq = this._head;
    else if (restarted || !known) this.seq = 0;
    this.epoch = epoch;
    this.synced = true;
    call(this.options.onSync, {first, replayed, recovered, restarted, missed});
  }

  /** Say whether a message is to be handed on; tell of a hole before it. */
  _take(seq) {
    if (!Number.isInteger(seq)) return true; // a channel without history, or a passing state
    // Comes again, or was never asked for. Not even the next number is taken: the numbering may
    // have begun again.
    if (this._pending !== null) return false;
    if (this._answer) this._sync(Math.min(seq, this._head + 1));
    // Within a replay a hole is no gap: states that were replaced are not kept.
    const replayed = this._replaying > 0 && seq <= this._head;
    this._replaying = replayed ? this._replaying - 1 : 0;
    if (seq <= this.seq) {
      if (!replayed && this.epoch) this._client._anew(this);
      return false;
    } else if (!replayed && this.epoch) {
      const gap = seq - Math.max(this.seq, this._head) - 1;
      if (gap > 0) call(this.options.onGap, gap);
    }
    const over = replayed && !this._replaying;
    this.seq = over ? Math.max(seq, this._head) : seq;
    return true;
  }
}

/**
 * A connection that comes back.
 *
 * Events: "state" (detail: {state, attempt, retryIn, code, reason}), "message" (detail: a message
 * of no subscribed channel: broadcasts, answers), "error" (detail: {message, error}: an error
 * that the server sent, or what went wrong here, as a message that is none).
 *
 * States: "idle" → "connecting" → "connected" → "waiting" → "connecting" ...; "closed" after
 * `close()`, and after what says not to come back: a close code (4401, 4403), a token that went as
 * a subprotocol to a server that selected none. A browser tells a page neither which HTTP status
 * refused a handshake nor that no subprotocol was selected, so these are retried there.
 */
export class HubClient extends EventTarget {
  /**
   * @param {string} url where: "/ws", "wss://host/ws".
   * @param {object} options milliseconds: `initialBackoff` (1000), `maxBackoff` (30000),
   *   `stableAfter` (5000: how long a connection must hold before attempts count from 1 again),
   *   `pingInterval` (25000: silence after which the server is asked), `pingTimeout` (10000: and
   *   until it counts as gone), `connectTimeout` (10000), each of which 0 or Infinity switches
   *   off; `multiplier` (2), `jitter` (true), `protocols`; `WebSocket` (npm `ws`, where there is
   *   none) and `random`, for tests. `token` says who we are: a text, or a
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
    for (const name of ["initialBackoff", "maxBackoff", "multiplier"]) {
      const value = this.options[name];
      if (!(value > 0)) throw new RangeError(`${name} must be a positive number, not ${value}`);
    }
    this.state = "idle";
    /** Failed attempts since a connection last held. */
    this.attempt = 0;
    this._subscriptions = new Map();
    this._requests = new Map(); // id → the subscription whose answer it is; null: nobody's
    this._left = new Map(); // channel → id of its unsubscribe that has no answer
    this._answers = false; // this connection's server does: it is no Go hub
    this._nextId = 1;
    this._socket = null;
    this._asking = null; // the attempt that waits for a token
    this._timers = {};
    this._told = false; // the wait is one that the server asked for
    // On a clock that nobody sets: when the server last said anything, and was last asked to.
    this._heard = this._asked = 0;
    this._checks = []; // what waits to know whether the server says anything
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
    try {
      socket?.close(code, reason);
    } catch (error) { // a page may send 1000 and 3000 to 4999, and 123 bytes: closed all the same
      socket.close();
      report(error);
    }
    this._become("closed", {code, reason});
  }

  /** Try now instead of at the end of the wait, because a user asks for it. */
  retryNow() {
    if (this.state === "waiting") this._open();
  }

  /**
   * Look after the connection: the network may be back, or the page is seen again.
   *
   * Ends a wait, unless the server asked for it; asks a connected server for a sign of life, and
   * gives it up without one. The promise says whether the connection is alive.
   */
  async wake() {
    if (this.state === "waiting" && !this._told) this._open();
    if (this.state !== "connected") return false;
    const alive = new Promise((done) => this._checks.push(done));
    if (this._asked <= this._heard) this._ask();
    return alive;
  }

  /** Send a message, an object; say whether there was a connection to send it on. */
  send(message) {
    // A socket that is closing takes everything and sends nothing.
    if (this.state !== "connected" || this._socket.readyState > OPEN) return false;
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
   *   n messages never came. `onLagged()`: we were too slow, the rest follows. `onError(message)`:
   *   the server has refused the subscription, or ended it (`hub.recheck`).
   *   What one of them raises is reported like any error of a page, and changes nothing else.
   */
  subscribe(channel, handler, options = {}) {
    if (typeof channel !== "string" || channel === "") { // broadcasts are of channel undefined
      throw new TypeError(`a channel must be a text, not ${String(channel)}`);
    }
    if (channel.length > MAX_NAME) throw new RangeError(`a channel has over ${MAX_NAME} characters`);
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
    if (!this._isOurs(subscription)) return;
    this._subscriptions.delete(channel);
    this._forget(subscription);
    subscription._reset();
    this._leave(channel);
  }

  _request(subscription) {
    if (this.state !== "connected") return; // sent when it is
    this._forget(subscription);
    this.send(subscription._request(this._remember(subscription)));
  }

  /**
   * Subscribe anew because the numbers fell: the answer tells whether it is a new numbering, or
   * was one message twice. A server need not replay to what is live, so that ends first.
   */
  _anew(subscription) {
    if (!this._isOurs(subscription)) return;
    this._leave(subscription.channel);
    this._request(subscription);
  }

  /** Unsubscribe. Until that is answered, what comes of the channel is left over. */
  _leave(channel) {
    if (this.state !== "connected") return;
    const id = this._remember(null);
    this._left.delete(channel); // so that the newest stand last
    this._left.set(channel, id);
    if (this._left.size > MAX_UNANSWERED) this._left.delete(this._left.keys().next().value);
    this.send({type: "unsubscribe", channel, data: channel, id});
  }

  _remember(subscription) {
    const id = `ws-hub:${this._nextId++}`; // none that an application gives its own messages
    this._requests.set(id, subscription);
    if (this._requests.size > MAX_UNANSWERED + this._subscriptions.size) {
      for (const [each, whose] of this._requests) {
        if (whose !== null) continue;
        this._requests.delete(each);
        break;
      }
    }
    return id;
  }

  _forget(subscription) {
    if (subscription._pending !== null) this._requests.set(subscription._pending, null);
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
    this._startTimeout("no token");
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
    const byProtocol = Boolean(token) && tokenIn === "subprotocol";
    // One that comes twice is refused by browsers.
    const offered = [...new Set([protocols, byProtocol ? tokenProtocols(token) : []].flat())];
    let socket;
    try {
      socket = new this.options.WebSocket(this.url, offered);
    } catch (error) { // a URL that can never work
      this._end(1006, String(error.message ?? error));
      return;
    }
    this._socket = socket;
    // A socket that we gave up may still speak: it is no longer listened to.
    const mine = (fn) => (event) => {
      if (this._socket === socket) fn(event);
    };
    let fault = ""; // what a browser does not tell, other implementations do
    // Set whatever happens: npm `ws` ends a process that does not listen to its errors.
    socket.onerror = mine((event) => (fault = String(event?.message ?? "")));
    socket.onopen = mine(() => {
      if (byProtocol && socket.protocol === "") {
        this._end(1006, NOT_LOOKED_AT);
        socket.close(1000);
        return;
      }
      if (token && tokenIn === "message") socket.send(JSON.stringify({type: "auth", data: token}));
      this._opened();
    });
    socket.onmessage = mine((event) => this._received(event.data, socket));
    socket.onclose = mine((event) => {
      if (byProtocol && /no subprotocol/i.test(fault)) this._end(1006, NOT_LOOKED_AT);
      else this._lost(event.code, event.reason || fault);
    });
    this._startTimeout("no answer");
    if (this.state !== "connecting") this._become("connecting", {attempt: this.attempt});
  }

  _opened() {
    clearTimeout(this._timers.connect);
    const {stableAfter} = this.options;
    if (stableAfter > 0) this._timer("stable", stableAfter, () => (this.attempt = 0));
    else this.attempt = 0;
    this._heard = this._asked = performance.now();
    this._watch();
    this._become("connected", {attempt: this.attempt});
    for (const subscription of this._subscriptions.values()) {
      if (subscription._pending === null) this._request(subscription); // a listener has, else
    }
  }

  /** Ask after a silence: browsers hide ping frames, and a dead line says nothing. */
  _watch() {
    const {pingInterval} = this.options;
    if (!isWait(pingInterval)) return;
    const left = pingInterval - (performance.now() - this._heard);
    if (left > 0) this._timer("ping", left, () => this._watch());
    else this._ask();
  }

  /** Ask for a sign of life, and give the server up when none comes. */
  _ask() {
    const {pingInterval, pingTimeout} = this.options;
    const asked = (this._asked = performance.now());
    this.send({type: "ping", id: this._remember(null)});
    if (isWait(pingTimeout)) {
      this._timer("ping", pingTimeout, () => {
        if (this._heard >= asked) this._watch();
        else this._giveUp("the server is silent");
      });
    } else if (isWait(pingInterval)) {
      this._timer("ping", pingInterval, () => this._ask());
    }
  }

  _giveUp(reason) {
    const socket = this._drop();
    socket?.close(CLOSE_GOING_AWAY, reason); // its own close may take a minute: not waited for
    this._retry(1006, reason);
  }

  _lost(code, reason) {
    if (FINAL_CODES.has(code)) {
      this._end(code, reason);
      return;
    }
    this._drop();
    this._retry(code, reason);
  }

  _end(code, reason) {
    this._drop();
    this._become("closed", {code, reason});
  }

  _retry(code, reason) {
    const {initialBackoff, maxBackoff, multiplier, jitter, random} = this.options;
    const told = SPREAD_CODES.has(code);
    const asked = told ? waitAsked(reason) : null;
    this._told = asked !== null;
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
    for (const subscription of this._subscriptions.values()) subscription._reset();
    this._requests.clear();
    this._left.clear();
    this._answers = false;
    this._checked(false);
    return socket;
  }

  _startTimeout(reason) {
    const {connectTimeout} = this.options;
    if (isWait(connectTimeout)) this._timer("connect", connectTimeout, () => this._giveUp(reason));
  }

  _timer(name, delay, fn) {
    clearTimeout(this._timers[name]);
    this._timers[name] = setTimeout(fn, Math.min(delay, LONGEST_TIMER));
  }

  _checked(alive) {
    for (const done of this._checks.splice(0)) done(alive);
  }

  _become(state, detail) {
    this.state = state;
    this._emit("state", {state, ...detail});
  }

  _emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }

  // --- what comes in -----------------------------------------------------------------------

  _received(data, socket) {
    this._heard = performance.now();
    this._checked(true);
    if (typeof data !== "string") {
      this._emit("error", {error: new TypeError("a binary message")});
      return;
    }
    for (const text of splitBatch(data)) {
      if (this._socket !== socket) return; // ended by what a message before it led to
      let message;
      try {
        message = JSON.parse(text);
      } catch (error) {
        this._emit("error", {error});
        continue;
      }
      if (message !== null && typeof message === "object") this._dispatch(message);
      else this._emit("error", {error: new TypeError("a message must be a JSON object")});
    }
  }

  _dispatch(message) {
    const {type, id, channel} = message;
    const isAnswer = type === "ack" || type === "error" || type === "pong";
    if (isAnswer && this._requests.has(id)) {
      this._answered(message);
      return;
    }
    const subscription = this._subscriptions.get(channel);
    if (type === "error") {
      if (subscription?._pending === null && isEnd(message)) {
        call(subscription.options.onError, message);
      }
      this._emit("error", {message});
    } else if (subscription) {
      if (type === "lagged") this._lagged(subscription);
      else if (this._isCurrent(message) && subscription._take(message.seq)) {
        // Unless what it was told of a gap has made it close. A "skip" is the number alone of a
        // message that this client is excluded from.
        if (type !== "skip" && this._isOurs(subscription)) call(subscription.handler, message);
      }
    } else if (type !== "pong" && !this._left.has(channel)) {
      this._emit("message", message);
    }
  }

  _answered(message) {
    const {type, id} = message;
    const subscription = this._requests.get(id);
    this._requests.delete(id);
    this._answers = true;
    if (subscription === null) {
      for (const [channel, left] of this._left) if (left === id) this._left.delete(channel);
    } else if (type === "ack") {
      subscription._accepted(message.data ?? {});
    } else {
      subscription._pending = null;
      this._refused(subscription, message);
    }
  }

  _isOurs(subscription) {
    return this._subscriptions.get(subscription.channel) === subscription;
  }

  /** Say whether a message is of a channel's newest subscription, as far as that can be known. */
  _isCurrent({channel, seq}) {
    return Number.isInteger(seq) || !this._answers || !this._left.has(channel);
  }

  _lagged(subscription) {
    if (subscription._pending !== null || !subscription._live) return; // an older one's
    call(subscription.options.onLagged);
    if (this._isOurs(subscription)) this._request(subscription);
  }

  _refused(subscription, message) {
    if (message.code === "internal" || message.code === "rate_limited") {
      // The server's trouble, not ours: ask again.
      const delay = fullJitter(2 * this.options.initialBackoff, this.options.random);
      subscription._retry = setTimeout(() => this._request(subscription), delay);
      return;
    }
    call(subscription.options.onError, message);
    this._emit("error", {message});
  }
}
