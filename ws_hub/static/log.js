/* log.js: a long log on a page, made of text nodes only, of which the rows in view are there.
 *
 * The lines are in a store (lines.js), where they stand is reckoned (heights.js), and a frame
 * lays out those near the view. The place of the reader is kept by a row, so that what comes, goes or
 * folds elsewhere moves nothing. Follows the end until the reader scrolls up.
 *
 * What others may hang on:
 *
 * - `store`: the lines, by id (`append`, `insert` and `replace` here return and take ids);
 * - `decorators`: functions `(row, element)` that are called when a row is shown: they may add
 *   classes, and elements outside of `.text`; `redecorate()` has them called again, for rows that
 *   they may have been called for, and `repaint(id)` for a row that is made anew;
 * - `timeText(row, before)`: what stands in the column of times; `before` is the row before it;
 *   with `timesChain` set a row is painted anew with the one before it;
 * - `levels.set(WARNING)` hides lines that say less (levels.js);
 * - `outline`: what an Outline (outline.js) is told of rows, of frames, before which it hides some, and
 *   of a hidden row that is gone to.
 *
 * Must not know messages or connections.
 */

import {textNodes} from "./anchors.js";
import {BEFORE, Heights} from "./heights.js";
import {LevelFilter} from "./levels.js";
import {HIDDEN, LineStore} from "./lines.js";
import {addLogStyle} from "./log_style.js";
import {Painter} from "./paint.js";
import {Search} from "./search.js";
import {LogSelection} from "./selection.js";
import {clockText} from "./times.js";

/* In a burst laying out and painting each frame would cost more than the lines: fewer frames. */
const BURST_LINES = 300; // since the last frame
const BURST_PAUSE = 200; // milliseconds between frames
const AT_END = 4; // pixels
const BEYOND = 400; // pixels of rows above and below the view
/* A browser knows no element higher than some 10 million pixels: a longer log is scrolled through
 * in smaller steps than the thumb of its scrollbar makes. */
const HIGHEST = 5_000_000;

/**
 * A log in a scrolling element, of a page or of a shadow tree, which gets the class "log".
 *
 * `onChange()` is called, once a frame at most, when counts, matches or following have changed.
 * `links`: numbers of lines are links ("#L12"). The element has the view as `logView`.
 */
export class LogView {
  constructor(scroller, {maxLines, maxChars, links = false, onChange = () => {}} = {}) {
    this.scroller = scroller;
    this.onChange = onChange;
    this.decorators = [];
    this.timeText = (row) => clockText(row.time);
    this.timesChain = false;
    this.outline = null;
    this.store = new LineStore({maxLines, maxChars});
    this._links = links;
    this._heights = new Heights(this.store);
    this._search = new Search(this.store, () => this._schedule());
    this.levels = new LevelFilter(this.store, () => {
      this._search.go();
      this._schedule();
    });
    this._painter = new Painter();
    this._frame = false; // there is one to come
    this._timer = 0; // before a frame, in a burst
    this._flushed = 0; // when the last one was
    this._closed = new AbortController();
    this._make();
    this._selection = new LogSelection(this._rows, this.store, () => this._schedule());
    const {signal} = this._closed;
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", () => this._schedule(), {signal});
    scroller.addEventListener("scroll", () => this._scrolled(), {passive: true, signal});
    scroller.addEventListener("keydown", (event) => this._key(event), {signal});
    scroller.addEventListener("copy", (event) => this._copy(event), {signal});
    this._sizes = new ResizeObserver(() => this._schedule());
    this._sizes.observe(scroller);
    scroller.logView = this;
    this._reset();
    this.following = true;
  }

  _make() {
    const {scroller} = this;
    const element = (name, parts = []) => {
      const made = document.createElement("div");
      made.className = name;
      made.append(...parts);
      return made;
    };
    scroller.classList.add("log");
    this._rows = element("rows");
    this._rows.setAttribute("role", "list");
    this._letters = document.createElement("span");
    this._letters.textContent = "0".repeat(100);
    this._probe = element("probe", [this._letters]);
    this._probe.setAttribute("aria-hidden", "true");
    this._content = element("lines", [this._probe, this._rows]);
    this._marks = document.createElement("canvas");
    this._marks.setAttribute("aria-hidden", "true");
    this._strip = element("strip", [this._marks]);
    this._status = element("status-row");
    this._status.hidden = true;
    scroller.replaceChildren(this._strip, this._content, this._status);
    addLogStyle(scroller);
  }

  /** Let go of the page: what is shown stays. */
  close() {
    this._closed.abort();
    this._sizes.disconnect();
    this._selection.close();
    this._search.close();
    this.levels.close();
    this.outline?.close();
  }

  _reset() {
    this.unread = 0; // lines that came since the reader stopped following
    this._nodes = new Map(); // id of a row -> its element, of those in the document
    this._stale = new Set(); // ids of rows to paint anew
    this._repaint = false; // all of them
    this._redecorate = false;
    this._current = 0; // id of the match that was gone to
    this._linked = null; // [first, last]: ids of the rows that an address names
    this._anchor = {id: 0, offset: 0}; // the row at the top of the view, and how far above it begins
    this._tight = false; // the log is higher than HIGHEST
    this._base = 0; // pixels that the log is further than the scrollbar says: see HIGHEST
    this._expected = {top: 0, height: 0, left: 0}; // of the scrolling element, as it was set here; how far the end is
    this._arrived = 0; // lines since the last frame
  }

  // --- lines -------------------------------------------------------------------------------

  /** Lines that are kept; that there are; that were let go. */
  get count() {
    return this.store.count;
  }

  get total() {
    return this.store.total;
  }

  get cut() {
    return this.store.cut;
  }

  /** What is not here, `{lines, messages}`: as the notes say, and from before the first line. */
  get missed() {
    return this.store.missed;
  }

  get before() {
    return this.store.before;
  }

  get empty() {
    return this.store.rows === 0;
  }

  /** Add a row at the end (see `LineStore.append`); return its id. */
  append(entry) {
    if (!this.following && entry.kind !== "note") this.unread += 1;
    const id = this.store.append(this.outline?.hides ? {...entry, folded: true} : entry);
    this.outline?.added(id, entry);
    return this._came(id);
  }

  /** Add a row in front of another one, or at the end where that is 0 or was let go. */
  insert(entry, before) {
    if (this.timesChain) this._stale.add(before);
    const id = this.store.insert(entry, before);
    this.outline?.inserted(id, entry, before);
    return this._came(id);
  }

  /** Add rows in front of all others, or of one (see `LineStore.prepend`). */
  prepend(entries, lines, before) {
    if (this.timesChain) this._stale.add(before ?? this.store.first);
    if (this.store.prepend(entries, lines, before)) this._repaint = true;
    this.outline?.prepended(entries.length);
    this._arrived += entries.length;
    this._came(0);
  }

  /** Take out a line, which comes in front of others with rows that will be added there. */
  remove(id) {
    this.store.remove(id);
    this._came(0);
  }

  /** Show something else in the place of a row: a progress bar. */
  replace(id, entry) {
    if (!this.store.replace(id, entry)) return;
    this.outline?.replaced(id, entry);
    this._stale.add(id);
    this._came(id);
  }

  _came(id) {
    this._arrived += 1;
    this._search.go();
    this.levels.go();
    this._schedule();
    return id;
  }

  /** Show what a program keeps below its output, such as a progress bar; no runs for nothing. */
  setStatus(runs) {
    this._status.hidden = !runs.length;
    this._painter.fill(this._status, runs);
    this._schedule();
  }

  clear() {
    this.store.clear();
    this.outline?.clear();
    this._search.set("");
    this._reset();
    this._rows.replaceChildren();
    this.setStatus([]);
    this.following = true;
    this._schedule();
  }

  /** The kept lines as plain text, and the notes about what is missing between them. */
  text() {
    return [...this.store.text()].join("");
  }

  /** What a note says was passed over is here: the note goes. */
  loaded(note) {
    this.store.replace(note, {kind: "note", runs: [], gone: true});
    this._schedule();
  }

  /** Show a row, or all, as the decorators and `timeText` have it now. */
  repaint(id = 0) {
    if (id) this._stale.add(id);
    else this._repaint = true;
    this._schedule();
  }

  /** Have the decorators called again for the rows in view. */
  redecorate() {
    this._redecorate = true;
    this._schedule();
  }

  /** How many rows are in front of the one at the top of the view. */
  get topRow() {
    const found = this._heights.find(this._top());
    return found ? this.store.position(this.store.chunks[found.at].ids[Math.max(0, found.index)]) : 0;
  }

  /** The element of a row that is in the document; null for another one. */
  element(id) {
    return this._nodes.get(id) ?? null;
  }

  // --- frames ------------------------------------------------------------------------------

  /** Draw with the next frame; in a burst a little later, unless the reader moves. */
  _schedule(soon = false) {
    if (this._frame || (this._timer && !soon) || this._closed.signal.aborted) return;
    clearTimeout(this._timer);
    this._timer = 0;
    const pause = this._arrived > BURST_LINES && !soon ? this._flushed + BURST_PAUSE - performance.now() : 0;
    if (pause > 0) this._timer = setTimeout(() => this._draw(), pause);
    else this._draw();
  }

  _draw() {
    this._timer = 0;
    this._frame = true;
    requestAnimationFrame(() => {
      this._frame = false;
      this._flush();
    });
  }

  _flush() {
    this._flushed = performance.now();
    this._arrived = 0;
    this.outline?.draw();
    if (this._painter.look(this.scroller)) this._repaint = true;
    this._measureLetters();
    // Rows that were never laid out may be higher or lower than expected: look again.
    for (let round = 0; round < 4; round++) {
      this._showRows(this._top());
      if (!this._measureRows()) break;
    }
    this._scrollTo(this._top());
    this._highlight();
    this._drawMarks();
    this.onChange();
  }

  /** Take the height of a line, and how many characters there is room for in one. */
  _measureLetters() {
    const style = getComputedStyle(this._probe);
    const room = this._probe.clientWidth - Number.parseFloat(style.paddingLeft) - Number.parseFloat(style.paddingRight);
    const letter = this._letters.getBoundingClientRect().width / 100;
    const wraps = this.scroller.classList.contains("wrap") && letter > 0;
    this._heights.set(Number.parseFloat(style.lineHeight) || 19, wraps ? Math.max(1, Math.floor(room / letter)) : 0);
    this._letter = letter;
  }

  /** How far the log can be scrolled. */
  _range() {
    this._total = this._heights.total() + this._status.offsetHeight;
    this._view = this.scroller.clientHeight;
    return Math.max(0, this._total - this._view);
  }

  /** Where in the log the view is to begin. */
  _top() {
    const range = this._range();
    if (this.following) return range;
    const {id, offset} = this._anchor;
    const place = this.store.locate(id);
    if (place) return Math.min(range, Math.max(0, this._heights.top(place) + offset));
    if (!id) return 0;
    this._hold(0); // that row was let go: the first one is in its place
    return 0;
  }

  /** Keep the row that is at a height in its place. */
  _hold(top) {
    const found = this._heights.find(top);
    const id = found ? this.store.chunks[found.at].ids[found.index] : 0;
    this._anchor = {id, offset: found ? top - found.top : 0};
  }

  /** Have the rows near a height in the document, and those that a selection needs. */
  _showRows(top) {
    const {chunks} = this.store;
    const from = this._heights.find(top - BEYOND);
    const places = [];
    let y = from?.top ?? 0;
    this._rowsTop = y;
    let {at = 0, index = 0} = from ?? {};
    while (at < chunks.length && y < top + this._view + BEYOND) {
      const chunk = chunks[at];
      if (index >= chunk.count || !this._heights.chunk(chunk)) [at, index] = [at + 1, 0];
      else {
        const height = this._heights.row(chunk, index);
        if (height) places.push({chunk, index});
        y += height;
        index += 1;
      }
    }
    this._places = places;
    if (this.timesChain && this._stale.size) this._spoilNext(places);
    const shown = this._pinned(places);
    const nodes = shown.map((place) => this._node(place));
    this._arrange(nodes);
    this._repaint = this._redecorate = false;
    this._stale.clear();
    this._number(shown, nodes);
  }

  /** Have the rows behind those that have changed painted anew. */
  _spoilNext(places) {
    const ids = places.map(({chunk, index}) => chunk.ids[index]);
    for (const id of ids.filter((_, at) => at && this._stale.has(ids[at - 1]))) this._stale.add(id);
  }

  /** Add the rows with the ends of the selection, in order, to those in view. */
  _pinned(places) {
    this._pins = new Set();
    if (!this._selection.pins.length) return places;
    const inView = new Set(places.map(({chunk, index}) => chunk.ids[index]));
    const first = places.length ? this.store.position(places[0].chunk.ids[places[0].index]) : 0;
    const [above, below] = [[], []];
    for (const id of new Set(this._selection.pins)) {
      const place = inView.has(id) ? null : this.store.locate(id);
      if (!place) continue;
      this._pins.add(id);
      (this.store.position(id) < first ? above : below).push(place);
    }
    return [...above, ...places, ...below];
  }

  _node({chunk, index}) {
    const id = chunk.ids[index];
    let node = this._nodes.get(id);
    if (!node) {
      node = document.createElement("div");
      node.rowId = id;
      node.setAttribute("role", "listitem");
      this._nodes.set(id, node);
      this._paint(node, chunk, index);
    } else if (this._repaint || this._stale.has(id)) this._paintAgain(node, chunk, index);
    else if (this._redecorate) this._decorateRow(node, this.store.read(chunk, index));
    return node;
  }

  /** Have these elements among the rows, in this order, without moving one that may stay. */
  _arrange(nodes) {
    const wanted = new Set(nodes);
    for (const [id, node] of this._nodes) {
      if (wanted.has(node)) continue;
      node.remove();
      this._nodes.delete(id);
    }
    let next = this._rows.firstChild;
    for (const node of nodes) {
      if (node === next) next = next.nextSibling;
      else this._rows.insertBefore(node, next);
    }
  }

  /** Tell a screen reader which of the rows are here, and mark what is searched and linked. */
  _number(places, nodes) {
    const {rows, dropped, chunks} = this.store;
    const starts = new Map();
    let sum = dropped + 1;
    for (const chunk of chunks) {
      starts.set(chunk, sum);
      sum += chunk.count;
    }
    const linked = this._linked?.map((id) => this.store.position(id) + dropped + 1);
    nodes.forEach((node, which) => {
      const {chunk, index} = places[which];
      const position = starts.get(chunk) + index;
      node.setAttribute("aria-posinset", position);
      node.setAttribute("aria-setsize", dropped + rows);
      const {classList} = node;
      classList.toggle("pinned", this._pins.has(node.rowId));
      classList.toggle("hit", this._search.isHit(chunk, index));
      classList.toggle("current", node.rowId === this._current);
      classList.toggle("linked", Boolean(linked) && position >= linked[0] && position <= linked[1]);
    });
  }

  _paint(node, chunk, index) {
    const row = this.store.read(chunk, index);
    const gutter = document.createElement("a");
    gutter.className = "gutter";
    const text = document.createElement("div");
    text.className = "text";
    this._painter.fill(text, row.runs);
    node.className = ["row", row.kind, row.stderr && "stderr"].filter(Boolean).join(" ");
    if (row.number) {
      node.dataset.n = gutter.dataset.n = row.number;
      if (this._links) {
        gutter.href = `#L${row.number}`;
        gutter.tabIndex = -1;
        gutter.ariaLabel = `Line ${row.number}`;
      }
    }
    const time = this.timeText(row, this._rowBefore(chunk, index));
    if (time) gutter.dataset.t = time;
    node.replaceChildren(gutter, text);
    if (row.cut) {
      const rest = document.createElement("span");
      rest.className = "cut";
      rest.textContent = ` … ${row.cut.toLocaleString("en")} more characters`;
      text.after(rest);
    }
    this._decorateRow(node, row);
  }

  /** Paint a row that is in the document; what has the keyboard's focus in it keeps that. */
  _paintAgain(node, chunk, index) {
    const {activeElement: focused} = this.scroller.getRootNode();
    const inRow = () => [...node.querySelectorAll("a, button")];
    const order = inRow().indexOf(focused);
    this._paint(node, chunk, index);
    const same = inRow()[order];
    if (same?.className === focused?.className) same?.focus({preventScroll: true});
  }

  _decorateRow(node, row) {
    for (const decorate of this.decorators) decorate(row, node);
  }

  _rowBefore(chunk, index) {
    if (index > 0) return this.store.read(chunk, index - 1);
    const before = this.store.chunks[this.store.chunks.indexOf(chunk) - 1];
    return before?.count ? this.store.read(before, before.count - 1) : null;
  }

  /** Take the heights of the rows in view; say whether some are not what was expected. */
  _measureRows() {
    const margin = this.store.widest * this._letter;
    this._content.style.minWidth = this.scroller.classList.contains("wrap") ? "" : `calc(${Math.ceil(margin)}px + var(--gutter) + 14px)`;
    let changed = false;
    for (const {chunk, index} of this._places) {
      const {height} = this._nodes.get(chunk.ids[index]).getBoundingClientRect();
      if (height && this._heights.measured(chunk, index, height)) changed = true;
    }
    return changed;
  }

  /** Put the rows and the scrollbar where they belong. */
  _scrollTo(top) {
    const {scroller} = this;
    const range = this._range();
    const height = Math.min(this._total, HIGHEST);
    const room = Math.max(0, height - this._view);
    const tight = this._total > HIGHEST;
    let base = tight ? this._base : 0;
    // Where the scrollbar would come to its end before the log does, or is told to be elsewhere.
    const near = top - base < 2 * this._view || top - base > room - 2 * this._view;
    if (tight && (near || this._jumped)) base = top - Math.round(top * (room / range));
    this._jumped = false;
    this._base = base;
    const extra = this._status.offsetHeight;
    this._content.style.height = `${height - extra}px`;
    this._rows.style.top = `${this._rowsTop - base}px`;
    const place = Math.round(top - base);
    if (Math.abs(scroller.scrollTop - place) >= 1) scroller.scrollTop = place;
    this._expected = {top: scroller.scrollTop, height: scroller.scrollHeight, left: range - top};
    this._tight = tight;
    this._hold(top);
  }

  // --- where the reader is -----------------------------------------------------------------

  /** Keep the end in sight, or stop that. */
  follow(on) {
    this.following = on;
    if (on) {
      this.unread = 0;
      this._jumped = true;
    }
    this._schedule();
  }

  /**
   * The reader has moved, from where the last frame has put the log: lines may have come since then,
   * so that only the way is known, and not the place.
   */
  _scrolled() {
    const {scroller, _expected: expected} = this;
    const top = scroller.scrollTop;
    if (top === expected.top) return; // it was set here
    const way = top - expected.top;
    const room = scroller.scrollHeight - scroller.clientHeight;
    const left = room - top;
    const jumps = this._tight && (Math.abs(way) > 3 * this._view || top <= 0 || left <= 1);
    if (this.following) {
      // Only a reader moves it up: lines that go make the height smaller as well.
      const up = way < -2 && scroller.scrollHeight >= expected.height;
      if (!up || left <= AT_END) {
        this._schedule(true);
        return;
      }
      this.following = false;
    } else if (left <= AT_END && (jumps || expected.left - way <= AT_END + 1)) {
      this.follow(true);
      return;
    }
    if (jumps) this._hold(this._range() * (top / room));
    else this._anchor.offset += way;
    this._jumped ||= jumps;
    expected.top = top;
    expected.left -= way;
    this._schedule(true);
  }

  /** Go to a row; "center" is where it comes to stand, or "start". */
  reveal(id, block = "center") {
    this.outline?.draw(); // what is to be hidden is
    let place = this.store.locate(id);
    if (!place) return false;
    if (place.chunk.flags[place.index] & HIDDEN) {
      this.outline?.reveal(id);
      place = this.store.locate(id);
    }
    this._range();
    const shift = block === "center" ? Math.max(0, (this._view - this._heights.row(place.chunk, place.index)) / 2) : 0;
    this.following = false;
    this._anchor = {id, offset: -shift};
    this._jumped = true;
    this._flush();
    return true;
  }

  /** Go to the first row. */
  toStart() {
    const [chunk] = this.store.chunks;
    if (chunk) this.reveal(chunk.ids[0], "start");
  }

  /** Mark rows, from one to another, and go to the first one; without an id mark none. */
  link(first = 0, last = first) {
    this._linked = first ? [first, last] : null;
    if (!first || !this.reveal(first)) this._schedule();
  }

  _key(event) {
    const {key, altKey} = event;
    const command = event.ctrlKey || event.metaKey;
    if (altKey || event.target.closest("input, textarea, select")) return;
    if (command && key === "a") this.selectAll();
    else if (key === "Home") this.toStart();
    else if (key === "End") this.follow(true);
    else return;
    event.preventDefault();
  }

  // --- selection ---------------------------------------------------------------------------

  /** Select all lines: what is copied is their text, in the document or not. */
  selectAll() {
    const {chunks} = this.store;
    if (!chunks.length) return;
    const last = chunks.at(-1);
    const ends = [chunks[0].ids[0], last.ids[last.count - 1]];
    this._selection.pins = ends;
    this._flush();
    this._selection.set(...ends.map((id) => this._nodes.get(id)));
  }

  /** The text that is selected, of rows in the document or not; null for none. */
  selectedText() {
    return this._selection.text();
  }

  _copy(event) {
    const text = this.selectedText();
    if (text === null) return;
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  }

  // --- search ------------------------------------------------------------------------------

  get matches() {
    return this._search.count;
  }

  /** Whether lines are still being looked through. */
  get searching() {
    return this._search.busy;
  }

  /** Which match is the current one, from 1; 0 for none. */
  get current() {
    return this._current ? this._search.order(this._current) : 0;
  }

  /** Why nothing is found: a regular expression that is none, or that takes too long. */
  get searchError() {
    return this._search.error;
  }

  /**
   * Mark the lines that hold a text, or with `regex` match an expression, whatever the case
   * unless `matchCase` says so; "" ends the search.
   */
  search(query, options = {}) {
    this._current = 0;
    this._search.set(query, options);
  }

  /** Go to the next match, or with -1 to the one before; from the end in view at first. */
  step(direction) {
    const length = this.matches;
    if (!length) return;
    const from = this.current;
    let to = from + direction;
    if (!from) to = direction < 0 ? length : this._firstInView();
    if (to < 1) to = length;
    if (to > length) to = 1;
    this._current = this._search.nth(to);
    this.reveal(this._current);
    this._showMatch();
  }

  _firstInView() {
    const found = this._heights.find(this._top());
    const before = found ? this._search.before(found.at, found.index) : 0;
    return before < this.matches ? before + 1 : 1;
  }

  /** Bring the first match of the current row into view, in a line that is not wrapped. */
  _showMatch() {
    const node = this._nodes.get(this._current);
    const [range] = node ? this._ranges(node) : [];
    if (!range) return;
    const {scroller} = this;
    const [box, own] = [range.getBoundingClientRect(), scroller.getBoundingClientRect()];
    if (box.right > own.right || box.left < own.left + 100) scroller.scrollLeft += box.left - own.left - own.width / 2;
  }

  /** Colour the very words, where the browser can. */
  _highlight() {
    const {active} = this._search;
    if (!globalThis.CSS?.highlights || !(active || this._marked)) return;
    CSS.highlights.delete("found"); // one name for all logs of a page: only where there is a search
    this._marked = active;
    if (!active) return;
    const ranges = [];
    for (const {chunk, index} of this._places) {
      if (this._search.isHit(chunk, index)) ranges.push(...this._ranges(this._nodes.get(chunk.ids[index])));
    }
    if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
  }

  _ranges(node) {
    return [...node.querySelectorAll(".text, .field")].flatMap((element) => {
      const nodes = textNodes(element);
      return this._search.places(element.textContent).map(([first, last]) => {
        const range = new Range();
        range.setStart(...locate(nodes, first));
        const [end, to] = locate(nodes, last - 1);
        range.setEnd(end, to + 1);
        return range;
      });
    });
  }

  /** Mark beside the scrollbar where the matches are. */
  _drawMarks() {
    this._strip.hidden = !this.matches;
    if (this._strip.hidden) return;
    const height = this._view;
    this._marks.height = height;
    this._marks.width = 6;
    const paint = this._marks.getContext("2d");
    paint.fillStyle = getComputedStyle(this._strip).color;
    const scale = height / Math.max(this._total, this._view);
    let top = BEFORE;
    for (const chunk of this.store.chunks) {
      const own = this._heights.chunk(chunk);
      if (chunk.hitCount && own * scale < 2) paint.fillRect(0, Math.floor(top * scale), 6, 2);
      else if (chunk.hitCount) {
        let y = top;
        for (let index = 0; index < chunk.count; index++) {
          if (this._search.isHit(chunk, index)) paint.fillRect(0, Math.floor(y * scale), 6, 2);
          y += this._heights.row(chunk, index);
        }
      }
      top += own;
    }
  }
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
