/* lines.js: the lines of a log, kept in little memory: a million of 80 characters in 110 MB.
 *
 *   const store = new LineStore({maxLines: 1000000});
 *   const id = store.append({runs: [{text: "compiling", style: null}], time: 1764331200000000});
 *   store.row(id); // {id, number: 1, text: "compiling", runs, time, kind: "", stderr: false, ...}
 *
 * A row is a line, or a note between lines. It has an id, which is never used again, and stands
 * in a chunk of some hundred rows. Chunks that are not among the newest hold their texts as one
 * array of UTF-8 and their colours as numbers; runs are made when they are asked for.
 *
 * Must not know the DOM, messages or connections.
 */

const CHUNK_LINES = 512; // at most
const HOT = 4; // so many of the newest chunks keep their texts as they came
const WARM = 16; // so many others keep the texts that were read last
const RUN_SIZE = 4; // characters' worth of what a colour takes

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", {ignoreBOM: true});

/* Of a row, as bits. */
export const NOTE = 1; // stands between lines
const STDERR = 2;
const GAP = 4; // a note of what is missing
export const FOLDED = 8; // hidden, with others that stand behind a heading
export const FILTERED = 16; // hidden: the reader has asked for others
const COUNTED = 32; // its number is where it stands, and grows with lines that come in front of it
const GONE = 64; // hidden for good: a note that is not true any more
export const HIDDEN = FOLDED | FILTERED | GONE;

const NOTHING = Object.freeze({lines: 0, messages: 0});
const UNMARKED = Object.freeze([]);
const ABSENT = Object.freeze({cut: 0, missed: NOTHING, marks: UNMARKED});

function add(sum, {lines, messages}, sign = 1) {
  sum.lines += sign * lines;
  sum.messages += sign * messages;
}

/** Some rows, in order. What is per row stands in arrays of numbers. */
class Chunk {
  constructor(capacity) {
    this.capacity = capacity;
    this.count = 0;
    this.lines = 0; // rows that are no notes
    this.size = 0; // characters, and what their colours take
    this.low = Infinity; // the least and the greatest of the ids
    this.high = 0;
    this.ids = new Uint32Array(capacity);
    this.numbers = new Int32Array(capacity); // 0 for a note; of a COUNTED one less `shift`
    this.times = new Float64Array(capacity); // microseconds since 1970; NaN where unknown
    this.lengths = new Uint32Array(capacity); // of the texts
    this.flags = new Uint8Array(capacity);
    this.kinds = new Uint8Array(capacity); // place in the names of the store
    this.extras = null; // id -> {cut, missed, marks}, of few rows
    this.styles = [];
    this._styleIndex = new Map();
    this.texts = []; // null while only `bytes` holds them
    this.spans = []; // of each row null, or [length, style + 1, length, style + 1, ...]
    this.bytes = null; // null while the texts may still change
    this.packedSpans = null; // {starts, values}
    this.height = -1; // pixels of its rows, -1 for unknown: see heights.js
    this.heights = null; // pixels of each row that was measured, 0 for unknown
    this.filtered = 0; // the filter that went through it as it is: see levels.js
    this.hiddenLines = 0;
    this.levelBefore = 0; // of the line in front of it, when that filter went through
    this.lastLevel = 0;
    this.searched = 0; // the search that looked through it as it is: see search.js
    this.searchedAs = 0; // the search that its hits are of
    this.hits = null;
    this.hitCount = 0;
  }

  get arrays() {
    return [this.ids, this.numbers, this.times, this.lengths, this.flags, this.kinds];
  }

  /** Say that something about the rows is not what it was. */
  touch() {
    this.height = -1;
    this.searched = this.filtered = 0;
  }

  /** Make room for a row at an index. */
  open(index) {
    if (index < this.count) {
      for (const each of this.arrays) each.copyWithin(index + 1, index, this.count);
      this.heights = this.hits = null;
      this.hitCount = 0;
    }
    this.texts.splice(index, 0, "");
    this.spans.splice(index, 0, null);
    this.count += 1;
  }

  /** Close the gap where a line was. */
  close(index) {
    for (const each of this.arrays) each.copyWithin(index, index + 1, this.count);
    this.texts.splice(index, 1);
    this.spans.splice(index, 1);
    this.heights = this.hits = null;
    this.hitCount = 0;
    this.count -= 1;
    this.lines -= 1;
    this.touch();
  }

  /** Return the numbers of the styles of a text, null for one without any. */
  encode(runs) {
    if (!runs.some((run) => run.style)) return null;
    const spans = [];
    for (const {text, style} of runs) {
      const place = style ? this._place(style) : 0;
      for (let left = text.length; left > 0; left -= 65535) spans.push(Math.min(left, 65535), place);
    }
    return spans;
  }

  _place(style) {
    const key = JSON.stringify(style);
    let place = this._styleIndex?.get(key);
    if (place === undefined) {
      if (this.styles.length === 65534) return 0; // more colours than a chunk of any program has
      this._styleIndex ??= new Map(this.styles.map((each, index) => [JSON.stringify(each), index + 1]));
      place = this.styles.push(style);
      this._styleIndex.set(key, place);
    }
    return place;
  }

  /** Return `[length, style + 1, ...]` of a row, null for one in one piece without a style. */
  spansOf(index) {
    if (this.spans) return this.spans[index];
    if (!this.packedSpans) return null;
    const {starts, values} = this.packedSpans;
    return starts[index] === starts[index + 1] ? null : values.subarray(starts[index], starts[index + 1]);
  }

  /** Hold the texts as bytes, and the spans as one array. */
  pack() {
    if (this.bytes) return;
    this.bytes = encoder.encode(this.texts.join("\n"));
    const starts = new Uint32Array(this.count + 1);
    for (let index = 0; index < this.count; index++) starts[index + 1] = starts[index] + (this.spans[index]?.length ?? 0);
    const values = new Uint16Array(starts[this.count]);
    for (let index = 0; index < this.count; index++) if (this.spans[index]) values.set(this.spans[index], starts[index]);
    this.packedSpans = values.length ? {starts, values} : null;
    this.texts = this.spans = this._styleIndex = null;
  }

  /** Return all texts, joined by newlines. */
  joined() {
    return this.texts ? this.texts.join("\n") : decoder.decode(this.bytes);
  }

  /** Hold texts and spans as arrays again, to be changed. */
  unpack() {
    this.texts ??= this.joined().split("\n");
    if (this.bytes) this.spans = Array.from({length: this.count}, (_, index) => this.spansOf(index));
    this.bytes = this.packedSpans = null;
  }
}

/** The rows of a log, the newest within bounds, and what is known of those that are not here. */
export class LineStore {
  constructor({maxLines = 1_000_000, maxChars = 128 * 2 ** 20} = {}) {
    this.maxLines = maxLines;
    this.maxChars = maxChars;
    this._capacity = Math.max(1, Math.min(CHUNK_LINES, Math.floor(maxLines / 10)));
    this._kinds = [""];
    this._nextId = 1;
    this.clear();
  }

  clear() {
    this.chunks = [];
    this.rows = 0; // that are kept, notes too
    this.count = 0; // lines that are kept
    this.total = 0; // lines that there are: those that came, and with numbers those before
    this.cut = 0; // lines that were let go
    this.dropped = 0; // rows that were let go
    this.missed = {...NOTHING}; // what never came, as the notes that are kept say
    this.before = {...NOTHING}; // what is not here from before the first line: let go, or never came
    this.provisional = false; // lines may come in front: those without a number have none yet
    this.shift = 0; // lines without numbers that came in front of all
    this.widest = 0; // characters
    this._size = 0;
    this._loose = new Set(); // chunks that were unpacked
    this._warm = []; // packed chunks whose texts are there as well
  }

  // --- changes -----------------------------------------------------------------------------

  /**
   * Add a row at the end; return its id. An entry is
   *
   * - `runs`: `[{text, style}]`; a style is null, one of ansi.js, or `{name}` of a CSS class;
   * - `kind`: "" for a line; "note" for what stands between lines; others are CSS classes of lines;
   * - `number` of the line (counted without one), `total`: how many lines there are with it;
   * - `time`: microseconds since 1970, or null; `stderr`: whether it was written there;
   * - `cut`: characters of the line that are left out; `folded`: it is hidden at first; `gone`: for good;
   * - `marks`: sections that begin or end with the line (ansi.js);
   * - of a note `gap`, whether something is missing there, `missed`: `{lines, messages}` of it.
   */
  append(entry) {
    const last = this.chunks.at(-1);
    const chunk = last && last.count < last.capacity ? last : this._begin();
    const id = this._put(chunk, chunk.count, entry);
    this._trim();
    return id;
  }

  /** Add a row in front of another one, or at the end where that is 0 or not here. */
  insert(entry, before) {
    const place = this.locate(before);
    if (!place) return this.append(entry);
    let {chunk, index} = place;
    if (chunk.count === chunk.capacity) {
      const rest = this._split(chunk, chunk.count >> 1);
      if (index > chunk.count) [chunk, index] = [rest, index - chunk.count];
    }
    this._change(chunk);
    return this._put(chunk, index, entry);
  }

  /** Put something else in the place of a row; say whether that is here. */
  replace(id, entry) {
    const place = this.locate(id);
    if (!place) return false;
    const {chunk, index} = place;
    this._change(chunk);
    const {missed} = chunk.extras?.get(id) ?? ABSENT;
    add(this.missed, missed, -1);
    const flags = chunk.flags[index];
    this._fill(chunk, index, {number: chunk.numbers[index], counted: flags & COUNTED, folded: flags & FOLDED, ...entry});
    return true;
  }

  /** Take out a line whose number is the program's; it is here, at another place or not at all. */
  remove(id) {
    const {chunk, index} = this.locate(id);
    this._change(chunk);
    const size = chunk.lengths[index] + RUN_SIZE * (chunk.spans[index]?.length ?? 0);
    chunk.close(index);
    chunk.extras?.delete(id);
    chunk.size -= size;
    this._size -= size;
    this.rows -= 1;
    this.count -= 1;
    if (chunk.count) return;
    this.chunks.splice(this.chunks.indexOf(chunk), 1);
    this._forget(chunk);
  }

  _forget(chunk) {
    this._loose.delete(chunk);
    this._warm = this._warm.filter((each) => each !== chunk);
  }

  /**
   * Add rows in front of all others, or of one; there are known to be `lines` more than there were.
   * In front of all, a line without a number moves those behind it up; elsewhere it has none.
   * Return whether lines that were there have other numbers now.
   */
  prepend(entries, lines, before = this.first) {
    const top = before === this.first;
    const counted = entries.filter(({kind, number}) => kind !== "note" && number === undefined).length;
    if (top) this.shift += counted;
    let place = -this.shift;
    const total = this.total + lines;
    const made = [];
    for (const entry of entries) {
      if (!made.length || made.at(-1).count === this._capacity) made.push(new Chunk(this._capacity));
      const own = {...entry, total: 0};
      if (entry.kind !== "note" && entry.number === undefined) Object.assign(own, top ? {number: (place += 1), counted: true} : {number: 0});
      this._put(made.at(-1), made.at(-1).count, own);
    }
    for (const chunk of made) chunk.pack();
    const {chunk, index} = this.locate(before) ?? {index: 0};
    if (index) this._split(chunk, index);
    this.chunks.splice(chunk ? this.chunks.indexOf(chunk) + (index ? 1 : 0) : 0, 0, ...made);
    this.total = total;
    return top && counted > 0;
  }

  /** Whether there is room for so many more lines. */
  hasRoom(lines) {
    return this.count + lines <= this.maxLines && this._size < this.maxChars * 0.95;
  }

  _begin() {
    const chunk = new Chunk(this._capacity);
    this.chunks.push(chunk);
    this._loose.delete(this.chunks.at(-1 - HOT));
    this.chunks.at(-1 - HOT)?.pack();
    for (const each of this._loose) {
      if (this.chunks.lastIndexOf(each) < this.chunks.length - HOT) {
        each.pack();
        this._loose.delete(each);
      }
    }
    return chunk;
  }

  _change(chunk) {
    if (!chunk.bytes) return;
    chunk.unpack();
    this._loose.add(chunk);
    this._warm = this._warm.filter((each) => each !== chunk);
  }

  /** Move the rows from an index on into a chunk of their own; return that. */
  _split(chunk, index) {
    this._change(chunk);
    const rest = new Chunk(this._capacity);
    const from = chunk.arrays;
    rest.arrays.forEach((each, which) => each.set(from[which].subarray(index, chunk.count)));
    rest.count = chunk.count - index;
    [rest.low, rest.high] = [chunk.low, chunk.high];
    rest.texts = chunk.texts.splice(index);
    rest.spans = chunk.spans.splice(index);
    rest.styles = [...chunk.styles];
    rest._styleIndex = null;
    rest.extras = chunk.extras && new Map(chunk.extras);
    chunk.count = index;
    chunk.heights = chunk.hits = null;
    chunk.hitCount = 0;
    chunk.touch();
    for (const each of [chunk, rest]) {
      each.lines = each.size = 0;
      for (let at = 0; at < each.count; at++) {
        each.lines += each.flags[at] & NOTE ? 0 : 1;
        each.size += each.lengths[at] + RUN_SIZE * (each.spans[at]?.length ?? 0);
      }
    }
    this.chunks.splice(this.chunks.indexOf(chunk) + 1, 0, rest);
    this._loose.add(rest).add(chunk);
    return rest;
  }

  _put(chunk, index, entry) {
    const line = entry.kind !== "note";
    if (line) {
      this.total = Math.max(this.total, entry.total ?? this.total + 1);
      this.count += 1;
      chunk.lines += 1;
    }
    this.rows += 1;
    const id = this._nextId++;
    chunk.open(index);
    chunk.ids[index] = id;
    chunk.low = Math.min(chunk.low, id);
    chunk.high = Math.max(chunk.high, id);
    chunk.lengths[index] = 0;
    this._fill(chunk, index, {number: line ? this.total - this.shift : 0, counted: line && entry.number === undefined, ...entry});
    return id;
  }

  _fill(chunk, index, entry) {
    const {runs, kind = "", number = 0, time = null, stderr = false, cut = 0, gap = false} = entry;
    const {counted = false, folded = false, gone = false, missed = NOTHING, marks = UNMARKED} = entry;
    let text = textOf(runs);
    if (text.includes("\n")) text = text.replaceAll("\n", " "); // an event may have any name
    const before = chunk.lengths[index] + RUN_SIZE * (chunk.spans[index]?.length ?? 0);
    const spans = chunk.encode(runs);
    chunk.texts[index] = text;
    chunk.spans[index] = spans;
    chunk.lengths[index] = text.length;
    chunk.numbers[index] = kind === "note" ? 0 : number;
    chunk.times[index] = time ?? NaN;
    chunk.kinds[index] = this._kind(kind);
    const filtered = chunk.flags[index] & FILTERED;
    chunk.flags[index] = (kind === "note" && NOTE) | (stderr && STDERR) | (gap && GAP) | (folded && FOLDED) | (counted && COUNTED) | (gone && GONE) | filtered;
    const id = chunk.ids[index];
    if (cut || missed !== NOTHING || marks.length) (chunk.extras ??= new Map()).set(id, {cut, missed, marks});
    else chunk.extras?.delete(id);
    add(this.missed, missed);
    const size = text.length + RUN_SIZE * (spans?.length ?? 0) - before;
    chunk.size += size;
    this._size += size;
    if (chunk.heights) chunk.heights[index] = 0;
    chunk.touch();
    if (text.length > this.widest) this.widest = text.length;
  }

  _kind(name) {
    let index = this._kinds.indexOf(name);
    if (index < 0) index = this._kinds.push(name) - 1;
    return index;
  }

  _trim() {
    // Whole chunks: to move every line up for each one that goes would take for ever.
    while (this.chunks.length > 1 && (this.count > this.maxLines || this._size > this.maxChars)) {
      const chunk = this.chunks.shift();
      this.rows -= chunk.count;
      this.count -= chunk.lines;
      this.cut += chunk.lines;
      this.dropped += chunk.count;
      this._size -= chunk.size;
      this.before.lines += chunk.lines;
      for (let index = 0; index < chunk.count; index++) {
        const {missed} = chunk.extras?.get(chunk.ids[index]) ?? ABSENT;
        add(this.before, missed);
        add(this.missed, missed, -1);
      }
      this._forget(chunk);
    }
  }

  // --- reading -----------------------------------------------------------------------------

  /** Return `{chunk, index}` of a row, null if it is not here. The newest are found first. */
  locate(id) {
    if (!id) return null;
    for (let at = this.chunks.length - 1; at >= 0; at--) {
      const chunk = this.chunks[at];
      if (id < chunk.low || id > chunk.high) continue;
      const index = chunk.ids.indexOf(id);
      if (index >= 0 && index < chunk.count) return {chunk, index};
    }
    return null;
  }

  /** The id of the first row; 0 for none. */
  get first() {
    return this.chunks.length ? this.chunks[0].ids[0] : 0;
  }

  /** How many rows are in front of a row; -1 if it is not here. */
  position(id) {
    const place = this.locate(id);
    if (!place) return -1;
    let position = place.index;
    for (const chunk of this.chunks) {
      if (chunk === place.chunk) break;
      position += chunk.count;
    }
    return position;
  }

  /** Return `{chunk, index}` of the row with so many in front of it; null for none. */
  at(position) {
    let left = position;
    for (const chunk of this.chunks) {
      if (left < chunk.count) return left < 0 ? null : {chunk, index: left};
      left -= chunk.count;
    }
    return null;
  }

  /** The id of the newest line with a number; 0 for none. */
  find(number) {
    if (!(number > 0)) return 0;
    for (let at = this.chunks.length - 1; at >= 0; at--) {
      const {numbers, flags, count, ids} = this.chunks[at];
      for (let index = count - 1; index >= 0; index--) {
        const own = flags[index] & COUNTED ? this._countedNumber(numbers[index]) : numbers[index];
        if (own === number) return ids[index];
      }
    }
    return 0;
  }

  /** Whether the numbers of the lines behind a row rise to the end: all are of one run. */
  rises(id) {
    const {chunk: first, index: start} = this.locate(id);
    let last = 0;
    for (let at = this.chunks.indexOf(first); at < this.chunks.length; at++) {
      const {numbers, flags, count} = this.chunks[at];
      for (let index = this.chunks[at] === first ? start : 0; index < count; index++) {
        if (flags[index] & NOTE) continue;
        if (flags[index] & COUNTED || numbers[index] < last) return false;
        last = numbers[index];
      }
    }
    return true;
  }

  /**
   * The id of the nearest row that is shown and for which `test(text, row)` is true, behind another
   * one or with -1 before it, among so many; 0 for none. `from` is how many rows are in front of
   * that one; half of one is between two.
   */
  near(from, direction, most, test) {
    const {chunks} = this;
    let [at, index] = [0, direction > 0 ? Math.floor(from) + 1 : Math.ceil(from) - 1];
    while (at < chunks.length && index >= chunks[at].count) index -= chunks[at++].count;
    for (let count = 0; count < most; count++, index += direction) {
      if (index < 0) index = (chunks[--at]?.count ?? 0) - 1;
      else if (index >= chunks[at]?.count) [at, index] = [at + 1, 0];
      const chunk = chunks[at];
      if (!chunk) return 0;
      if (chunk.flags[index] & (HIDDEN | NOTE)) continue;
      const id = chunk.ids[index];
      if (test(this._texts(chunk)[index], chunk.extras?.get(id) ?? ABSENT)) return id;
    }
    return 0;
  }

  /** What stands in a row, null if it is not here. */
  row(id) {
    const place = this.locate(id);
    return place && this.read(place.chunk, place.index);
  }

  /** What stands at a place: what `append` was given, with all that it leaves out. */
  read(chunk, index) {
    const id = chunk.ids[index];
    const flags = chunk.flags[index];
    const text = this._texts(chunk)[index];
    const time = chunk.times[index];
    const {cut, missed, marks} = chunk.extras?.get(id) ?? ABSENT;
    return {
      id,
      number: flags & COUNTED ? this._countedNumber(chunk.numbers[index]) : chunk.numbers[index],
      kind: this._kinds[chunk.kinds[index]],
      text,
      runs: runsOf(text, chunk.spansOf(index), chunk.styles),
      time: Number.isNaN(time) ? null : time,
      counted: Boolean(flags & COUNTED), // its number is that of its place, not the program's
      stderr: Boolean(flags & STDERR),
      gap: Boolean(flags & GAP),
      hidden: Boolean(flags & HIDDEN),
      cut,
      missed,
      marks,
    };
  }

  _countedNumber(place) {
    return this.provisional ? 0 : place + this.shift;
  }

  /** All rows, or those from one to another, both included. */
  *all(first = 0, last = 0) {
    let begun = !first;
    for (const chunk of this.chunks) {
      for (let index = 0; index < chunk.count; index++) {
        const id = chunk.ids[index];
        begun ||= id === first;
        if (begun) yield this.read(chunk, index);
        if (id === last) return;
      }
    }
  }

  /** The kept lines as plain text in parts, and the notes about what is missing between them. */
  *text() {
    const {lines, messages} = this.before;
    const before = [lines && `${lines} earlier lines`, messages && `${messages} earlier messages`].filter(Boolean);
    if (before.length) yield `[${before.join(" and ")} are not here]\n`;
    for (const chunk of this.chunks) {
      if (chunk.lines === chunk.count) {
        yield chunk.joined() + "\n";
        continue;
      }
      const texts = this._texts(chunk);
      for (let index = 0; index < chunk.count; index++) {
        const flags = chunk.flags[index];
        if (!(flags & NOTE)) yield texts[index] + "\n";
        else if (flags & GAP) yield `[${texts[index]}]\n`;
      }
    }
  }

  /** The texts of a chunk; a packed one keeps them for a while. */
  _texts(chunk) {
    if (!chunk.texts) {
      chunk.texts = chunk.joined().split("\n");
      this._warm.push(chunk);
      if (this._warm.length > WARM) this._warm.shift().texts = null;
    }
    return chunk.texts;
  }
}

/** Return the text of runs. */
export function textOf(runs) {
  return runs.length === 1 ? runs[0].text : runs.map((run) => run.text).join("");
}

function runsOf(text, spans, styles) {
  if (!spans) return text === "" ? [] : [{text, style: null}];
  const runs = [];
  let start = 0;
  for (let at = 0; at < spans.length; at += 2) {
    const end = start + spans[at];
    runs.push({text: text.slice(start, end), style: spans[at + 1] ? styles[spans[at + 1] - 1] : null});
    start = end;
  }
  return runs;
}
