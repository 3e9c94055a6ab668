/* heights.js: where the rows of a log stand, of which only those in view are laid out.
 *
 * A row that was never laid out has the height that its number of characters lets expect; the
 * page measures those that it shows. Must not know the DOM: pixels in, pixels out.
 */

import {HIDDEN} from "./lines.js";

export const BEFORE = 6; // pixels in front of the first row
const AFTER = 10; // and behind the last one

export class Heights {
  constructor(store) {
    this._store = store;
    this.line = 19; // pixels of one line
    this.columns = 0; // characters in a line; 0 where lines are not wrapped
  }

  /** Set the height of a line, and how many characters there is room for in one. */
  set(line, columns) {
    if (line === this.line && columns === this.columns) return;
    this.line = line;
    this.columns = columns;
    for (const chunk of this._store.chunks) {
      chunk.height = -1;
      chunk.heights = null;
    }
  }

  row(chunk, index) {
    if (chunk.flags[index] & HIDDEN) return 0;
    const measured = chunk.heights ? chunk.heights[index] : 0;
    if (measured) return measured;
    const rows = this.columns ? Math.ceil(chunk.lengths[index] / this.columns) : 1;
    return this.line * (rows || 1);
  }

  chunk(chunk) {
    if (chunk.height < 0) {
      let sum = 0;
      for (let index = 0; index < chunk.count; index++) sum += this.row(chunk, index);
      chunk.height = sum;
    }
    return chunk.height;
  }

  /** Keep what a row takes; say whether that is not what was expected. */
  measured(chunk, index, height) {
    const before = this.row(chunk, index);
    if (Math.abs(before - height) < 0.01) return false;
    (chunk.heights ??= new Float32Array(chunk.capacity))[index] = height;
    chunk.height = -1;
    return true;
  }

  /** All rows, with the space around them. */
  total() {
    let sum = BEFORE + AFTER;
    for (const chunk of this._store.chunks) sum += this.chunk(chunk);
    return sum;
  }

  /** Where a row begins. */
  top({chunk, index}) {
    let top = BEFORE;
    for (const each of this._store.chunks) {
      if (each === chunk) break;
      top += this.chunk(each);
    }
    for (let at = 0; at < index; at++) top += this.row(chunk, at);
    return top;
  }

  /** The row at a height: `{at, index, top}`, `at` the place of its chunk; null for no rows. */
  find(y) {
    const {chunks} = this._store;
    let top = BEFORE;
    let last = null;
    for (let at = 0; at < chunks.length; at++) {
      const chunk = chunks[at];
      const height = this.chunk(chunk);
      if (height > 0 && y < top + height) {
        for (let index = 0; index < chunk.count; index++) {
          const own = this.row(chunk, index);
          if (own && y < top + own) return {at, index, top};
          if (own) last = {at, index, top};
          top += own;
        }
      } else if (height > 0) {
        last = {at, index: -1, top};
        top += height;
      }
    }
    return last && this._lastOf(last, top);
  }

  /** The last row that is shown, at or before a place. */
  _lastOf({at, index, top}, end) {
    if (index >= 0) return {at, index, top};
    const chunk = this._store.chunks[at];
    let last = chunk.count - 1;
    while (chunk.flags[last] & HIDDEN) last -= 1;
    return {at, index: last, top: end - this.row(chunk, last)};
  }
}
