/* search.js: the lines of a log that hold a text, or match a regular expression.
 *
 * A text is looked for in slices of a few milliseconds; an expression in a worker, which is ended
 * when it takes too long for a few lines: no expression can stop the page. Each chunk of lines
 * knows of which search its hits are; what has come or changed since then is looked through again.
 *
 * Must not know the DOM: a store of lines in, hits out.
 */

import {FILTERED, NOTE} from "./lines.js";

const SLICE = 10; // milliseconds without a pause
const BATCH = 8; // chunks that a worker is asked about at once
const PATIENCE = 3000; // milliseconds for those
const MOST = 100; // places in a line
const TOO_LONG = "this expression takes too long";

/** Looks for a text, whatever its case unless that is to match. */
class Literal {
  constructor(text, matchCase) {
    const escaped = text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
    this._pattern = new RegExp(escaped, matchCase ? "g" : "gi");
  }

  /** Call `found` with chunks and the rows that are hits, for a while; say whether with any. */
  look(take, found) {
    const end = performance.now() + SLICE;
    let chunk = take();
    const some = Boolean(chunk);
    while (chunk) {
      found(chunk, this._rows(chunk));
      chunk = performance.now() < end ? take() : null;
    }
    return some;
  }

  _rows(chunk) {
    const {_pattern: pattern} = this;
    const text = chunk.joined();
    const rows = [];
    let row = 0;
    let end = chunk.lengths[0]; // of the row
    pattern.lastIndex = 0;
    while (pattern.test(text)) { // a match is within a row, so its end tells which
      while (pattern.lastIndex > end) end += chunk.lengths[++row] + 1;
      rows.push(row);
      if (row === chunk.count - 1) break;
      pattern.lastIndex = end + 1; // the next row
    }
    return rows;
  }

  places(text) {
    this._pattern.lastIndex = 0;
    const places = [];
    for (const match of text.matchAll(this._pattern)) {
      if (places.push([match.index, match.index + match[0].length]) === MOST) break;
    }
    return places;
  }

  close() {}
}

/** Looks for a regular expression. Raises SyntaxError for what is none. */
class Expression {
  constructor(source, matchCase, {onMore, onError}) {
    const flags = matchCase ? "" : "i";
    new RegExp(source, flags);
    this._onError = onError;
    this._onMore = onMore;
    this._job = 0;
    this._asked = null; // {job, then}: what the worker is busy with
    this._isReady = false; // whether it has begun: until then its file is loaded, however slowly
    this._timer = 0;
    this._wanted = new Set(); // texts whose places are to be asked for
    this._known = new Map(); // text -> places
    this._worker = new Worker(new URL("./search_worker.js", import.meta.url), {type: "module"});
    this._worker.onmessage = ({data}) => this._answered(data);
    this._worker.onerror = () => this._fail("regular expressions cannot be looked for here");
    this._worker.postMessage({source, flags});
  }

  /** Ask for more; `found` is called, and then `onMore`, when it is answered. */
  look(take, found) {
    if (this._asked || this._askPlaces()) return false;
    const chunks = [];
    for (let chunk = take(); chunk; chunk = take()) if (chunks.push(chunk) === BATCH) break;
    if (!chunks.length) return false;
    this._ask({chunks: chunks.map((chunk) => chunk.bytes ?? chunk.joined())}, (rows) => {
      rows.forEach((each, index) => found(chunks[index], each));
    });
    return false;
  }

  places(text) {
    const known = this._known.get(text);
    if (!known) this._wanted.add(text);
    return known ?? [];
  }

  _askPlaces() {
    if (!this._wanted.size) return false;
    const texts = [...this._wanted];
    this._wanted.clear();
    this._ask({texts}, (places) => {
      if (this._known.size > 2000) this._known.clear();
      texts.forEach((text, index) => this._known.set(text, places[index]));
    });
    return true;
  }

  _ask(question, then) {
    this._asked = {job: ++this._job, then};
    if (this._isReady) this._startTimer();
    this._worker.postMessage({job: this._job, ...question});
  }

  _startTimer() {
    this._timer = setTimeout(() => this._fail(TOO_LONG), PATIENCE);
  }

  _answered({ready, job, found}) {
    if (ready) {
      this._isReady = true;
      if (this._asked?.job) this._startTimer();
      return;
    }
    if (this._asked?.job !== job) return;
    const {then} = this._asked;
    clearTimeout(this._timer);
    this._asked = null;
    then(found);
    this._onMore();
  }

  _fail(text) {
    this.close();
    this._onError(text);
  }

  close() {
    clearTimeout(this._timer);
    this._asked = {job: 0, then: () => {}}; // asks no more
    this._worker.terminate();
  }
}

export class Search {
  /** `onChange()` is called when there are other hits. */
  constructor(store, onChange) {
    this.error = ""; // why there are no hits
    this._store = store;
    this._onChange = onChange;
    this._finder = null;
    this._number = 1; // of the search: chunk.searched says of which its hits are
    this._channel = new MessageChannel(); // wakes sooner than a timer
    this._channel.port1.onmessage = () => this._slice();
    this._due = false;
  }

  close() {
    this.set("");
    this._channel.port1.close();
  }

  /** Look for a text or, with `regex`, an expression; "" ends the search. */
  set(query, {regex = false, matchCase = false} = {}) {
    this._finder?.close();
    this._finder = null;
    this.error = "";
    this._number += 1;
    for (const chunk of this._store.chunks) this._forget(chunk);
    if (query !== "") this._begin(query, regex, matchCase);
    this.go();
    this._onChange();
  }

  _begin(query, regex, matchCase) {
    const end = (text) => {
      this.error = text;
      this._finder = null;
      this._onChange();
    };
    try {
      const calls = {onMore: () => this._more(), onError: end};
      this._finder = regex ? new Expression(query, matchCase, calls) : new Literal(query, matchCase);
    } catch (error) {
      this.error = error instanceof SyntaxError ? "this is no regular expression" : "regular expressions cannot be looked for here";
    }
  }

  /** Look through what has not been looked through. */
  go() {
    if (!this._finder || this._due) return;
    this._due = true;
    this._channel.port2.postMessage(0);
  }

  /** Whether there is a search. */
  get active() {
    return this._finder !== null;
  }

  /** Whether some lines have not been looked through. */
  get busy() {
    return this.active && this._store.chunks.some((chunk) => chunk.searched !== this._number || !this._has(chunk));
  }

  get count() {
    if (!this.active) return 0;
    return this._store.chunks.reduce((sum, chunk) => sum + (this._has(chunk) ? chunk.hitCount : 0), 0);
  }

  /** Where in a text the matches are, `[[start, end], ...]`, as far as is known. */
  places(text) {
    const places = this._finder?.places(text) ?? [];
    this.go();
    return places;
  }

  /** Whether a row is a hit, as far as is known. */
  isHit(chunk, index) {
    return this._has(chunk) && Boolean(chunk.hits?.[index]);
  }

  /** Which of the hits a row is, from 1; 0 for none. */
  order(id) {
    const place = this._store.locate(id);
    if (!place || !this.isHit(place.chunk, place.index)) return 0;
    let order = 1;
    for (const chunk of this._store.chunks) {
      if (chunk === place.chunk) break;
      if (this._has(chunk)) order += chunk.hitCount;
    }
    for (let index = 0; index < place.index; index++) order += place.chunk.hits[index] ?? 0;
    return order;
  }

  /** The id of the hit with a number, from 1; 0 for none. */
  nth(order) {
    let left = order;
    for (const chunk of this._store.chunks) {
      if (!this._has(chunk) || !chunk.hitCount) continue;
      if (left > chunk.hitCount) {
        left -= chunk.hitCount;
        continue;
      }
      let index = -1;
      while (left-- > 0) index = chunk.hits.indexOf(1, index + 1);
      return chunk.ids[index];
    }
    return 0;
  }

  /** How many hits there are in front of a place. */
  before(at, index) {
    let count = 0;
    for (const chunk of this._store.chunks.slice(0, at)) if (this._has(chunk)) count += chunk.hitCount;
    const chunk = this._store.chunks[at];
    for (let each = 0; each < index; each++) if (this.isHit(chunk, each)) count += 1;
    return count;
  }

  _has(chunk) {
    return this.active && chunk.searchedAs === this._number;
  }

  _forget(chunk) {
    chunk.searched = chunk.searchedAs = 0;
    chunk.hits = null;
    chunk.hitCount = 0;
  }

  _slice() {
    this._due = false;
    const {chunks} = this._store;
    let at = chunks.length; // the newest first: the reader is there
    const take = () => {
      while (--at >= 0) {
        if (chunks[at].searched === this._number) continue;
        chunks[at].searched = this._number; // until it changes
        return chunks[at];
      }
      return null;
    };
    if (this._finder?.look(take, (chunk, rows) => this._keep(chunk, rows))) this._more();
  }

  /** Some more is known: go on. */
  _more() {
    this.go();
    this._onChange();
  }

  _keep(chunk, rows) {
    const hits = new Uint8Array(chunk.count);
    let count = 0;
    for (const row of rows) {
      if (chunk.flags[row] & (NOTE | FILTERED)) continue;
      hits[row] = 1;
      count += 1;
    }
    chunk.hits = count ? hits : null;
    chunk.hitCount = count;
    chunk.searchedAs = this._number;
  }
}
