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
import {LogView} from "./log.js";
import {counted} from "./messages.js";
import {HubClient} from "../ws_hub.js";

export {AnsiParser, LineAssembler};

const MAX_LINES = 5000;
const SWITCHES = ["times", "numbers", "nowrap"];
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
#log:not(.numbers, .times) .row::before { content: none; }

#state {
  margin: 0;
  padding: 4px 12px;
  background: light-dark(#fdf3dc, #2b2313);
  color: light-dark(#8a5d00, #e3b341);
  font: 12px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere;
}

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
    found = {url, client: HubClient.fromPage(url ? {url} : {}), channels: new Set()};
    pool.push(found);
  }
  found.channels.add(channel);
  found.client.connect();
  return found;
}

function giveBack(lent, channel) {
  lent.channels.delete(channel);
  if (!lent.channels.size) lent.client.close();
}

function make(name, id, attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries({id, part: id, ...attributes})) element.setAttribute(key, value);
  return element;
}

// A browser tells a page nothing about a handshake that was refused.
const NO_CONNECTION = "No connection to the server yet, trying again… Why, say its log and the "
  + "browser's console: 401 not logged in, 403 another origin, 404 no hub there, 503 not started.";

/**
 * `<ws-hub-log channel="process:build-42">`.
 *
 * Attributes: `channel`; `url` of the hub (by default as `HubClient.fromPage`); `lines` that are
 * kept (5000); `times`, `numbers`, `nowrap`. A page that has a client of its own, with a token
 * say, sets the property `client`. Event "status": what a `process_status` says, as detail.
 */
export class WsHubLog extends HTMLElement {
  static observedAttributes = ["channel", "url", "lines", ...SWITCHES];

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
  }

  get client() {
    return this._client;
  }

  set client(client) {
    this._client = client;
    this._restart();
  }

  connectedCallback() {
    this._restart();
  }

  disconnectedCallback() {
    this._restart();
  }

  attributeChangedCallback(name) {
    if (SWITCHES.includes(name)) this._look();
    else this._restart();
  }

  _look() {
    const {classList} = this._log;
    classList.toggle("times", this.hasAttribute("times"));
    classList.toggle("numbers", this.hasAttribute("numbers"));
    classList.toggle("wrap", !this.hasAttribute("nowrap"));
    this._view?.follow(this._view.following); // other heights: the end moves
  }

  /** Begin anew, once for all that changes now. */
  _restart() {
    if (this._due) return;
    this._due = true;
    queueMicrotask(() => {
      this._due = false;
      this._stop();
      this._stop = () => {};
      if (this.isConnected && this.getAttribute("channel")) this._start(this.getAttribute("channel"));
    });
  }

  _start(channel) {
    const lines = Math.floor(Number(this.getAttribute("lines")));
    const maxLines = lines > 0 ? lines : MAX_LINES;
    const view = new LogView(this._log, {maxLines, onChange: () => this._changed()});
    const name = channel.replace(/^process:/, "");
    this._view = view;
    this._log.setAttribute("aria-label", `Output of ${name}`);
    this._tell("");
    this._look();
    const feed = new Feed(view, {onStatus: ({text}) => (this._say.textContent = `${name} ${text}`)});
    const lent = this._client ? null : lend(this.getAttribute("url"), channel);
    const client = this._client ?? lent.client;
    const subscription = client.subscribe(channel, (message) => {
      feed.received(message);
      if (message.type === "process_status") {
        this.dispatchEvent(new CustomEvent("status", {detail: message.data}));
      }
    }, {
      last: maxLines,
      onSync: (sync) => feed.synced(sync),
      onGap: (count) => feed.missing(count),
      onError: ({data}) => this._tell(`The server refuses ${channel}: ${data}`, "bad"),
    });
    let connected = false;
    const deaf = client.on("state", ({state, code, reason}) => {
      if (state === "connected") {
        connected = true;
        this._tell("");
      } else if (state === "waiting" && !connected) this._tell(NO_CONNECTION);
      else if (state === "waiting") this._tell(feed.over ? "" : "Connection lost, reconnecting…");
      else if (state === "closed") this._tell(`The server does not let this page in: ${reason || code}`, "bad");
    });
    this._stop = () => {
      deaf();
      subscription.close();
      if (lent) giveBack(lent, channel);
      view.close();
    };
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
