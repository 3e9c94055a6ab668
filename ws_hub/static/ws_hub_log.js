/* ws_hub_log.js: a log on any page, in one line.
 *
 *   <script type="module" src="/ws_hub_log.js"></script>
 *   <ws-hub-log channel="process:build-42"></ws-hub-log>
 *
 * Wires the connection (ws_hub.js), the meaning of messages (feed.js) and the log (log.js) in a
 * shadow tree. What comes from the network reaches the page as text nodes and attributes only.
 */

import {AnsiParser, LineAssembler} from "./ansi.js";
import {Feed} from "./feed.js";
import {JsonLines} from "./json_lines.js";
import {Source} from "./links.js";
import {LogView} from "./log.js";
import {counted} from "./messages.js";
import {Outline} from "./outline.js";
import {Problems} from "./problems.js";
import {TimeColumn} from "./time_column.js";
import {HubClient} from "../ws_hub.js";

export {AnsiParser, LineAssembler};

const MAX_LINES = 5000;
const SWITCHES = ["times", "numbers", "nowrap", "problems"];
const MODES = ["marked", "open", "folded"]; // of groups
const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
:host {
  display: block;
  position: relative;
  block-size: 24em;
  overflow: hidden;
  border: 1px solid light-dark(#dfe3e8, #2a2f37);
  border-radius: 6px;
}

:host([hidden]) { display: none; }
#frame { display: flex; flex-direction: column; block-size: 100%; }
#log { flex: 1; min-block-size: 0; }
#log:focus-visible { outline: 2px solid light-dark(#1a5fd0, #6cb0ff); outline-offset: -2px; }
#log:not(.numbers, .times) { --gutter: 12px; }
#log:not(.numbers, .times) .gutter::before { content: none; }

.problems.unwanted { display: none; }

#state {
  margin: 0;
  padding: 4px 12px;
  background: light-dark(#fdf3dc, #2b2313);
  color: light-dark(#8a5d00, #e3b341);
  font: 12px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere;
}

#state.quiet { background: light-dark(#f6f8fa, #16191f); color: light-dark(#59626d, #98a2ae); }
#state.bad { background: light-dark(#fdeaea, #32181a); color: light-dark(#c4262e, #ff7b72); }
#state:empty { display: none; }

#more {
  position: absolute;
  inset-inline-end: 18px;
  inset-block-end: 10px;
  min-block-size: 28px;
  padding: 2px 10px;
  border: 0;
  border-radius: 14px;
  background: light-dark(#1a5fd0, #6cb0ff);
  color: light-dark(#ffffff, #101216);
  font: 600 12px/1.4 system-ui, sans-serif;
  cursor: pointer;
}

#more:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
#more[hidden] { display: none; }

#say {
  position: absolute;
  inline-size: 1px;
  block-size: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}
`);

/* One connection for all logs of a page; another where a channel is shown twice. */
const pool = []; // {url, client, channels}

function lend(url, channel) {
  let found = pool.find((each) => each.url === url && !each.channels.has(channel));
  if (!found) {
    found = {url, client: connect(url), channels: new Set()};
    pool.push(found);
  }
  found.channels.add(channel);
  return found;
}

function connect(url) {
  try {
    return HubClient.fromPage(url ? {url} : {});
  } catch (error) {
    throw new Error(`url="${url}" is no address of a hub, such as "/ws" (${error.message})`);
  }
}

function giveBack(lent, channel) {
  lent.channels.delete(channel);
  if (!lent.channels.size) lent.client.close();
}

function rule(channel) {
  const what = channel.startsWith("process:") ? "an ID has A-Z a-z 0-9 _ - ." : "a name has A-Z a-z 0-9 _ - . :";
  return `. Without a rule of the server's own, ${what} only, as in "process:build-42"`;
}

function make(name, id, attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries({id, part: id, ...attributes})) element.setAttribute(key, value);
  return element;
}

// A browser tells a page nothing about a handshake that was refused.
const NO_CONNECTION = "No connection to the server yet, trying again… Why, say its log and the "
  + "browser's console: 401 not logged in, 403 another origin, 404 no hub there, 503 not started.";

const NO_CHANNEL = 'No channel is named. Write <ws-hub-log channel="process:build-42">, with the channel of yours.';
const NOT_CONNECTED = "The client that the page has given is not connected: call its connect().";
const PATIENCE = 1000; // milliseconds until an empty log says what it waits for

/**
 * `<ws-hub-log channel="process:build-42">`.
 *
 * Attributes: `channel`; `url` of the hub (by default as `HubClient.fromPage`); `lines` that are
 * kept (5000); `times` ("clock", "elapsed", "delta"), `numbers`, `nowrap`; `problems`, a list of errors
 * and warnings; `groups`: "folded" or "open", by default as the program marks them; `source-url` and
 * `source-root`: where places in files lead to, "https://github.com/o/r/blob/main/{file}#L{line}".
 * A page that has a client of its own, with a token
 * say, sets the property `client`; `channel` is one, too. What is wrong stands in the element, and
 * on the console. Event "status": what a `process_status` says, as detail.
 */
export class WsHubLog extends HTMLElement {
  static observedAttributes = ["channel", "url", "lines", "groups", "source-url", "source-root", ...SWITCHES];

  constructor() {
    super();
    const root = this.attachShadow({mode: "open"});
    root.adoptedStyleSheets.push(STYLE);
    this._log = make("div", "log", {role: "log", tabindex: 0, "aria-live": "off"});
    this._state = make("p", "state", {role: "status"});
    this._more = make("button", "more", {type: "button", hidden: ""});
    this._say = make("p", "say", {role: "status"});
    this._more.addEventListener("click", () => this._view?.follow(true));
    const frame = make("div", "frame");
    frame.append(this._state, this._log, this._more, this._say);
    root.append(frame);
    this._client = null; // the page's own
    this._stop = () => {};
    this._due = false;
    this._view = this._outline = this._problems = null;
  }

  get client() {
    return this._client;
  }

  set client(client) {
    if (client !== null && client !== undefined && typeof client.subscribe !== "function") {
      throw new TypeError("client must be a HubClient, as of HubClient.fromPage(), or null");
    }
    this._client = client ?? null;
    this._restart();
  }

  get channel() {
    return this.getAttribute("channel") ?? "";
  }

  set channel(channel) {
    if (channel === null || channel === undefined) this.removeAttribute("channel");
    else this.setAttribute("channel", channel);
  }

  connectedCallback() {
    // What a page has set before the element was defined hides the properties.
    for (const name of ["client", "channel"]) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this._restart();
  }

  disconnectedCallback() {
    this._restart();
  }

  attributeChangedCallback(name) {
    if (SWITCHES.includes(name)) this._look();
    else if (name === "groups") this._setMode();
    else this._restart();
  }

  _look() {
    const {classList} = this._log;
    // `times` alone, and with any other value, is the clock.
    this._times?.show(this.hasAttribute("times") ? this.getAttribute("times") || "clock" : "");
    classList.toggle("numbers", this.hasAttribute("numbers"));
    classList.toggle("wrap", !this.hasAttribute("nowrap"));
    if (this._problems) this._problems.element.classList.toggle("unwanted", !this.hasAttribute("problems"));
    this._view?.follow(this._view.following); // other heights: the end moves
  }

  _setMode() {
    const mode = this.getAttribute("groups") || "marked";
    if (!MODES.includes(mode)) this._warn(`groups="${mode}" is none of ${MODES.join(", ")}: marked is used`);
    this._outline?.setMode(MODES.includes(mode) ? mode : "marked");
  }

  _source() {
    const template = this.getAttribute("source-url");
    if (!template) return null;
    try {
      return new Source(template, this.getAttribute("source-root") ?? "");
    } catch (error) {
      this._warn(`source-url: ${error.message}`);
      return null;
    }
  }

  /** Begin anew, once for all that changes now. */
  _restart() {
    if (this._due) return;
    this._due = true;
    queueMicrotask(() => {
      this._due = false;
      this._stop();
      this._stop = () => {};
      if (!this.isConnected) return;
      if (!this.channel) {
        this._complain(NO_CHANNEL, "");
        return;
      }
      const ends = [];
      this._stop = () => ends.splice(0).reverse().forEach((end) => end());
      try {
        this._start(this.channel, ends);
      } catch (error) {
        this._stop();
        this._complain(`Cannot show ${this.channel.slice(0, 100)}: ${error.message}`);
      }
    });
  }

  _maxLines() {
    const given = this.getAttribute("lines");
    const lines = Math.floor(Number(given));
    if (lines > 0) return lines;
    if (given !== null) this._warn(`lines="${given}" is no number of lines: ${MAX_LINES} are kept`);
    return MAX_LINES;
  }

  /** Begin to show a channel; `ends` gets what ends that, also if it cannot begin. */
  _start(channel, ends) {
    const maxLines = this._maxLines();
    const view = new LogView(this._log, {maxLines, onChange: () => this._changed()});
    const name = channel.replace(/^process:/, "");
    ends.push(() => view.close());
    this._view = view;
    this._times = new TimeColumn(view);
    const outline = new Outline(view, {source: this._source(), onChange: () => problems.show()});
    const problems = new Problems(outline, {onGone: () => (this._say.textContent = "That line is not here any more.")});
    new JsonLines(view, {source: outline.source});
    this._problems?.element.remove();
    [this._outline, this._problems] = [outline, problems];
    this._log.before(problems.element);
    problems.element.setAttribute("part", "problems");
    this._setMode();
    this._log.setAttribute("aria-label", `Output of ${name}`);
    this._tell("");
    this._look();
    const feed = new Feed(view, {
      onStatus: ({text}) => (this._say.textContent = `${name} ${text}`),
      onStart: (time) => this._times.begin(time),
    });
    const lent = this._client ? null : lend(this.getAttribute("url"), channel);
    if (lent) ends.push(() => giveBack(lent, channel));
    const client = this._client ?? lent.client;
    const waits = channel === name ? `Waiting for messages in ${name}…` : `Waiting for output of ${name}…`;
    const hint = (text) => !view.empty || this._state.textContent || this._tell(text, "quiet");
    const subscription = client.subscribe(channel, (message) => {
      feed.received(message);
      if (!view.empty && this._state.className === "quiet") this._tell("");
      if (message.type === "process_status") {
        this.dispatchEvent(new CustomEvent("status", {detail: message.data}));
      }
    }, {
      last: maxLines,
      onSync: (sync) => {
        feed.synced(sync);
        if (!sync.replayed) hint(waits);
      },
      onGap: (count, bytes) => feed.missing(count, {bytes}),
      onError: ({data, code}) => {
        const unclear = code === "bad_channel" && !channel.includes("*");
        this._complain(`The server refuses ${channel}: ${data}${unclear ? rule(channel) : ""}`);
      },
    });
    ends.push(() => subscription.close());
    let connected = client.state === "connected";
    const onState = ({state, code, reason}) => {
      if (state === "connected") {
        connected = true;
        this._tell("");
      } else if (state === "waiting" && !connected) this._tell(NO_CONNECTION);
      else if (state === "waiting") this._tell(feed.over ? "" : "Connection lost, reconnecting…");
      else if (state === "closed") this._closed(code, reason);
      else if (state === "idle") this._complain(NOT_CONNECTED, "");
      else if (this._state.textContent === NOT_CONNECTED) this._tell("");
    };
    ends.push(client.on("state", onState));
    // Listened to before: a URL that can never work is told of at once.
    if (lent) client.connect();
    if (!lent || client.state === "waiting") onState(client);
    // A Go hub never says that there is nothing yet.
    const timer = setTimeout(() => hint(client.state === "connected" ? waits : "Connecting…"), PATIENCE);
    ends.push(() => clearTimeout(timer));
  }

  _closed(code, reason) {
    const why = reason || (code && `code ${code}`);
    if (code === 4401 || code === 4403) {
      this._tell(`The server does not let this page in: ${why}`, "bad");
    } else if (code === 1006) this._complain(`There can be no connection: ${why}`);
    else this._tell("The connection is closed.");
  }

  _warn(text) {
    console.warn(`ws-hub-log: ${text}`, this);
  }

  /** Say here and on the console what is wrong. */
  _complain(text, kind = "bad") {
    this._tell(text, kind);
    this._warn(text);
  }

  _tell(text, kind = "") {
    this._state.textContent = text;
    this._state.className = kind;
  }

  _changed() {
    const {following, unread, total} = this._view;
    this._more.hidden = following;
    this._more.textContent = unread ? `↓ ${counted(unread, "new line")}` : "↓ Follow";
    const digits = Math.max(3, String(total).length);
    this._log.style.setProperty("--digits", `${digits}ch`);
  }
}

if (!customElements.get("ws-hub-log")) customElements.define("ws-hub-log", WsHubLog);
