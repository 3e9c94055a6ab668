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
  constructor(step) {
    this._step = step;
    this._context = null; // behind the last line
    this._entries = []; // {line, before, effect}, by the numbers of their lines
    this._fixed = 0; // number of the last line that does not change any more
  }

  /** What the lines so far have left for the next. */
  get context() {
    return this._context;
  }

  /** What came before does not change any more, and leaves nothing for the next line. */
  cut() {
    this._fixed = this._entries[this._entries.length - 1]?.line.number ?? this._fixed;
    this._entries = [];
    this._context = null;
  }

  /** Look at a line, or at what became of one, if it is not too far back. */
  take(line) {
    const entries = this._entries;
    const last = entries[entries.length - 1];
    if (line.number <= this._fixed) return;
    if (!last || line.number > last.line.number) {
      this._add(line);
      if (entries.length > 2 * KEEP) {
        entries.splice(0, KEEP);
        this._fixed = entries[0].line.number - 1;
      }
      return;
    }
    const index = countFirst(entries, (entry) => entry.line.number < line.number);
    const found = entries[index];
    const behind = found.line.number === line.number ? index + 1 : index;
    const before = found.before;
    if (behind > index && found.effect === null) {
      const {context, effect} = this._step(before, line, entries[index - 1]?.line);
      const after = behind < entries.length ? entries[behind].before : this._context;
      if (effect === null && context === after) {
        found.line = line;
        return;
      }
    }
    const again = entries.slice(behind).map((entry) => entry.line);
    for (let at = entries.length - 1; at >= index; at--) entries[at].effect?.undo();
    entries.length = index;
    this._context = before;
    for (const each of [line, ...again]) this._add(each);
  }

  _add(line) {
    const before = this._context;
    const {context, effect} = this._step(before, line, this._entries[this._entries.length - 1]?.line);
    effect?.apply();
    this._context = context;
    this._entries.push({line, before, effect});
  }
}

/** Return for how many of a list this is true: the first ones, and none behind them. */
export function countFirst(list, isOne) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isOne(list[middle])) low = middle + 1;
    else high = middle;
  }
  return low;
}
