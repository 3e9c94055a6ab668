/* log.js: a long log on a page, made of text nodes only.
 *
 * Keeps the newest lines within bounds and says how many it let go, builds the page's nodes in
 * slices of a few milliseconds a frame however much comes (what is in view first), follows the
 * end until the reader scrolls up, and searches. In the end every line is on the page, so that
 * the browser's own search, selection and zoom work; chunks of lines that are out of sight are
 * not laid out (content-visibility).
 *
 * Must not know messages or connections.
 */

import {readable, toHex, toRgb} from "./ansi.js";
import {logStyle} from "./log_style.js";

const CHUNK_LINES = 200; // at most
const FRAME_BUDGET = 8; // milliseconds of a frame for building nodes
/* In a burst laying out and painting each frame would cost more than the lines: fewer frames. */
const BURST_LINES = 300; // since the last frame
const BURST_PAUSE = 200; // milliseconds between frames
const AT_END = 4; // pixels
const MARKS_PER_LINE = 100;

const NONE = {lines: 0, messages: 0};

/** One line, or a note between lines. */
class Line {
  constructor(entry, number) {
    this.number = number; // 0 for a note
    this.node = null;
    this.chunk = null;
    this.set(entry);
  }

  set({runs, time = "", kind = "", cut = 0, missed = NONE}) {
    this.runs = runs;
    this.time = time;
    this.kind = kind;
    this.cut = cut;
    this.missed = missed; // {lines, messages}: what a note is about that is not here
    this._text = null;
    this.size = runs.reduce((sum, run) => sum + run.text.length, 0);
  }

  get text() {
    return (this._text ??= this.runs.map((run) => run.text).join(""));
  }
}

function add(sum, {lines, messages}, sign = 1) {
  sum.lines += sign * lines;
  sum.messages += sign * messages;
}

/** Some lines that are laid out, or skipped, together. */
class Chunk {
  constructor() {
    this.lines = [];
    this.size = 0;
    this.built = 0; // so many of the lines have nodes
    this.widest = 0;
    this.element = document.createElement("div");
    this.element.className = "chunk";
  }
}

/**
 * A log in a scrolling element, of a page or of a shadow tree, which gets the class "log".
 *
 * `onChange()` is called, once a frame at most, when counts, matches or following have changed.
 */
export class LogView {
  constructor(scroller, {maxLines = 50000, maxChars = 16 * 2 ** 20, onChange = () => {}} = {}) {
    this.scroller = scroller;
    this.maxLines = maxLines;
    this.maxChars = maxChars;
    this.onChange = onChange;
    this.content = document.createElement("div");
    this.content.className = "lines";
    scroller.classList.add("log");
    this._status = document.createElement("div");
    this._status.className = "status-row";
    this._status.hidden = true;
    scroller.replaceChildren(this.content, this._status);
    const {adoptedStyleSheets: sheets} = scroller.getRootNode();
    if (!sheets.includes(logStyle)) sheets.push(logStyle);
    this._chunkLines = Math.max(1, Math.min(CHUNK_LINES, Math.floor(maxLines / 10)));
    this._ground = [255, 255, 255]; // the colour behind the lines, by which others are chosen
    this._closed = new AbortController();
    const {signal} = this._closed;
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", () => this._schedule(), {signal});
    this._seen = new IntersectionObserver((entries) => this._sight(entries), {root: scroller, rootMargin: "200px"});
    scroller.addEventListener("scroll", () => this._scrolled(), {passive: true, signal});
    this._sizes = new ResizeObserver(() => this._schedule());
    this._sizes.observe(scroller);
    this._reset();
    this.following = true;
  }

  /** Let go of the page: what is shown stays. */
  close() {
    this._closed.abort();
    this._seen.disconnect();
    this._sizes.disconnect();
  }

  _reset() {
    this.chunks = [];
    this.count = 0; // lines that are kept
    this.total = 0; // lines that there are: those that came, and with numbers those before
    this.cut = 0; // lines that were let go
    this.missed = {...NONE}; // what never came, as the notes that are kept say
    this.before = {...NONE}; // what is not here from before the first line: let go, or never came
    this.unread = 0; // lines that came since the reader stopped following
    this._size = 0;
    this._stale = new Set();
    this._visible = new Map(); // element → chunk
    this._query = null;
    this._matches = []; // lines
    this._current = -1;
    this._expected = {top: 0, height: 0};
    this._gone = []; // elements of chunks that were let go, still on the page
    this._arrived = 0; // lines since the last frame
    this._frame ??= 0; // there is one to come
    this._flushed ??= 0; // when the last one was
  }

  // --- lines -------------------------------------------------------------------------------

  /**
   * Add a line `{runs, time, kind, cut, number, total, missed}`, which is counted where it
   * brings no number and no `total`, how many there are with it; "note" as kind stands between
   * lines and has neither, but may be about lines and messages that are missing.
   */
  append(entry) {
    let chunk = this.chunks[this.chunks.length - 1];
    if (!chunk || chunk.lines.length >= this._chunkLines) {
      chunk = new Chunk();
      this.chunks.push(chunk);
    }
    const counted = entry.kind !== "note";
    if (counted) {
      this._count(entry);
      if (!this.following) this.unread += 1;
    }
    const line = new Line(entry, counted ? entry.number ?? this.total : 0);
    line.chunk = chunk;
    chunk.lines.push(line);
    add(this.missed, line.missed);
    this._grow(chunk, line.size);
    this._arrived += 1;
    if (counted) this._match(line);
    this._trim();
    this._schedule();
    return line;
  }

  /** Add a line in front of another one, or at the end where that is null or was let go. */
  insert(entry, before) {
    const chunk = before?.chunk;
    if (!chunk || !this.chunks.includes(chunk)) return this.append(entry);
    this._count(entry);
    const line = new Line(entry, entry.number ?? this.total);
    line.chunk = chunk;
    const index = chunk.lines.indexOf(before);
    chunk.lines.splice(index, 0, line);
    if (index < chunk.built) {
      chunk.built += 1;
      line.node = document.createElement("div");
      this._paint(line);
      before.node.before(line.node);
    }
    this._grow(chunk, line.size);
    this._match(line);
    this._schedule();
    return line;
  }

  _count({total}) {
    this.total = Math.max(this.total, total ?? this.total + 1);
    this.count += 1;
  }

  /** Show what a program keeps below its output, such as a progress bar; no runs for nothing. */
  setStatus(runs) {
    this._status.hidden = !runs.length;
    this._status.replaceChildren(...runs.map((run) => this._run(run)));
    this._schedule();
  }

  /** Show something else in the place of a line that may grow: a progress bar. */
  replace(line, entry) {
    const before = line.size;
    add(this._counts(line), line.missed, -1);
    line.set(entry);
    add(this._counts(line), line.missed);
    this._grow(line.chunk, line.size - before);
    if (line.node) this._stale.add(line);
    this._rematch(line);
    this._schedule();
  }

  /** Where what a note is about is counted: with those that are kept, or that were let go. */
  _counts(line) {
    return this.chunks.includes(line.chunk) ? this.missed : this.before;
  }

  clear() {
    this._seen.disconnect();
    this._reset();
    this.content.replaceChildren();
    this.setStatus([]);
    this.following = true;
    this._schedule();
  }

  /** The kept lines as plain text, and the notes about what is missing between them. */
  text() {
    const parts = [];
    const {lines, messages} = this.before;
    const before = [lines && `${lines} earlier lines`, messages && `${messages} earlier messages`].filter(Boolean);
    if (before.length) parts.push(`[${before.join(" and ")} are not here]\n`);
    for (const chunk of this.chunks) {
      for (const line of chunk.lines) {
        if (line.number) parts.push(line.text, "\n");
        else if (line.kind === "note" && line.runs[0]?.gap) parts.push(`[${line.text}]\n`);
      }
    }
    return parts.join("");
  }

  _grow(chunk, size) {
    chunk.size += size;
    this._size += size;
  }

  _trim() {
    // Whole chunks: to move every line up for each one that goes would take for ever.
    while (this.chunks.length > 1 && (this.count > this.maxLines || this._size > this.maxChars)) {
      const chunk = this.chunks.shift();
      const gone = chunk.lines.filter((line) => line.number);
      this.count -= gone.length;
      this.cut += gone.length;
      this.before.lines += gone.length;
      for (const note of chunk.lines.filter((line) => line.missed !== NONE)) {
        add(this.before, note.missed);
        add(this.missed, note.missed, -1);
      }
      this._size -= chunk.size;
      this._seen.unobserve(chunk.element);
      this._visible.delete(chunk.element);
      this._gone.push(chunk.element); // not removed here: that costs a layout each
      const matched = gone.filter((line) => line.matches).length;
      if (matched) {
        this._matches.splice(0, matched);
        this._current = Math.max(-1, this._current - matched);
      }
    }
  }

  // --- nodes -------------------------------------------------------------------------------

  _schedule() {
    if (this._frame || this._closed.signal.aborted) return;
    this._frame = 1;
    const draw = () => requestAnimationFrame(() => {
      this._frame = 0;
      this._flush();
    });
    const pause = this._burst() ? this._flushed + BURST_PAUSE - performance.now() : 0;
    if (pause > 0) setTimeout(draw, pause);
    else draw();
  }

  _burst() {
    return this._arrived > BURST_LINES;
  }

  _flush() {
    const start = performance.now();
    const deadline = start + FRAME_BUDGET;
    this._flushed = start;
    this._look();
    for (const element of this._gone) element.remove();
    for (const line of this._stale) this._paint(line);
    this._stale.clear();
    const unfinished = this._buildAll(deadline);
    if (this.following) this._toEnd();
    this._highlight();
    this.onChange();
    this._gone = [];
    if (unfinished) this._schedule(); // after a pause, if this was a burst
    this._arrived = 0;
  }

  /** Build what is in view, then the rest while there is time; say whether some is left. */
  _buildAll(deadline) {
    const waiting = this.chunks.filter((chunk) => chunk.built < chunk.lines.length);
    for (const chunk of waiting) {
      if (!chunk.element.isConnected) {
        this.content.append(chunk.element);
        this._seen.observe(chunk.element);
      }
    }
    const latest = this.following ? this.chunks.slice(-2) : [];
    const inView = waiting.filter((chunk) => this._visible.has(chunk.element) || latest.includes(chunk));
    for (const chunk of inView) this._build(chunk, Infinity);
    for (const chunk of waiting) {
      if (this._burst() || performance.now() > deadline) this._reserve(chunk);
      else this._build(chunk, deadline);
    }
    return waiting.some((chunk) => chunk.built < chunk.lines.length);
  }

  /** Make nodes for the lines of a chunk, until the deadline. */
  _build(chunk, deadline) {
    const fragment = document.createDocumentFragment();
    let {built} = chunk;
    while (built < chunk.lines.length && (built % 20 || performance.now() < deadline)) {
      const line = chunk.lines[built++];
      line.node = document.createElement("div");
      this._paint(line);
      fragment.append(line.node);
      chunk.widest = Math.max(chunk.widest, line.size);
    }
    chunk.element.append(fragment);
    chunk.built = built;
    this._reserve(chunk);
  }

  /** Keep the room that the lines of a chunk will probably take, until they have been seen. */
  _reserve(chunk) {
    const {style} = chunk.element;
    const height = `calc(${chunk.lines.length} * var(--line))`;
    style.minHeight = chunk.built < chunk.lines.length ? height : "";
    style.containIntrinsicSize = `auto ${chunk.widest + 8}ch auto ${height}`;
  }

  _paint(line) {
    const {node} = line;
    node.className = line.kind ? `row ${line.kind}` : "row";
    if (line.number) node.dataset.n = line.number;
    if (line.time) node.dataset.t = line.time;
    if (line.matches) node.classList.add("hit");
    if (this._matches[this._current] === line) node.classList.add("current");
    if (line.runs.length === 1 && !line.runs[0].style) {
      node.textContent = line.runs[0].text;
    } else {
      node.replaceChildren(...line.runs.map((run) => this._run(run)));
    }
    if (line.cut) {
      const rest = document.createElement("span");
      rest.className = "cut";
      rest.textContent = ` … ${line.cut.toLocaleString("en")} more characters`;
      node.append(rest);
    }
  }

  _run({text, style}) {
    if (!style) return document.createTextNode(text);
    const span = document.createElement("span");
    span.textContent = text;
    if (style.name) {
      span.className = style.name;
      return span;
    }
    const names = ["bold", "dim", "italic", "underline", "hidden", "strike"].filter((each) => style[each]);
    const {fg, bg} = style;
    const ink = style.bold && typeof fg === "number" && fg < 8 ? fg + 8 : fg;
    if (style.inverse) {
      this._color(span, names, "inv", ink ?? "ink");
      this._color(span, names, bg === null ? "fg" : "raw", bg ?? "ground");
    } else {
      if (bg !== null) this._color(span, names, "bg", bg);
      if (fg !== null) this._color(span, names, bg === null ? "fg" : "raw", ink);
    }
    span.className = names.join(" ");
    return span;
  }

  /**
   * The sixteen colours, by name: as text ("fg") and inverse ("inv") they are the theme's, on a
   * ground of the program's ("bg", "raw") a terminal's. Others are moved until they can be read.
   */
  _color(span, names, what, color) {
    if (typeof color === "string" ? !color.startsWith("#") : color < 16) {
      names.push(`${what}-${color}`);
      return;
    }
    let rgb = toRgb(color);
    if (what === "fg" || what === "inv") rgb = readable(rgb, this._ground);
    if (what === "fg" || what === "raw") {
      span.style.color = toHex(rgb);
      return;
    }
    span.style.backgroundColor = toHex(rgb);
    if (what === "bg") span.style.color = toHex(readable(rgb, rgb, 7));
  }

  /** Paint all lines anew when another colour is behind them: another theme. */
  _look() {
    const color = getComputedStyle(this.scroller).backgroundColor;
    const ground = color.startsWith("rgb(") ? color.match(/[0-9.]+/g).map(Number) : [255, 255, 255];
    if (String(ground) === String(this._ground)) return;
    this._ground = ground;
    for (const chunk of this.chunks) {
      for (const line of chunk.lines.slice(0, chunk.built)) this._stale.add(line);
    }
  }

  // --- following ---------------------------------------------------------------------------

  /** Keep the end in sight, or stop that. */
  follow(on) {
    this.following = on;
    if (on) this.unread = 0;
    this._schedule();
  }

  _toEnd() {
    const {scroller} = this;
    scroller.scrollTop = scroller.scrollHeight;
    this._expected = {top: scroller.scrollTop, height: scroller.scrollHeight};
  }

  _scrolled() {
    const {scroller} = this;
    const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    if (this.following) {
      // Only a reader moves it up: lines that go make the height smaller as well.
      const up = scroller.scrollTop < this._expected.top - 2;
      if (up && scroller.scrollHeight >= this._expected.height && left > AT_END) this.follow(false);
    } else if (left <= AT_END) {
      this.follow(true);
    }
    this._schedule();
  }

  // --- search ------------------------------------------------------------------------------

  get matches() {
    return this._matches.length;
  }

  /** Which match is the current one, from 1; 0 for none. */
  get current() {
    return this._current + 1;
  }

  /** Mark the lines that hold a text, whatever its case; "" ends the search. */
  search(query) {
    for (const line of this._matches) {
      line.matches = false;
      line.node?.classList.remove("hit", "current");
    }
    this._matches = [];
    this._current = -1;
    this._query = query === "" ? null : new RegExp(query.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gi");
    if (this._query) {
      for (const chunk of this.chunks) {
        for (const line of chunk.lines) if (line.number) this._match(line);
      }
    }
    this._schedule();
  }

  /** Go to the next match, or with -1 to the one before; from the end in view at first. */
  step(direction) {
    const {length} = this._matches;
    if (!length) return;
    const from = this._current;
    this._matches[from]?.node?.classList.remove("current");
    if (from < 0) this._current = direction < 0 ? length - 1 : this._firstInView();
    else this._current = (from + direction + length) % length;
    const line = this._matches[this._current];
    this.follow(false);
    if (!line.chunk.element.isConnected) this._flush(); // it came a moment ago
    if (!line.node) this._build(line.chunk, Infinity);
    line.node?.classList.add("current");
    line.node?.scrollIntoView({block: "center", inline: "nearest"});
    this._schedule();
  }

  _firstInView() {
    const {top} = this.scroller.getBoundingClientRect();
    const index = this._matches.findIndex((line) => line.node?.getBoundingClientRect().top >= top);
    return index < 0 ? 0 : index;
  }

  _match(line) {
    line.matches = this._hits(line);
    if (line.matches) this._matches.push(line);
    if (line.matches) line.node?.classList.add("hit");
  }

  /** Look again at a line that changed: it is among the last of the matches, if at all. */
  _rematch(line) {
    const hits = this._hits(line);
    if (hits === Boolean(line.matches)) return;
    line.matches = hits;
    if (hits) {
      this._matches.push(line);
      return;
    }
    const index = this._matches.lastIndexOf(line);
    this._matches.splice(index, 1);
    if (this._current >= index) this._current -= 1;
  }

  _hits(line) {
    if (!this._query) return false;
    this._query.lastIndex = 0;
    return this._query.test(line.text);
  }

  _sight(entries) {
    for (const entry of entries) {
      const chunk = this.chunks.find((each) => each.element === entry.target);
      if (entry.isIntersecting && chunk) this._visible.set(entry.target, chunk);
      else this._visible.delete(entry.target);
    }
    this._schedule();
  }

  /** Colour the very words, where the browser can; near the view only, for there may be many. */
  _highlight() {
    if (!globalThis.CSS?.highlights || !(this._query || this._marked)) return;
    CSS.highlights.delete("found"); // one name for all logs of a page: only where there is a search
    this._marked = Boolean(this._query);
    if (!this._marked) return;
    const ranges = [];
    for (const chunk of this._visible.values()) {
      for (const line of chunk.lines) {
        if (line.matches && line.node) this._mark(line, ranges);
      }
    }
    if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
  }

  _mark(line, ranges) {
    const nodes = textNodes(line.node);
    let count = 0;
    this._query.lastIndex = 0;
    for (const match of line.text.matchAll(this._query)) {
      if (count++ === MARKS_PER_LINE) break;
      const range = new Range();
      const [start, from] = locate(nodes, match.index);
      const [end, to] = locate(nodes, match.index + match[0].length - 1);
      range.setStart(start, from);
      range.setEnd(end, to + 1);
      ranges.push(range);
    }
  }
}

function textNodes(node) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) found.push(walker.currentNode);
  return found;
}

/** The node that holds the character at an offset of a line's text, and where in it. */
function locate(nodes, offset) {
  for (const node of nodes) {
    if (offset < node.length) return [node, offset];
    offset -= node.length;
  }
  const last = nodes[nodes.length - 1];
  return [last, last.length - 1];
}
