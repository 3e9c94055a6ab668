/* ws_hub_shared.js: one connection for several tabs of a site, loaded by `{shared: ...}`.
 *
 * A page imports it for `openShared`; a SharedWorker runs it and holds the connection. All that
 * a client does, its positions, requests and waits, is done in each tab as without it.
 */

import {isEnd, splitBatch} from "./ws_hub.js";

const CLOSE_GOING_AWAY = 4000; // a tab gives the connection up: the server is silent
const MAX_UNANSWERED = 16384; // requests that a Go hub, which never answers, makes us remember
const WORKER = "ws-hub:2 "; // begins a worker's name; counted up when what tabs say to it changes
const [CONNECTING, OPEN, CLOSED] = [0, 1, 3]; // of a WebSocket's readyState

let possible = Boolean(globalThis.SharedWorker && globalThis.navigator?.locks);

/** Return a socket on the connection of all tabs of a group; null where tabs cannot share. */
export function openShared(url, offered, group) {
  try {
    return possible ? new TabSocket(url, offered, group) : null;
  } catch { // a file from another site is no worker of this one
    possible = false;
    return null;
  }
}

/**
 * A socket of a tab whose connection is a SharedWorker's. The worker knows by a lock that the
 * tab is there: a lock is released with its tab, whatever ends it.
 */
class TabSocket {
  constructor(url, offered, group) {
    const name = `${WORKER}${group} ${url}`;
    const worker = new SharedWorker(import.meta.url, {type: "module", name});
    this.readyState = CONNECTING;
    this.protocol = "";
    this._port = worker.port;
    worker.onerror = () => {
      possible = false; // the client tries again, without
      this._end(1006, "there is no shared worker");
    };
    this._port.onmessage = ({data}) => {
      if (typeof data === "string") {
        this.onmessage({data});
      } else if ("code" in data) {
        this._end(data.code, data.reason);
      } else {
        Object.assign(this, {readyState: OPEN, protocol: data.protocol});
        this.onopen({});
      }
    };
    const lock = `ws-hub:${crypto.randomUUID()}`;
    const held = new Promise((release) => (this._release = release));
    navigator.locks.request(lock, () => {
      this._port.postMessage({lock, url, offered});
      return held;
    });
  }

  send(text) {
    this._port.postMessage(text);
  }

  close(code) {
    this.readyState = CLOSED;
    this._port.postMessage({code});
    this._release();
  }

  _end(code, reason) {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this._release();
    this.onclose({code, reason});
  }
}

/**
 * The connection of several tabs, in the worker. Each tab speaks the wire as to a server; here
 * ids are exchanged for others, and what comes is passed to the tabs that it is for.
 *
 * A channel is subscribed to once, and without a filter. What does not pass the filter of a tab
 * is taken out here: in its place the tab gets the number alone, or the deletion of a key that it
 * has. A tab that comes later has it subscribed to anew, so that the
 * server replays to it; the others, whose numbers go on, get none of that replay. Should they
 * have missed something between, they are told that they lag, and catch up from their positions.
 */
class SharedConnection {
  constructor({url, offered}, over) {
    this._over = over;
    this._tabs = new Set(); // ports
    this._channels = new Map();
    this._asked = new Map(); // id → what the answer is for
    this._nextId = 1;
    this._authed = false;
    const socket = (this._socket = new WebSocket(url, offered));
    socket.onopen = () => {
      for (const tab of this._tabs) tab.postMessage({protocol: socket.protocol});
    };
    socket.onmessage = ({data}) => {
      if (typeof data !== "string") return;
      for (const text of splitBatch(data)) this._received(text);
    };
    socket.onclose = ({code, reason}) => this._lost(code, reason);
  }

  join(tab, lock) {
    this._tabs.add(tab);
    tab.onmessage = ({data}) => {
      if (typeof data === "string") this._sent(tab, JSON.parse(data));
      else if (data.code === CLOSE_GOING_AWAY) this._lost(1006, "the server is silent");
    };
    if (this._socket.readyState === OPEN) tab.postMessage({protocol: this._socket.protocol});
    navigator.locks.request(lock, () => this._leave(tab));
  }

  _leave(tab) {
    this._tabs.delete(tab);
    for (const name of this._channels.keys()) this._unsubscribe(tab, name);
    if (!this._tabs.size) this._lost(1000, "");
  }

  _lost(code, reason) {
    this._over(this);
    this._socket.onclose = this._socket.onmessage = null;
    this._socket.close();
    for (const tab of this._tabs) tab.postMessage({code, reason});
    this._tabs.clear();
  }

  _write(message) {
    if (this._socket.readyState === OPEN) this._socket.send(JSON.stringify(message));
  }

  _ask(message, answered) {
    const id = `ws-hub:${this._nextId++}`;
    this._asked.set(id, answered);
    if (this._asked.size > MAX_UNANSWERED) {
      this._asked.delete(this._asked.keys().next().value);
    }
    this._write({...message, id});
  }

  // --- from a tab --------------------------------------------------------------------------

  _sent(tab, message) {
    const {type, id, channel, data} = message;
    const name = channel || data;
    if (type === "subscribe") {
      this._subscribe(tab, name, message);
    } else if (type === "unsubscribe") {
      this._unsubscribe(tab, name);
      answer(tab, id, {type: "ack", data: {channel: name}});
    } else if (type === "ack" || type === "error") { // to what the server asks, whichever tab is first
      this._write(message);
    } else if (id !== undefined) {
      this._ask(message, (reply) => answer(tab, id, reply));
    } else if (type !== "auth" || !this._authed) { // the first tab says who we are
      this._authed ||= type === "auth";
      this._write(message);
    }
  }

  _subscribe(tab, name, {filter, ...request}) {
    const fault = filterFault(filter);
    if (fault) {
      answer(tab, request.id, {type: "error", channel: name, data: fault, code: "bad_message"});
      return;
    }
    let channel = this._channels.get(name);
    if (!channel) {
      // `tabs` have subscribed to it, `live` are those of them that stand at `seq` of `epoch`.
      channel = {
        name,
        tabs: new Set(),
        filters: new Map(), // tab → {filter, keys}: the keys that it has, null when not known
        live: new Set(),
        waiting: [],
        asking: null, // the first of those that waited, until it has its replay
        presence: false, // the server tells who is there
        on: false, // the server has been asked for it
        epoch: "",
        seq: 0,
        head: 0, // up to it messages are the replay of the tab that asked
      };
      this._channels.set(name, channel);
    }
    if (filter) {
      const keys = request.epoch ? (channel.filters.get(tab)?.keys ?? null) : new Set();
      channel.filters.set(tab, {filter, keys});
    } else {
      channel.filters.delete(tab);
    }
    channel.tabs.add(tab);
    channel.live.delete(tab);
    channel.waiting.push({tab, message: request, left: -1}); // left: messages to come of its replay
    this._next(channel);
  }

  /** Ask for the next tab, when the one before it has its replay. */
  _next(channel) {
    const {name, live, waiting, epoch, seq} = channel;
    if (channel.asking || !waiting.length) return;
    const asking = waiting.shift();
    const {tab, message} = asking;
    const at = message.epoch === epoch ? message.since : 0;
    if (live.size && at === seq) { // there is nothing to replay
      const more = epoch && {epoch, seq, recovered: true, replayed: 0, ...channel.kind};
      answer(tab, message.id, {type: "ack", data: {channel: name, ...more}});
      live.add(tab);
      this._present(channel, tab);
      this._next(channel);
      return;
    }
    channel.asking = asking;
    if (channel.on) this._ask({type: "unsubscribe", channel: name, data: name}, () => {});
    channel.on = true;
    this._ask(message, (reply) => this._answered(channel, asking, reply));
  }

  _answered(channel, asking, reply) {
    if (channel.asking !== asking) return; // it has left
    const {epoch = "", seq = 0, replayed = 0, keyed, sparse} = reply.data ?? {};
    channel.on = reply.type === "ack";
    if (!channel.on || channel.epoch !== epoch || channel.seq !== seq) this._lag(channel);
    if (channel.on) Object.assign(channel, {epoch, seq, head: seq, kind: {keyed, sparse}});
    channel.presence = Boolean(reply.data?.presence);
    for (const tab of channel.tabs) { // of what changed meanwhile they were told nothing
      if (channel.presence && tab !== asking.tab) tell(tab, channel.name, reply.data.presence);
    }
    if (asking.tab) answer(asking.tab, asking.message.id, reply);
    asking.left = channel.on ? replayed : 0;
    if (asking.left === 0) this._done(channel, channel.on);
  }

  _done(channel, live) {
    const {tab} = channel.asking;
    if (tab && live) channel.live.add(tab);
    channel.asking = null;
    this._next(channel);
  }

  /** Tell a tab whose subscription was answered here who is there. */
  _present({name, presence}, tab) {
    if (!presence) return;
    this._ask({type: "presence", channel: name}, ({data}) => {
      if (data?.presence) tell(tab, name, data.presence);
    });
  }

  /** Have the tabs that are live subscribe again from where they are. */
  _lag({name, live, seq = 0}, text = JSON.stringify({type: "lagged", channel: name, seq})) {
    for (const tab of live) tab.postMessage(text);
    live.clear();
  }

  _unsubscribe(tab, name) {
    const channel = this._channels.get(name);
    if (!channel?.tabs.delete(tab)) return;
    channel.filters.delete(tab);
    channel.live.delete(tab);
    channel.waiting = channel.waiting.filter((each) => each.tab !== tab);
    if (channel.asking?.tab === tab) channel.asking.tab = null;
    if (channel.tabs.size) return;
    channel.asking = null;
    channel.on = false;
    this._ask({type: "unsubscribe", channel: name, data: name}, () => {
      if (!channel.tabs.size && this._channels.get(name) === channel) this._channels.delete(name);
    });
  }

  // --- from the server ---------------------------------------------------------------------

  _received(text) {
    let message = null;
    try {
      message = JSON.parse(text);
    } catch {
      // The tabs say so.
    }
    const answered = this._asked.get(message?.id);
    if (answered) {
      this._asked.delete(message.id);
      answered(message);
      return;
    }
    const channel = this._channels.get(message?.channel);
    for (const tab of channel ? this._targets(channel, message, text) : [...this._tabs]) {
      const view = channel?.filters.get(tab);
      const passed = view ? throughFilter(view, message, text) : text;
      if (passed) tab?.postMessage(passed);
    }
  }

  _targets(channel, message, text) {
    const {asking, live} = channel;
    const replaying = asking?.left > 0;
    if (message.type === "lagged") {
      if (replaying) {
        if (asking.tab) live.add(asking.tab);
        this._lag(channel, text);
        this._done(channel, false);
      } else {
        this._lag(channel, text);
      }
      return [];
    }
    if (isEnd(message)) {
      channel.on = false;
      live.clear();
    }
    if (message.type === "history_gap") return replaying && asking.tab ? [asking.tab] : [];
    if (!Number.isInteger(message.seq)) return [...channel.tabs];
    if (replaying && message.seq <= channel.head) {
      asking.left -= 1;
      const {tab} = asking;
      if (asking.left === 0) this._done(channel, true);
      return [tab];
    }
    if (replaying) this._done(channel, true); // states that were replaced do not come
    if (message.seq <= channel.seq) channel.epoch = null; // begun again: a position says nothing
    channel.seq = message.seq;
    return [...live];
  }
}

/** Return the reason why something is no filter; a server's bounds hold here too. */
function filterFault(filter) {
  if (filter === undefined || filter === null) return "";
  const fields = isObject(filter) ? Object.values(filter) : null;
  const isValue = (value) => value === null || ["string", "number", "boolean"].includes(typeof value);
  if (!fields?.every((values) => Array.isArray(values) && values.every(isValue))) {
    return "Subscribe: filter must map fields to lists of values";
  }
  const size = new TextEncoder().encode(JSON.stringify(filter)).length;
  if (fields.length > 8 || fields.flat().length > 64 || size > 1024) {
    return "Subscribe: filter must have at most 8 fields, 64 values in all, and 1024 bytes as JSON";
  }
  return "";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function passes(filter, data) {
  const fields = Object.entries(filter);
  if (!fields.length) return true;
  return isObject(data)
    && fields.every(([name, values]) => Object.hasOwn(data, name) && values.includes(data[name]));
}

/** Return what a tab with a filter gets in place of a message; null for nothing. */
function throughFilter({filter, keys}, message, text) {
  const {type, channel, key, seq, data, timestamp, code} = message;
  if (code || ["presence", "lagged", "skip", "history_gap"].includes(type)) return text; // the server's own
  if (passes(filter, data)) {
    if (key) keys?.add(key);
    return text;
  }
  if (key && (!keys || keys.delete(key))) { // it had a state that passed
    return JSON.stringify({type: "event", channel, key, timestamp, seq});
  }
  return Number.isInteger(seq) ? JSON.stringify({type: "skip", channel, seq}) : null;
}

function tell(tab, channel, data) {
  tab.postMessage(JSON.stringify({type: "presence", channel, data}));
}

/** Tell a tab the answer to what it sent; of one without an id only an error, as a server does. */
function answer(tab, id, reply) {
  if (id !== undefined || reply.type === "error") tab.postMessage(JSON.stringify({...reply, id}));
}

if (globalThis.SharedWorkerGlobalScope && globalThis.name.startsWith(WORKER)) {
  let shared = null;
  globalThis.onconnect = ({ports: [tab]}) => {
    tab.onmessage = ({data}) => {
      if (!data.lock) return; // the tab has given it up before it could say hello
      try {
        shared ??= new SharedConnection(data, (one) => (shared = shared === one ? null : shared));
      } catch (error) { // ws: on a page of https:
        tab.postMessage({code: 1006, reason: String(error.message)});
        return;
      }
      shared.join(tab, data.lock);
    };
  };
}
