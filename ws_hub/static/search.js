/* search.js: the lines of a log that hold a text, looked for in slices of a few milliseconds.
 *
 * Each chunk of lines knows of which search its hits are; what has come or changed since then is
 * looked through again. Must not know the DOM: a store of lines in, hits out.
 */

import {FILTERED, NOTE} from "./lines.js";

const SLICE = 10; // milliseconds without a pause

/** Return an expression for a text, whatever its case. */
export function literal(text) {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gi");
}

export class Search {
  /** `onChange()` is called when there are other hits. */
  constructor(store, onChange) {
    this.pattern = null; // a RegExp with "g", null without a search
    this._store = store;
    this._onChange = onChange;
    this._number = 1; // of the search: chunk.searched says of which its hits are
    this._channel = new MessageChannel(); // wakes sooner than a timer
    this._channel.port1.onmessage = () => this._slice();
    this._running = false;
  }

  close() {
    this.set(null);
    this._channel.port1.close();
  }

  set(pattern) {
    this.pattern = pattern;
    this._number += 1;
    for (const chunk of this._store.chunks) this._forget(chunk);
    this.go();
    this._onChange();
  }

  /** Look through what has not been looked through. */
  go() {
    if (!this.pattern || this._running) return;
    this._running = true;
    this._channel.port2.postMessage(0);
  }

  /** Whether some lines have not been looked through. */
  get busy() {
    return this._running;
  }

  get count() {
    if (!this.pattern) return 0;
    return this._store.chunks.reduce((sum, chunk) => sum + (this._has(chunk) ? chunk.hitCount : 0), 0);
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
    return Boolean(this.pattern) && chunk.searchedAs === this._number;
  }

  _forget(chunk) {
    chunk.searched = chunk.searchedAs = 0;
    chunk.hits = null;
    chunk.hitCount = 0;
  }

  _slice() {
    this._running = false;
    if (!this.pattern) return;
    const end = performance.now() + SLICE;
    const {chunks} = this._store;
    let done = 0;
    for (let at = chunks.length - 1; at >= 0; at--) { // the newest first: the reader is there
      if (chunks[at].searched === this._number) continue;
      if (done && performance.now() > end) {
        this.go();
        break;
      }
      this._scan(chunks[at]);
      done += 1;
    }
    if (done) this._onChange();
  }

  _scan(chunk) {
    const {pattern} = this;
    const text = chunk.joined();
    const hits = new Uint8Array(chunk.count);
    let count = 0;
    let row = 0;
    let end = chunk.lengths[0]; // of the row
    pattern.lastIndex = 0;
    while (pattern.test(text)) { // a match is within a row, so its end tells which
      while (pattern.lastIndex > end) end += chunk.lengths[++row] + 1;
      if (!(chunk.flags[row] & (NOTE | FILTERED))) {
        hits[row] = 1;
        count += 1;
      }
      if (row === chunk.count - 1) break;
      pattern.lastIndex = end + 1; // the next row
    }
    chunk.hits = count ? hits : null;
    chunk.hitCount = count;
    chunk.searched = chunk.searchedAs = this._number;
  }
}
