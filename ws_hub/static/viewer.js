/* viewer.js: the page. It wires the connection (ws_hub.js), the meaning of messages (feed.js) and
 * the log (log.js) to what can be seen and pressed.
 *
 * What comes from the network reaches the page as text nodes and attributes only.
 */

import {AttemptBefore, beforeText} from "./attempt.js";
import {copyText} from "./clipboard.js";
import {Controls} from "./controls.js";
import {Feed} from "./feed.js";
import {JsonLines} from "./json_lines.js";
import {ERROR, levelOf, WARNING} from "./levels.js";
import {Source} from "./links.js";
import {LogView} from "./log.js";
import {findLogGap} from "./log_gap.js";
import {counted, describeStatus, duration, size, usageText} from "./messages.js";
import {Older} from "./older.js";
import {Outline} from "./outline.js";
import {Problems} from "./problems.js";
import {TimeColumn} from "./time_column.js";
import {HubClient} from "../ws_hub.js";

const LIST_EVERY = 3000;
const CAUGHT_UP_FOR = 6000;
const PATIENCE = 2000; // milliseconds in which a frame is drawn, where any is
const PROCESS = "process:";
const FAR = 20000; // messages behind which the page passes over
const FIRST = 200; // messages of the end of a log, which are seen at once; the others follow
const AFTER_FAR = 2000; // messages of the end where those before are passed over
const TIME_TEXTS = {
  "": "Times are not shown",
  clock: "Each line has its local time",
  elapsed: "Each line has the time since the start",
  delta: "Each line has the time since the line before",
};

const $ = (id) => document.getElementById(id);
const config = document.body.dataset;

/** What is watched now, and what is known of it. */
class Watch {
  constructor(channel) {
    this.channel = channel;
    this.isProcess = channel.startsWith(PROCESS);
    this.name = this.isProcess ? channel.slice(PROCESS.length) : channel || "Broadcasts";
    this.feed = new Feed(view, {onStatus: statusChanged, onStart: (time) => times.begin(time), onUsage: showStatus});
    this.older = new Older(this.feed, (part) => client.history(channel, part), showNumbers);
    this.subscription = null;
    this.catchUp = null; // {left, from, first, missed, lagged}: messages still to come of a replay, the line it began at
    this.seq = 0; // of the newest message
    this.behind = null; // {since}: messages behind that one are passed over
    this.gaps = new Map(); // id of a note -> {older, busy}: what was passed over, and can be loaded
    this.looked = new Set(); // ids of notes whose lines were looked for in the log of the program
    this.lagged = false; // the next replay makes up for what the page was too slow for
    this.refused = "";
  }

  /** Load nothing more of what is missing. */
  closeGaps() {
    this.older.close();
    for (const {older} of this.gaps.values()) older.close();
    this.gaps.clear();
  }
}

const view = new LogView($("log"), {links: true, onChange: showNumbers});
const times = new TimeColumn(view);
const outline = new Outline(view, {source: sourceOfPage(), onChange: showOutline});
const jsonLines = new JsonLines(view, {source: outline.source});
const problems = new Problems(outline, {onGone: () => say("That line is not here any more.")});
const attempt = new AttemptBefore({dialog: $("attempt"), title: $("attempt-title"), note: $("attempt-note"), log: $("attempt-log")});
const client = new HubClient(config.ws);
const controls = startControls();
let watch = null; // until the page has started
let skew = Infinity; // this clock minus the server's, as the quickest message showed it
let retryAt = 0; // on the clock of `now`
let wasConnected = false;
let checking = false; // whether the connection is alive after the network went or came, or a sleep
let bannerTimer = 0;

/** The time in milliseconds since 1970, on a clock that nobody sets while the page is open. */
function now() {
  return performance.timeOrigin + performance.now();
}

// --- messages ------------------------------------------------------------------------------

function received(message) {
  const moment = Date.parse(message.timestamp ?? "");
  if (moment) skew = Math.min(skew, now() - moment);
  if (Number.isInteger(message.seq)) {
    if (watch.behind) passedOver(message.seq);
    watch.seq = message.seq;
  }
  if (watch.catchUp?.first) {
    const {older} = watch.catchUp;
    older.saw(message);
    if (older === watch.older && older.done) view.store.provisional = false; // nothing comes in front
  }
  watch.feed.received(message);
  controls?.received(message);
  countDown();
}

function statusChanged(known) {
  if (client.state === "connected") say(`${watch.name} ${known.text}`);
  controls?.look();
  showStatus();
}

/** The server has answered a subscribe: count what is made up for. */
function synced(sync) {
  const {behind} = watch;
  if (!behind) watch.feed.synced(sync);
  if (sync.first && !behind && sync.replayed) view.store.provisional = true;
  controls?.look();
  watch.refused = "";
  const {lagged} = watch;
  watch.lagged = false;
  if (sync.restarted) {
    watch.closeGaps();
    view.repaint();
  }
  watch.catchUp = {left: sync.replayed, from: view.count + view.cut, first: sync.first, missed: sync.missed, lagged, older: watch.older};
  countDown(0);
  showStatus();
}

function countDown(step = 1) {
  const {catchUp} = watch;
  if (!catchUp) return;
  catchUp.left -= step;
  if (catchUp.left > 0) return;
  watch.catchUp = null;
  if (!view.total) showCounts(); // else the view says when it has drawn
  if (catchUp.first) {
    const {older} = catchUp;
    seen().then(() => older === watch.older && loadOlder(older)); // not if another channel is watched by then
    return;
  }
  if (!watch.older.done && !watch.older.full) loadOlder(watch.older); // the connection was lost meanwhile
  const lines = view.count + view.cut - catchUp.from;
  const what = catchUp.lagged ? "This page fell behind" : "Reconnected";
  const gone = catchUp.missed ? "; what is missing is said where it was" : "";
  const text = lines ? `${what}, caught up ${counted(lines, "line")}${gone}.` : `${what}${gone || ", nothing was missed"}.`;
  banner(text, {name: "good", seconds: CAUGHT_UP_FOR});
  say(text);
}

/** The page is far behind: go on with the newest messages, and pass over those between. */
function passOver() {
  const {channel, seq} = watch;
  watch.subscription.close();
  watch.behind = {since: seq};
  watch.subscription = subscribe(channel, AFTER_FAR);
}

/** The first of the newest messages is here: say what was passed over. */
function passedOver(seq) {
  const {behind: {since}, feed, channel} = watch;
  watch.behind = null;
  if (seq <= since + 1) return;
  const note = feed.skipped(seq - since - 1);
  const older = new Older(feed, (part) => client.history(channel, part), showNumbers, {since, note});
  watch.gaps.set(note, {older, busy: false});
  watch.catchUp.older = older;
  banner(`This page fell behind: ${counted(seq - since - 1, "message")} not shown.`, {seconds: CAUGHT_UP_FOR});
}

/** Beside the note of what was passed over stands a button that loads it. */
function offerGap(row, element) {
  if (!watch || row.kind !== "note") return;
  const gap = watch.gaps.get(row.id);
  if (!gap && row.missed.lines) lookInLog(row.id);
  if (!gap || element.querySelector(".load")) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "load";
  button.textContent = gap.busy ? "loading…" : "load them";
  button.disabled = gap.busy;
  button.addEventListener("click", () => loadGap(row.id, gap));
  element.append(button);
}

/** Where lines are gone from the history, look whether the program has a log that has them. */
async function lookInLog(note) {
  const own = watch;
  if (!own.isProcess || own.looked.has(note)) return;
  own.looked.add(note);
  const older = await findLogGap(view, own.name, note).catch(() => null);
  if (!older || watch !== own) return;
  own.gaps.set(note, {older, busy: false});
  view.repaint(note);
}

async function loadGap(note, gap) {
  const {gaps, feed} = watch;
  const {older} = gap;
  gap.busy = true;
  $("log").focus({preventScroll: true}); // the button goes
  view.repaint(note);
  await loadOlder(older);
  if (gaps.get(note) !== gap) return; // it was closed
  gap.busy = false;
  if (older.done || older.full || older.lost) gaps.delete(note);
  if (older.done && !older.lost) view.loaded(note);
  else if (older.lines) feed.missingLinesAt(note, older.lines);
  view.repaint(note);
}

/** Wait until what has come is on the screen; a page that is hidden draws nothing. */
function seen() {
  return new Promise((done) => {
    requestAnimationFrame(() => setTimeout(done));
    setTimeout(done, document.hidden ? 0 : PATIENCE);
  });
}

/** Load what is in front of the end of the log, or of another place. */
async function loadOlder(older) {
  try {
    await older.load(watch.subscription.epoch);
  } catch {
    // No connection, or no history to ask for: what is here is right, and said to begin there.
  }
  if (older !== watch.older || !view.store.provisional) return;
  view.store.provisional = false; // nothing comes in front any more
  view.repaint();
}

// --- what is watched -----------------------------------------------------------------------

/** Show the end of a channel, and what comes. */
function subscribe(channel, last = FIRST) {
  const own = watch;
  const heard = () => watch === own && own.subscription === subscription; // not of one that was closed
  const subscription = client.subscribe(channel, (message) => heard() && received(message), {
    last,
    onSync: (sync) => {
      if (!heard()) return;
      if (!sync.first && !sync.restarted && sync.replayed > FAR && own.feed.numbered) passOver();
      else synced(sync);
    },
    onGap: (number, bytes) => heard() && own.feed.missing(number, {bytes}),
    onLagged: () => {
      own.lagged = true;
      banner("This page was too slow for the server; the rest follows.", {seconds: CAUGHT_UP_FOR});
    },
    onError: (message) => {
      own.refused = String(message.data);
      banner(`The server refuses ${channel}: ${own.refused}`, {name: "bad"});
    },
  });
  return subscription;
}

function select(channel) {
  watch?.subscription?.close();
  watch?.closeGaps();
  const next = (watch = new Watch(channel));
  view.clear();
  times.reset();
  jsonLines.reset();
  controls?.watch(next.isProcess ? channel : "");
  if (channel) {
    next.subscription = subscribe(channel);
  }
  hideBanner();
  showStatus();
  markChannels();
}

client.addEventListener("message", ({detail}) => {
  if (!watch.channel) received(detail); // broadcasts go to everybody: here is where they are seen
});

client.addEventListener("error", ({detail: {message, error}}) => {
  if (!message) $("note").textContent = `error: ${error.message}`;
  else if (!watch.channel && !message.channel) received(message);
  else $("note").textContent = `error: ${message.data}`;
});

client.addEventListener("state", ({detail}) => {
  retryAt = detail.state === "waiting" ? now() + detail.retryIn : 0;
  if (detail.state === "connected") {
    if (!watch.channel) wasConnected ? banner("Reconnected.", {name: "good", seconds: CAUGHT_UP_FOR}) : hideBanner();
    else if (!wasConnected) hideBanner();
    wasConnected = true;
  } else if (detail.state === "waiting") {
    if (!$("banner").classList.contains("lost")) say(lostText());
    banner(lostText(), {name: watch.feed.over ? "lost over" : "lost", retry: true});
  } else if (detail.state === "closed") {
    const reason = detail.reason || `code ${detail.code}`;
    banner(`The server does not let this page in (${reason}). Reload it to try again.`, {name: "bad"});
  }
  showLink();
});

function isLive() {
  return client.state === "connected" && navigator.onLine && !checking;
}

function showLink() {
  const {state} = client;
  const connected = !navigator.onLine ? "offline" : checking ? "checking" : "live";
  const text = {connected, connecting: "connecting", waiting: "offline", closed: "closed"}[state] ?? "";
  $("link").textContent = state === "connecting" && !navigator.onLine ? "offline" : text;
  $("link").dataset.state = state === "connected" && !isLive() ? "waiting" : state;
  showStatus();
}

/** The network went or came back, or the page is seen again: is the connection still alive? */
async function wake() {
  checking = client.state === "connected";
  showLink();
  await client.wake();
  checking = false;
  showLink();
}

function lostText() {
  if (watch.feed.over) return "The server has gone. What it sent is here, to the end.";
  const seconds = Math.ceil((retryAt - now()) / 1000);
  const when = seconds > 1 ? `reconnecting in ${seconds} s…` : "reconnecting…";
  return wasConnected ? `Connection lost, ${when}` : `The server cannot be reached, ${when}`;
}

// --- what is shown -------------------------------------------------------------------------

function banner(text, {name = "", retry = false, seconds = 0} = {}) {
  clearTimeout(bannerTimer);
  $("banner").className = `banner ${name}`.trim();
  $("banner-text").textContent = text;
  $("retry").hidden = !retry;
  $("banner").hidden = false;
  if (seconds) bannerTimer = setTimeout(hideBanner, seconds);
}

function hideBanner() {
  clearTimeout(bannerTimer);
  $("banner").hidden = true;
}

/** Tell it to those who listen to the page. */
function say(text) {
  $("say").textContent = text;
}

function showStatus() {
  const waiting = watch.isProcess ? "waiting" : watch.channel ? "events" : "";
  const known = watch.feed.status ?? {state: "none", text: waiting};
  const live = isLive();
  $("name").textContent = watch.name;
  $("name").title = watch.channel;
  $("status").textContent = known.text;
  document.body.dataset.status = known.state;
  document.body.dataset.live = live;
  showUsage();
  const sign = {running: live ? "●" : "○", ok: "✓", failed: "✗", unknown: "?"}[known.state] ?? "";
  document.title = [`${sign} ${watch.name}`.trim(), known.text].filter(Boolean).join(" · ");
  const icon = {running: "-running", ok: "-ok", failed: "-failed"}[known.state] ?? "";
  const href = `static/icon${icon}.svg`;
  const link = document.querySelector("link[rel=icon]");
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
  showNumbers();
}

/** What the program uses, and that there was an attempt before. */
function showUsage() {
  const {usage, attempt: run} = watch.feed;
  $("usage").textContent = usageText(usage);
  $("usage").title = usage ? `Processor time and memory of the program${usage.peakBytes ? `, at most ${size(usage.peakBytes)}` : ""}` : "";
  const before = run?.before;
  $("before").hidden = !before;
  if (!before) return;
  $("before").textContent = beforeText(before);
  $("before").title = `This is attempt ${run.number}. Show the last lines of the one before`;
}

function showNumbers() {
  findLinked();
  showClock();
  showCounts();
}

function showClock() {
  const {started, ended, status} = watch.feed;
  const end = ended ?? (status?.state === "running" ? now() - skew : null);
  const known = started !== null && end !== null && Number.isFinite(end);
  $("elapsed").textContent = known ? duration(end - started).replace(/\.\d(?= s)/, (part) => (ended ? part : "")) : "";
  if (client.state === "waiting" && retryAt) $("banner-text").textContent = lostText();
}

/** Say what of the log is not on the page. */
function goneText() {
  const {before, missed} = view;
  const parts = [];
  if (before.lines) parts.push(`the first ${counted(before.lines, "line")} were let go, the newest ${view.count.toLocaleString("en")} are here`);
  const gone = watch.gaps.size ? "not shown" : "missing"; // can be loaded, or cannot
  if (missed.lines) parts.push(`${counted(missed.lines, "line")} in between ${missed.lines === 1 ? "is" : "are"} ${gone}`);
  const messages = before.messages + missed.messages;
  if (messages) parts.push(`${counted(messages, "message")} ${messages === 1 ? "is" : "are"} ${gone}`);
  const {hidden} = view.levels;
  if (hidden) parts.push(`${counted(hidden, "line")} of other levels ${hidden === 1 ? "is" : "are"} hidden`);
  const {left} = watch.older;
  if (left) parts.push(`${counted(left, "earlier message")} to come`);
  return parts.join("; ");
}

function showCounts() {
  $("count").textContent = counted(view.total, "line");
  $("cut").textContent = goneText();
  $("follow").setAttribute("aria-pressed", view.following);
  const more = $("more");
  more.hidden = view.following;
  more.textContent = view.unread ? `↓ ${counted(view.unread, "new line")}` : "↓ Follow";
  const searching = $("query").value !== "";
  const number = view.matches.toLocaleString("en");
  const none = view.searchError || (view.searching ? "…" : "none");
  $("found").textContent = !searching ? "" : view.matches ? `${view.current || "–"}/${number}` : none;
  $("found").classList.toggle("bad", view.searchError !== "");
  $("previous").disabled = $("next").disabled = !searching || !view.matches;
  $("empty").hidden = view.total > 0 || watch.refused !== "" || watch.catchUp !== null;
  $("empty").textContent = emptyText();
  const digits = Math.max(3, String(view.total).length);
  if ($("log").dataset.digits !== String(digits)) {
    $("log").dataset.digits = digits;
    $("log").style.setProperty("--digits", `${digits}ch`);
  }
}

function emptyText() {
  if (!watch.channel) return "Broadcasts show here as they come. Choose a channel to watch a process or its events.";
  if (!watch.isProcess) return "Nothing yet. Events show here as they come.";
  if (watch.feed.over) return "It printed nothing.";
  return watch.feed.status ? "Running; it has printed nothing yet." : "Waiting for this process to begin.";
}

// --- the list of channels ------------------------------------------------------------------

async function refreshChannels() {
  if (document.hidden) return;
  try {
    const response = await fetch("api/channels", {cache: "no-cache"}); // asks whether it has changed
    if (response.ok) showChannels(await response.json());
  } catch {
    // The server is away; the banner says so.
  }
}

/** The channels that are listed, by name, in their order: what is known of each. */
let listed = new Map();

function showChannels({channels: names = [], total = 0, statuses = {}}) {
  const found = new Map(names.map((name) => [name, statuses[name] ? describeStatus(statuses[name]) : null]));
  $("channels-none").hidden = names.length > 0;
  const [shown, all] = [names.length.toLocaleString("en"), total.toLocaleString("en")];
  const count = total > names.length ? `the newest ${shown} of ${all}` : total ? all : "";
  $("channels-count").textContent = [count, ...tally(found)].filter(Boolean).join(" · ");
  const next = new Map(inOrder(found).map((name) => [name, found.get(name)]));
  const text = (each) => JSON.stringify([...each]);
  if (text(listed) === text(next)) return;
  listed = next;
  const focused = document.activeElement?.dataset?.channel;
  $("channels-list").replaceChildren(...[...listed].map(channelItem));
  markChannels();
  if (focused) [...$("channels-list").querySelectorAll("a")].find((each) => each.dataset.channel === focused)?.focus();
}

/** New channels and programs that have begun are first; the others keep their places. */
function inOrder(found) {
  const begins = (name) => found.get(name)?.state === "running" && listed.get(name)?.state !== "running";
  const stays = (name) => listed.has(name) && !begins(name);
  return [...[...found.keys()].filter((name) => !stays(name)), ...[...listed.keys()].filter((name) => found.has(name) && stays(name))];
}

/** Say how many programs run and have failed. */
function tally(found) {
  return ["running", "failed"].flatMap((state) => {
    const number = [...found.values()].filter((each) => each?.state === state).length;
    return number ? [`${number.toLocaleString("en")} ${state}`] : [];
  });
}

function channelItem([name, status]) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `?channel=${encodeURIComponent(name)}`;
  link.dataset.channel = name;
  const text = document.createElement("span");
  text.className = "channel";
  text.textContent = name;
  if (name.startsWith(PROCESS)) {
    link.className = "process";
    text.textContent = name.slice(PROCESS.length);
  }
  link.title = name;
  link.append(text);
  if (status) {
    link.dataset.state = status.state;
    const state = document.createElement("span");
    state.className = "state";
    state.textContent = status.text;
    link.append(" ", state);
  }
  item.append(link);
  return item;
}

function markChannels() {
  for (const link of $("channels-list").querySelectorAll("a")) {
    if (link.dataset.channel === watch.channel) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function go(channel) {
  const place = new URL(location.href);
  place.search = channel ? `?channel=${encodeURIComponent(channel)}` : "";
  place.hash = "";
  history.pushState(null, "", place);
  select(channel);
  if (narrow.matches) $("channels-box").open = false;
}

function channelOfPage() {
  return new URLSearchParams(location.search).get("channel") || config.channel;
}

const narrow = matchMedia("(max-width: 720px)");

function startList() {
  if (config.channel) return; // a page for one process
  $("channels").hidden = false;
  $("channels-box").open = !narrow.matches;
  narrow.addEventListener("change", () => ($("channels-box").open = !narrow.matches));
  $("channels-list").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(link.dataset.channel);
  });
  $("watch").addEventListener("submit", (event) => {
    event.preventDefault();
    go($("watch-name").value.trim());
    $("watch").reset();
  });
  refreshChannels();
  setInterval(refreshChannels, LIST_EVERY);
}

// --- what can be pressed -------------------------------------------------------------------

function remembered(name) {
  try {
    return localStorage.getItem(`ws_hub.${name}`);
  } catch {
    return null; // storage is forbidden
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`ws_hub.${name}`, value);
  } catch {
    // Then it holds for this page only.
  }
}

/** What controls the program, where the server lets anybody do so. */
function startControls() {
  if (!("control" in config)) return null;
  const ids = ["control", "input", "send", "end", "release", "stop", "kill"];
  const elements = Object.fromEntries(ids.map((id) => [id, $(id)]));
  return new Controls(client, elements, (text) => ($("note").textContent = `error: ${text}`));
}

/** A button that is pressed or not, as the page remembers it; `act(on)` is called now and when it changes. */
function startSwitch(id, standard, act) {
  const set = (on) => {
    $(id).setAttribute("aria-pressed", on);
    act(on);
  };
  set((remembered(id) ?? String(standard)) === "true");
  $(id).addEventListener("click", () => {
    const on = !isPressed(id);
    set(on);
    remember(id, on);
  });
}

function isPressed(id) {
  return $(id).getAttribute("aria-pressed") === "true";
}

function wrap(on) {
  $("log").classList.toggle("wrap", on);
  view.follow(view.following); // other heights: the end moves
}

/** The button of the column of times: each press shows the next of them. */
function startTimes() {
  const name = (mode) => {
    $("times").setAttribute("aria-pressed", mode !== "");
    $("times").textContent = mode ? `Time: ${mode}` : "Time";
  };
  const known = remembered("times") ?? "";
  times.show({true: "clock", false: ""}[known] ?? known); // what an earlier page has remembered
  name(times.mode);
  $("times").addEventListener("click", () => {
    const mode = times.cycle();
    name(mode);
    say(TIME_TEXTS[mode]);
    remember("times", mode);
  });
}

/** Fold all groups, or none, until the button is pressed again: then those that the program says. */
function startFolding() {
  const modes = {folded: $("fold-all"), open: $("unfold-all")};
  const set = (mode) => {
    outline.setMode(mode);
    for (const [name, button] of Object.entries(modes)) button.setAttribute("aria-pressed", name === mode);
  };
  const before = remembered("groups");
  set(before in modes ? before : "marked");
  for (const [name, button] of Object.entries(modes)) {
    button.addEventListener("click", () => {
      const mode = outline.groups.mode === name && !outline.groups.hasChoices ? "marked" : name;
      set(mode);
      remember("groups", mode);
    });
  }
}

/** What the page shows of groups, errors and warnings beside the log. */
function showOutline() {
  $("fold-all").hidden = $("unfold-all").hidden = !outline.groups.list.length;
  problems.show();
}

function sourceOfPage() {
  if (!config.sourceUrl) return null;
  try {
    return new Source(config.sourceUrl, config.sourceRoot);
  } catch (error) {
    console.warn(error.message);
    return null;
  }
}

function nextProblem(direction) {
  const note = outline.step(direction);
  if (note) say(`${note.level}: ${note.message}`);
}

function flash(button, text) {
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = text;
  setTimeout(() => (button.textContent = before), 1500);
  say(text);
}

async function copyAll() {
  flash($("copy"), (await copyText(view.text())) ? "Copied" : "Not allowed");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([...view.store.text()], {type: "text/plain;charset=utf-8"}));
  link.download = `${watch.name.replace(/[^A-Za-z0-9_.-]+/g, "-")}.log`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function search() {
  view.search($("query").value, {regex: isPressed("regex"), matchCase: isPressed("case")});
}

function openSearch() {
  $("query").focus();
  $("query").select();
}

function startSearch() {
  for (const id of ["case", "regex"]) startSwitch(id, false, search);
  $("query").addEventListener("input", search);
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    view.step(1);
  });
  $("previous").addEventListener("click", () => view.step(-1));
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.shiftKey) view.step(-1);
    else if (event.key === "Escape") {
      $("query").value = "";
      search();
      $("log").focus({preventScroll: true});
    } else if (event.altKey && event.code === "KeyR") $("regex").click();
    else if (event.altKey && event.code === "KeyC") $("case").click();
    else return;
    event.preventDefault();
  });
}

// --- links to lines ------------------------------------------------------------------------

let wanted = null; // [first, last]: numbers of lines that the address names and that are not here yet

/** Return [first, last] of "#L12" or "#L12-L20"; null for another hash. */
function linesOf(hash) {
  const match = /^#L([0-9]{1,9})(?:-L?([0-9]{1,9}))?$/.exec(hash);
  if (!match) return null;
  const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
  return [Math.min(first, last), Math.max(first, last)];
}

function showLinked(range) {
  wanted = range;
  if (!range) view.link();
  findLinked();
}

/** Go to the lines that the address names, as soon as they are here. */
function findLinked() {
  if (!wanted) return;
  const [first, last] = wanted.map((number) => view.store.find(number));
  if (!first || !last) return;
  wanted = null;
  view.link(first, last);
}

function linkTo(first, last = first) {
  const [from, to] = [Math.min(first, last), Math.max(first, last)];
  history.replaceState(null, "", `#L${from}${to > from ? `-L${to}` : ""}`);
  showLinked([from, to]);
}

function startLinks() {
  let start = 0; // where a range begins
  $("log").addEventListener("click", (event) => {
    const gutter = event.target.closest("a.gutter[href]");
    if (!gutter || event.ctrlKey || event.metaKey || event.button) return;
    event.preventDefault();
    const number = Number(gutter.dataset.n);
    if (!event.shiftKey || !start) start = number;
    linkTo(start, number);
  });
  const own = () => (wanted = null); // the reader goes elsewhere
  for (const name of ["wheel", "pointerdown", "keydown"]) $("log").addEventListener(name, own, {passive: true});
  window.addEventListener("hashchange", () => showLinked(linesOf(location.hash)));
  $("goto-form").addEventListener("submit", () => {
    const range = linesOf(`#L${$("goto-line").value}`);
    if (range) linkTo(...range);
  });
  $("goto").addEventListener("close", () => $("log").focus({preventScroll: true}));
}

function openGoto() {
  $("goto-line").value = "";
  $("goto").showModal();
}

// --- levels --------------------------------------------------------------------------------

function startLevels() {
  $("level").addEventListener("change", () => view.levels.set(Number($("level").value)));
  view.decorators.push((row, element) => {
    const level = row.kind === "note" ? 0 : levelOf(row.text);
    if (level >= WARNING) element.classList.add(level === ERROR ? "says-error" : "says-warning");
  });
}

function nextLevel() {
  const level = $("level");
  level.selectedIndex = (level.selectedIndex + 1) % level.options.length;
  level.dispatchEvent(new Event("change"));
  say(level.selectedOptions[0].textContent);
}

function nextJson(direction) {
  if (!jsonLines.step(direction)) say("No further JSON line near here.");
}

// --- keys ----------------------------------------------------------------------------------

/* What each key does, in words and here. */
const KEYS = {
  "/": ["search; also Ctrl+F", openSearch],
  n: ["the next match; also Enter in the search", () => view.step(1)],
  N: ["the match before; also Shift+Enter", () => view.step(-1)],
  g: ["the first line; also Home in the log", () => view.toStart()],
  G: ["the last line, and follow; also End", () => view.follow(true)],
  ":": ["go to a line, or mark some: 120-140", openGoto],
  f: ["follow the end, or stop", () => view.follow(!view.following)],
  w: ["wrap long lines", () => $("wrap").click()],
  t: ["show times", () => $("times").click()],
  e: ["the next error or warning", () => nextProblem(1)],
  E: ["the error or warning before", () => nextProblem(-1)],
  j: ["the next JSON line; Enter shows its fields", () => nextJson(1)],
  J: ["the JSON line before", () => nextJson(-1)],
  "[": ["fold all groups, or as they are marked", () => $("fold-all").click()],
  "]": ["unfold all groups, or as they are marked", () => $("unfold-all").click()],
  c: ["copy all lines", () => $("copy").click()],
  l: ["show the lines of a level and worse, or all", nextLevel],
  s: ["save all lines as a file", () => $("download").click()],
  "?": ["this list", () => $("help").showModal()],
};
const MORE_KEYS = {
  "Ctrl+A": "select all lines",
  "Alt+C, Alt+R": "in the search: match case, regular expression",
  "↑ ↓ PgUp PgDn": "scroll the log, when it has the focus",
  Esc: "end the search",
};

function startKeys() {
  const shown = [...Object.entries(KEYS).map(([key, [text]]) => [key, text]), ...Object.entries(MORE_KEYS)];
  for (const [key, text] of shown) {
    const [term, meaning] = ["dt", "dd"].map((name) => document.createElement(name));
    term.append(Object.assign(document.createElement("kbd"), {textContent: key}));
    meaning.textContent = text;
    $("help-keys").append(term, meaning);
  }
  $("keys").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.altKey || document.querySelector("dialog[open]")) return;
    const command = event.ctrlKey || event.metaKey;
    const types = event.target.closest("input, textarea, select");
    let action = null;
    if (command && event.key === "f" && document.activeElement !== $("query")) action = openSearch;
    else if (command && event.key === "a" && !types && !event.defaultPrevented) action = () => view.selectAll();
    else if (!command && !types) action = KEYS[event.key]?.[1];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function start() {
  startSwitch("wrap", true, wrap);
  startTimes();
  $("log").before(problems.element);
  startFolding();
  startSearch();
  startLinks();
  startLevels();
  view.decorators.push(offerGap);
  startKeys();
  startList();
  $("follow").addEventListener("click", () => view.follow(!view.following));
  $("more").addEventListener("click", () => view.follow(true));
  $("copy").addEventListener("click", copyAll);
  $("download").addEventListener("click", save);
  $("before").addEventListener("click", () => attempt.open(watch.name, watch.feed.attempt.before));
  $("retry").addEventListener("click", () => client.retryNow());
  window.addEventListener("popstate", () => {
    if (channelOfPage() !== watch.channel) select(channelOfPage()); // else the hash is another
  });
  window.addEventListener("online", wake);
  window.addEventListener("offline", wake);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) wake();
  });
  setInterval(showClock, 1000);
  select(channelOfPage());
  showLinked(linesOf(location.hash));
  client.connect();
}

start();
