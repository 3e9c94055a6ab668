/* recent.js: an analysis of lines of which the last ones may still change.
 *
 *   const recent = new Recent((context, line, before) => ({context: ..., effect: {apply() {}, undo() {}}}));
 *   recent.take({number: 1, text: "..."});
 *   recent.take({number: 1, text: "what became of it"});
 *
 * A step looks at one line, with what the lines before it have left as context, and changes
 * nothing itself. Where a line changes, the effects of the lines behind it are undone, and they are
 * looked at again: but only where it makes a difference, so that a progress bar costs one step.
 */

const KEEP = 256; // lines that may still change: more than the rows of most terminals

export class Recent {
  /**
   * `step(context, line, before)` returns `{context, effect}`: the same context where nothing is
   * new, and null as effect where there is none. The first context is null; `before` is the line
   * before, undefined for none.
   */
  constructor(step, {keep = KEEP} = {}) {
    this._step = step;
    this._keep = keep;
    this.clear();
  }

  clear() {
    this._context = null; // behind the last line
    this._entries = []; // {line, before, effect}, by the numbers of their lines
    this._fixed = 0; // number of the last line that does not change any more
  }

  /** What the lines so far have left for the next. */
  get context() {
    return this._context;
  }

  /** Go on with another context: what came before does not change any more. */
  cut(context = null) {
    this._fixed = this._entries[this._entries.length - 1]?.line.number ?? this._fixed;
    this._entries = [];
    this._context = context;
  }

  /** Look at a line, or at what became of one; return false for one that is too far back. */
  take(line) {
    const entries = this._entries;
    const last = entries[entries.length - 1];
    if (line.number <= this._fixed) return false;
    if (!last || line.number > last.line.number) {
      this._add(line);
      if (entries.length > 2 * this._keep) {
        entries.splice(0, this._keep);
        this._fixed = entries[0].line.number - 1;
      }
      return true;
    }
    const index = this._find(line.number);
    const found = entries[index];
    const behind = found.line.number === line.number ? index + 1 : index;
    const before = found.before;
    if (behind > index && found.effect === null) {
      const {context, effect} = this._step(before, line, entries[index - 1]?.line);
      const after = behind < entries.length ? entries[behind].before : this._context;
      if (effect === null && context === after) {
        found.line = line;
        return true;
      }
    }
    const again = entries.slice(behind).map((entry) => entry.line);
    for (let at = entries.length - 1; at >= index; at--) entries[at].effect?.undo();
    entries.length = index;
    this._context = before;
    for (const each of [line, ...again]) this._add(each);
    return true;
  }

  _add(line) {
    const before = this._context;
    const {context, effect} = this._step(before, line, this._entries[this._entries.length - 1]?.line);
    effect?.apply();
    this._context = context;
    this._entries.push({line, before, effect});
  }

  /** The place of a number, or of the first that is higher. */
  _find(number) {
    let [low, high] = [0, this._entries.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this._entries[middle].line.number < number) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
