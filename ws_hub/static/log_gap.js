/* log_gap.js: lines that the history has let go, and that the log of the program on the server's disk has.
 *
 *   const gap = await findLogGap(view, "build-42", note);
 *   if (gap) await gap.load();
 *
 * Must not know the page.
 */

import {Feed} from "./feed.js";
import {textOf} from "./lines.js";
import {Block} from "./older.js";
import {MOST_LINES, messageOf, readProgramLog} from "./program_log.js";

const LONG = 10000; // characters of a line that may come in pieces

/**
 * Return what loads the lines that are missing at a note of the newest run of a program, null where
 * they are not to be had. They are told by the numbers of the lines around the note.
 */
export async function findLogGap(view, program, note) {
  const around = linesAround(view.store, note);
  if (!around) return null;
  const {before, behind} = around;
  const {source, lines} = await readProgramLog(program, {from: before.number || 1, lines: 2});
  const found = new Map(lines.map((each) => [each.line, each]));
  const isSame = !before.number || shownText(found.get(before.number)) === before.text; // not another run's
  if (source !== "file" || !isSame || !found.has(before.number + 1)) return null;
  return new LogGap(view, program, note, before.number + 1, behind);
}

class LogGap {
  /** `first` is the number of the first line that is missing, `behind` the row behind the last one. */
  constructor(view, program, note, first, behind) {
    Object.assign(this, {_view: view, _program: program, _note: note, _first: first});
    this._last = behind.number - 1;
    this._behind = behind;
    this._closed = false;
    this.lost = false; // the log is of another run now
    this.full = false; // there is no room for more
  }

  close() {
    this._closed = true;
  }

  /** Whether all is here. */
  get done() {
    return this._last < this._first;
  }

  /** How many lines are still missing. */
  get lines() {
    return this._last - this._first + 1;
  }

  /** Load the lines, the last ones first, as far as there is room. After a failure it may be called again. */
  async load() {
    const {store} = this._view;
    while (!this.done) {
      // With the line behind them, which tells whose log it is.
      const {lines} = await readProgramLog(this._program, {before: this._last + 2, lines: Math.min(MOST_LINES, this.lines + 1)});
      const place = this._closed ? null : store.at(store.position(this._note) + 1);
      const behind = lines.pop();
      // A log that is being written may not have the last of them yet.
      if (!place || behind?.line !== this._last + 1) return;
      this.lost = !isOf(behind, this._behind) || !store.rises(this._note);
      this.full = !store.hasRoom(lines.length);
      if (this.lost || this.full || !lines.length) return;
      const block = new Block();
      const feed = new Feed(block);
      for (const line of lines) feed.received(messageOf(line));
      this._view.prepend(block.entries, 0, place.chunk.ids[place.index]);
      this._last = lines[0].line - 1;
      this._behind = {text: shownText(lines[0]), cut: 0};
    }
  }
}

/** The text of a line as it is shown; undefined without one. */
function shownText(line) {
  const block = new Block();
  if (line) new Feed(block).received(messageOf(line));
  return block.entries.length ? textOf(block.entries[0].runs) : undefined;
}

/** Whether a row is of a line; of a long one, which comes in pieces, it may have the end only. */
function isOf(line, {text, cut}) {
  if (shownText(line) === text) return true;
  return line.text.length > LONG && (cut ? line.text.includes(text) : line.text.endsWith(text));
}

/**
 * The lines before and behind a note, if their numbers are the program's and no run begins behind it;
 * none beside a note of other lines that are missing.
 */
function linesAround(store, note) {
  const position = store.position(note);
  const [before, behind] = [-1, 1].map((way) => {
    const place = store.at(position + way);
    return place && store.read(place.chunk, place.index);
  });
  if (!behind?.number || behind.counted || before?.counted || before?.gap) return null;
  const first = before?.number ? before : {number: 0, text: ""};
  return behind.number - first.number > 1 && store.rises(note) ? {before: first, behind} : null;
}
