/* A client of a ws_hub server, or a Go hub, for browsers and Node. */

const LONGEST_TIMER = 2147483647;
const MAX_NAME = 4096; // twice in a request of 64 KiB
const OWN_ID = "ws-hub:"; // begins ids of this file
const OPTIONS = "since last sinceTime filter buffer onSync onGap onLagged onError";
const FIELDS =
  "type data channel id key code processId timestamp seq epoch stream time line " +
  "since last since_time before limit idempotencyKey filter";
const NOT_LOOKED_AT =
  'the server selected no subprotocol, so it has not looked at the token: use tokenIn: "message"';

const WHY = "See the server's log: 401 not logged in, 403 another origin, 404 no hub there, 503 not started";

export function calculateBackoff(attempt, initial = 1000, maximum = 30000, multiplier = 2) {
  return Math.min(initial * multiplier ** (Math.max(attempt, 1) - 1), maximum);
}

export function fullJitter(delay, random = Math.random) {
  return delay * random();
}

export function waitAsked(reason) {
  const found = /come back after (\d{1,9}) ms/.exec(reason);
  return found && Math.min(found[1], 3600000);
}

export function splitBatch(text) {
  return text.split("\n").filter((piece) => piece.trim());
}

export function readAt({time, timestamp} = {}) {
  if (Number.isSafeInteger(time)) return time / 1000;
  const [, finer = ""] = /\.\d{3}(\d+)/.exec(timestamp) ?? [];
  return Date.parse(timestamp) + Number(`0.${finer}`);
}

export function webSocketUrl(url, base = globalThis.location?.href) {
  const absolute = new URL(url, base);
  absolute.protocol = absolute.protocol.replace(/^http/, "ws");
  absolute.hash = "";
  return absolute.href;
}

export function tokenProtocols(token) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  const base64 = btoa(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  return ["ws-hub", `bearer.${base64}`];
}

const report = (error) => (globalThis.reportError ?? console.error)(error);
const warn = (...what) => console.warn("ws_hub:", ...what);

function checkNames(given, known, hint = "") {
  const others = Object.keys(given).filter((name) => !known.split(" ").includes(name));
  if (others.length) warn(`${others} is not read${hint}; known: ${known}`);
}

function checkOptions(given) {
  if (typeof given !== "object") throw new TypeError("options must be an object");
}

function call(fn, ...args) {
  try {
    const result = fn?.(...args);
    result?.then?.(undefined, report);
  } catch (error) {
    report(error);
  }
}

function checkChannel(channel) {
  if (!channel || typeof channel !== "string") { // broadcasts are of channel undefined
    throw new TypeError(`a channel must be a text, not ${String(channel)}`);
  }
  if (channel.length > MAX_NAME) throw new RangeError(`a channel has over ${MAX_NAME} characters`);
}

// A RangeError for what is no time.
function isoTime(time) {
  return time === undefined ? time : new Date(time).toISOString();
}

// A refused publish says `Publish: ...`.
export function isEnd({id, code, data}) {
  return id === undefined && code === "forbidden" && String(data).startsWith("Subscribe:");
}

// 0, Infinity, NaN: no timer.
function isWait(milliseconds) {
  return milliseconds > 0 && milliseconds < Infinity;
}

export class HubError extends Error {
  constructor(message, code) {
    super(message);
    this.name = "HubError";
    this.code = code;
  }
}

const closed = (what) => new HubError(`${what} is closed`, "closed");
const refusal = ({data, code = "error"}) => new HubError(String(data), code);

// Messages before the answer to the newest request are an older one's, or come again.
export class Subscription {
  constructor(client, channel, handler, options) {
    this.channel = channel;
    this.handler = handler;
    this.options = {buffer: 1000, ...options};
    const {buffer, sinceTime} = this.options;
    isoTime(sinceTime);
    if (!(buffer >= 1)) throw new RangeError(`buffer must be a number of messages, not ${buffer}`);
    this.seq = 0;
    this.epoch = "";
    this.synced = false;
    this.dropped = 0;
    this._client = client;
    this._retry = null;
    this._loops = new Set();
    this._first = handler ? null : {kept: [], lost: 0};
    this._info = this._error = this._ready = this._settle = null;
    this._reset();
  }

  // Made when asked for: one that nobody holds must not fail.
  get ready() {
    this._ready ??= new Promise((resolve, reject) => {
      this._settle = {resolve, reject};
      if (this._info) resolve(this._info);
      else if (this._error || !this._client._isOurs(this)) this._refuse(this._error);
    });
    return this._ready;
  }

  [Symbol.asyncIterator]() {
    const loop = this._first ?? {kept: [], lost: 0};
    this._first = null;
    this._loops.add(loop);
    if (this._error || !this._client._isOurs(this)) this._refuse(this._error);
    return this._iterate(loop);
  }

  close() {
    this._client._unsubscribe(this);
  }

  async *_iterate(loop) {
    const {channel, handler, options} = this;
    try {
      for (;;) {
        const {kept, lost, over, error} = loop;
        loop.lost = 0;
        this.dropped += lost;
        if (lost && !options.onGap) warn(`${channel}: a loop is too slow, ${lost} messages are lost`);
        if (lost) call(options.onGap, lost);
        if (kept.length) yield kept.shift();
        else if (!over) await new Promise((wake) => (loop.wake = wake));
        else if (error) throw error;
        else return;
      }
    } finally {
      if (this._loops.delete(loop) && !this._loops.size && !handler) this.close();
    }
  }

  _give(message) {
    call(this.handler, message);
    for (const loop of [this._first, ...this._loops]) {
      if (loop?.kept.push(message) > this.options.buffer) {
        loop.kept.shift();
        loop.lost += 1;
      }
      loop?.wake?.();
    }
  }

  _refuse(error) {
    this._error = error;
    this._settle?.reject(error ?? closed(this.channel));
    for (const loop of this._loops) {
      Object.assign(loop, {over: true, error});
      loop.wake?.();
    }
  }

  _reset() {
    clearTimeout(this._retry);
    this._pending = null; // id of the newest request without an answer
    this._live = false; // answered on this connection: its numbers count
    this._answer = null; // until the first message of its replay
    this._head = 0; // the replay ends there
    this._replaying = 0; // messages of it to come
    this._middle = null; // {last, bytes} of messages that the server has let go
  }

  _request(id) {
    this._pending = id;
    this._answer = null;
    const {channel, options} = this;
    const {since, last, sinceTime, filter} = options;
    const request = {type: "subscribe", channel, data: channel, id, filter};
    if (this.epoch) return {...request, since: this.seq, epoch: this.epoch};
    if (since !== undefined) request.since = since;
    else if (last !== undefined) request.last = last;
    else request.since_time = isoTime(sinceTime);
    return request;
  }

  _accepted({epoch, seq, replayed, recovered, keyed, sparse}) {
    this._pending = this._error = null;
    this._sparse = sparse; // a hole is no gap
    if (keyed && !recovered) this.epoch = ""; // all keys follow
    this._live = true;
    const numbered = typeof epoch === "string" && Number.isInteger(seq);
    this._head = numbered ? seq : 0;
    this._replaying = numbered && Number.isInteger(replayed) ? replayed : 0;
    const kept = numbered ? epoch : "";
    this._answer = {epoch: kept, replayed: this._replaying, recovered: recovered !== false};
    if (!this._replaying) this._sync(this._head + 1);
  }

  // `kept`: the first message that the server still keeps.
  _sync(kept) {
    const {epoch, replayed, recovered} = this._answer;
    this._answer = null;
    const first = !this.synced;
    const known = !first && this.epoch !== "";
    const restarted = known && (epoch !== this.epoch || this._head < this.seq);
    let had = null; // the last that is not missing
    if (restarted) had = 0;
    else if (known) had = recovered ? null : this.seq;
    else if (first && (this.options.since === 0 || !recovered)) had = this.options.since ?? null;
    const missed = epoch && had !== null ? Math.max(0, kept - had - 1) : 0;
    if (restarted || !known) this.seq = 0;
    this.seq = replayed ? Math.max(this.seq, kept - 1) : this._head;
    this._whole = recovered;
    this.epoch = epoch;
    this.synced = true;
    this._info = {first, replayed, recovered, restarted, missed, ...this._sized(kept)};
    this._settle?.resolve(this._info);
    call(this.options.onSync, this._info);
  }

  _gap({after, messages, bytes}) {
    if (this._pending === null) this._middle = {last: after + messages, bytes};
  }

  // How many bytes are missing before a number, where the server has said that.
  _sized(seq) {
    const {last, bytes} = this._middle ?? {};
    return last === seq - 1 && Number.isInteger(bytes) ? {bytes} : {};
  }

  _take(seq) {
    if (!Number.isInteger(seq)) return true; // of a channel without history, or passing
    // Not even the next number: the numbering may have begun again.
    if (this._pending !== null) return false;
    if (this._answer) this._sync(Math.min(seq, this._head + 1));
    const replayed = this._replaying > 0 && seq <= this._head;
    this._replaying = replayed ? this._replaying - 1 : 0;
    if (seq <= this.seq) {
      if (!replayed && this.epoch) this._client._anew(this);
      return false;
    }
    // In a replay that is whole a hole is no gap.
    const whole = replayed && this._whole;
    const gap = seq - this.seq - 1;
    if (gap > 0 && this.epoch && !whole && !this._sparse) call(this.options.onGap, gap, ...Object.values(this._sized(seq)));
    this.seq = whole && !this._replaying ? Math.max(seq, this._head) : seq;
    return true;
  }
}

export class HubClient extends EventTarget {
  static fromPage(options) {
    const page = globalThis.document;
    const told = options?.url ?? page?.querySelector('meta[name="ws-hub"]')?.content;
    const url = new URL(told || "ws", told ? page.baseURI : import.meta.url);
    const client = new this(url, options);
    for (const name of ["online", "offline", "visibilitychange"]) {
      globalThis.addEventListener?.(name, () => page?.hidden || client.wake());
    }
    client.connect();
    return client;
  }

  constructor(url, options = {}) {
    super();
    checkOptions(options);
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
      tokenIn: "subprotocol",
      WebSocket: globalThis.WebSocket,
      random: Math.random,
      ...options,
    };
    for (const name of ["initialBackoff", "maxBackoff", "multiplier"]) {
      const value = this.options[name];
      if (!(value > 0)) throw new RangeError(`${name} must be a positive number, not ${value}`);
    }
    const {shared, token, WebSocket} = this.options;
    if (!WebSocket) throw new TypeError("there is no WebSocket here: give one as {WebSocket}");
    if (shared === true && token) { // a tab must not get what another user may read
      throw new TypeError('with a token, shared must name whose connection it is: "user 7"');
    }
    this.state = "idle";
    this.attempt = 0;
    this._listened = new Set();
    this._calls = new Map(); // id → a request
    this._subscriptions = new Map();
    this._requests = new Map(); // id → a subscription
    this._left = new Map(); // channel → id of its unsubscribe
    this._answers = false; // this server does: it is no Go hub
    this._nextId = 1;
    this._socket = this._share = null; // makes the shared ones
    this._asking = null; // the attempt that waits for a token
    this._timers = {};
    this._told = false; // the wait is one that the server asked for
    this._heard = this._asked = 0; // when the server last spoke, and was asked to
    this._checks = [];
  }

  addEventListener(name, ...rest) {
    this._listened.add(name);
    super.addEventListener(name, ...rest);
  }

  on(name, fn) {
    if (typeof fn !== "function") throw new TypeError(`on(${name}): ${String(fn)} is no function`);
    const own = ["state", "message", "error"].includes(name);
    const type = own ? name : `event:${name}`;
    const listener = ({detail}) => (own ? call(fn, detail) : call(fn, detail.data.data, detail));
    this.addEventListener(type, listener);
    return () => this.removeEventListener(type, listener);
  }

  connect() {
    if (!["idle", "closed"].includes(this.state)) return;
    this.attempt = 0;
    this._open();
  }

  close(code = 1000, reason = "") {
    const socket = this._drop("closed");
    try {
      socket?.close(code, reason);
    } catch (error) {
      socket.close();
      report(error);
    }
    this._over(null, {code, reason});
  }

  retryNow() {
    if (this.state === "waiting") this._open();
  }

  async wake() {
    if (this.state === "waiting" && !this._told) this._open();
    if (this.state !== "connected") return false;
    const alive = new Promise((done) => this._checks.push(done));
    if (this._asked <= this._heard) this._ask();
    return alive;
  }

  send(message) {
    const sent = this._say(message);
    if (!sent) {
      warn("not connected, not sent:", message, "(request() waits, or SendBuffer of ws_hub_requests.js)");
    }
    return sent;
  }

  _say(message) {
    return this._write(this._encode(message));
  }

  _encode(message) {
    if (!message?.type || typeof message.type !== "string") {
      throw new TypeError('a message has a type: {type: "chat", data: "hi"}');
    }
    checkNames(message, FIELDS, ", put it into data");
    return JSON.stringify(message);
  }

  _write(text) {
    // A closing socket takes all and sends nothing.
    if (this.state !== "connected" || this._socket.readyState > 1) return false;
    this._socket.send(text);
    return true;
  }

  async request(type, data, options = {}, repeats = false) {
    checkOptions(options);
    const {timeout = 30000, ...fields} = options;
    if (this.state === "closed") throw closed(this.url);
    const id = this._newId();
    const text = this._encode({...fields, type, data, id});
    let timer;
    try {
      return await new Promise((resolve, reject) => {
        this._calls.set(id, {text, resolve, reject, repeats, sent: this._write(text)});
        if (!isWait(timeout)) return;
        const late = new HubError(`${type}: no answer within ${timeout} ms`, "timeout");
        timer = setTimeout(() => reject(late), Math.min(timeout, LONGEST_TIMER));
      });
    } finally {
      clearTimeout(timer);
      this._calls.delete(id);
    }
  }

  async publish(channel, data, options = {}) {
    checkChannel(channel);
    checkOptions(options);
    const idempotencyKey = `${Date.now()} ${Math.random()}`;
    return this.request("publish", data, {idempotencyKey, ...options, channel}, true);
  }

  async history(channel, options = {}) {
    checkChannel(channel);
    checkOptions(options);
    const {sinceTime, ...fields} = options;
    fields.since_time = isoTime(sinceTime);
    return this.request("history", undefined, {...fields, channel}, true);
  }

  subscribe(channel, handler, options) {
    if (typeof handler === "object" && !options) [handler, options] = [null, handler];
    if (typeof (handler ?? warn) !== "function" || typeof (options ??= {}) !== "object") {
      throw new TypeError('subscribe takes a function: subscribe("news", (message) => {}, {last: 9})');
    }
    checkNames(options, OPTIONS);
    checkChannel(channel);
    const there = this._subscriptions.get(channel);
    if (there && !handler && !Object.keys(options).length) return there; // for another loop
    if (there) {
      throw new Error(`${channel} is subscribed to already: close() that subscription first`);
    }
    const subscription = new Subscription(this, channel, handler, options);
    this._subscriptions.set(channel, subscription);
    this._request(subscription);
    setTimeout(() => this.state === "idle" && warn("call connect()"), 1000);
    return subscription;
  }

  _unsubscribe(subscription) {
    const {channel} = subscription;
    if (!this._isOurs(subscription)) return;
    this._subscriptions.delete(channel);
    this._requests.delete(subscription._pending);
    subscription._reset();
    subscription._refuse(null);
    this._leave(channel);
  }

  _request(subscription) {
    if (this.state !== "connected") return;
    this._requests.delete(subscription._pending);
    const id = this._newId();
    this._requests.set(id, subscription);
    this._say(subscription._request(id));
  }

  // The numbers fell. What is live gets no replay, so it ends.
  _anew(subscription) {
    if (!this._isOurs(subscription)) return;
    this._leave(subscription.channel);
    this._request(subscription);
  }

  // What comes before the answer is left over.
  _leave(channel) {
    if (this.state !== "connected") return;
    const id = this._newId();
    this._left.delete(channel);
    this._left.set(channel, id);
    // A Go hub never answers.
    if (this._left.size > 1024) this._left.delete(this._left.keys().next().value);
    this._say({type: "unsubscribe", channel, data: channel, id});
  }

  _newId() {
    return OWN_ID + this._nextId++;
  }

  _open() {
    this._drop();
    this.attempt += 1;
    const {token, shared} = this.options;
    if (Object(token) !== token && !shared) return this._dial(token);
    // The promise may outlive this attempt.
    const mine = (this._asking = {});
    const still = (fn) => (value) => {
      if (this._asking === mine) fn(value);
    };
    this._startTimeout("no token");
    this._become("connecting", {attempt: this.attempt});
    Promise.resolve()
      .then(async () => {
        if (shared) {
          const file = await import("./ws_hub_shared.js").catch(warn);
          this._share = (url, offered) => file?.openShared(url, offered, shared);
        }
        return typeof token === "function" ? token() : token;
      })
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
    // Browsers refuse one that comes twice.
    const offered = [...new Set([protocols, byProtocol ? tokenProtocols(token) : []].flat())];
    let socket;
    try {
      socket = this._share?.(this.url, offered) ?? new this.options.WebSocket(this.url, offered);
    } catch (error) { // a URL that can never work
      this._end(1006, String(error.message ?? error));
      return;
    }
    this._socket = socket;
    // A socket that was given up may still speak.
    const mine = (fn) => (event) => {
      if (this._socket === socket) fn(event);
    };
    let fault = "";
    socket.onerror = mine((event) => {
      fault = String(event?.message ?? "");
      // Node 22 tells no close.
      if (this.state === "connecting") this._timer("connect", 99, () => socket.onclose({code: 1006}));
    });
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
    for (const each of this._calls.values()) each.sent ||= this._write(each.text);
  }

  _watch() {
    const {pingInterval} = this.options;
    if (!isWait(pingInterval)) return;
    const left = pingInterval - (performance.now() - this._heard);
    if (left > 0) this._timer("ping", left, () => this._watch());
    else this._ask();
  }

  _ask() {
    const {pingInterval, pingTimeout} = this.options;
    const asked = (this._asked = performance.now());
    this._say({type: "ping", id: this._newId()});
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
    this._drop(reason)?.close(4000, reason);
    this._retry(1006, reason);
  }

  _lost(code, reason) {
    if ([4401, 4403].includes(code)) { // would be given again
      this._end(code, reason);
      return;
    }
    this._drop(reason || `code ${code}`);
    this._retry(code, reason);
  }

  _end(code, reason) {
    const why = reason || `code ${code}`;
    this._drop(why);
    if (!this._listened.has("state")) warn(`${this.url} is closed: ${why}`);
    this._over(new HubError(why, "disconnected"), {code, reason});
  }

  _over(error, detail) {
    for (const each of this._calls.values()) each.reject(error ?? closed(this.url));
    for (const subscription of this._subscriptions.values()) subscription._refuse(error);
    this._become("closed", detail);
  }

  _retry(code, reason) {
    const {initialBackoff, maxBackoff, multiplier, jitter, random} = this.options;
    const told = [1001, 1012, 1013].includes(code); // of many
    const asked = told ? waitAsked(reason) : null;
    this._told = asked !== null;
    let delay = calculateBackoff(this.attempt, initialBackoff, maxBackoff, multiplier);
    if (asked !== null) delay = Math.max(delay, asked);
    else if (told) delay = Math.min(Math.max(delay, 5000), maxBackoff);
    if (!this._heard && this.attempt === 1 && !this._listened.has("state")) {
      warn(`${this.url}: no connection yet. ${WHY}`);
    }
    const retryIn = (asked ?? 0) + (jitter || told ? fullJitter(delay, random) : delay);
    this._timer("retry", retryIn, () => this._open());
    this._become("waiting", {attempt: this.attempt, retryIn, code, reason});
  }

  _drop(reason) {
    const socket = this._socket;
    for (const each of this._calls.values()) {
      if (each.sent && !each.repeats) {
        each.reject(new HubError(`the connection was lost: ${reason}`, "disconnected"));
      }
      each.sent = false;
    }
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

  _emit(name, detail, told = false) {
    if (this._listened.has(name)) this.dispatchEvent(new CustomEvent(name, {detail}));
    else if (name === "error" && !told) warn(detail.message?.data ?? detail.error);
  }

  _received(data, socket) {
    this._heard = performance.now();
    this._checked(true);
    if (typeof data !== "string") {
      this._emit("error", {error: new TypeError("a binary message")});
      return;
    }
    for (const text of splitBatch(data)) {
      if (this._socket !== socket) return; // ended by a message before it
      let message;
      try {
        message = JSON.parse(text);
        if (Object(message) !== message) throw new TypeError("a message must be a JSON object");
      } catch (error) {
        this._emit("error", {error});
        continue;
      }
      this._dispatch(message);
    }
  }

  _dispatch(message) {
    const {type, id, channel, seq} = message;
    if (["ack", "error", "pong"].includes(type) && String(id).startsWith(OWN_ID)) {
      this._answered(message);
      return;
    }
    const subscription = this._subscriptions.get(channel);
    const left = this._left.has(channel);
    if (type === "error") {
      if (subscription?._pending === null && isEnd(message)) this._ended(subscription, message);
      else this._emit("error", {message});
    } else if (type === "lagged" && subscription) {
      this._lagged(subscription);
    } else if (type === "history_gap" && subscription) {
      subscription._gap(message.data ?? {});
    } else if (subscription) {
      // Without a number, before the unsubscribe is answered: an older one's.
      const current = Number.isInteger(seq) || !this._answers || !left;
      if (!current || !subscription._take(seq)) return;
      // Its onGap may have closed it. "skip" is a number alone.
      if (type !== "skip" && this._isOurs(subscription)) subscription._give(message);
      this._named(message);
    } else if (type !== "pong" && !left) {
      this._emit("message", message);
      this._named(message);
    }
  }

  _named(message) {
    const {type, data} = message;
    if (type === "event" && typeof data?.event === "string") this._emit(`event:${data.event}`, message);
  }

  _answered(message) {
    const {type, id, data} = message;
    const subscription = this._requests.get(id);
    this._requests.delete(id);
    this._answers = true;
    if (!subscription) {
      for (const [channel, left] of this._left) if (left === id) this._left.delete(channel);
      const asked = this._calls.get(id); // none if it is late
      if (type === "error") asked?.reject(refusal(message));
      else asked?.resolve(data);
    } else if (type === "ack") {
      subscription._accepted(data ?? {});
    } else {
      subscription._pending = null;
      if (!["internal", "rate_limited"].includes(message.code)) {
        this._ended(subscription, message);
        return;
      }
      // Not our fault: ask again.
      const delay = fullJitter(2 * this.options.initialBackoff, this.options.random);
      subscription._retry = setTimeout(() => this._request(subscription), delay);
    }
  }

  _isOurs(subscription) {
    return this._subscriptions.get(subscription.channel) === subscription;
  }

  _lagged(subscription) {
    if (subscription._pending !== null || !subscription._live) return; // an older one's
    call(subscription.options.onLagged);
    if (this._isOurs(subscription)) this._request(subscription);
  }

  _ended(subscription, message) {
    const {options, _loops, _ready} = subscription;
    call(options.onError, message);
    subscription._refuse(refusal(message));
    this._emit("error", {message}, options.onError || _loops.size || _ready);
  }
}
