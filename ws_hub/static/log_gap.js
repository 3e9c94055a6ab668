/* log_gap.js: lines that the history has let go, and that the log of the program on the server's disk has.
 *
 *   const gap = await findLogGap(view, "build-42", note);
 *   if (gap) await gap.load();
 *
 * Must not know the page.
 */

import {Feed} from "./feed.js";
import {Block} from "./older.js";

const PAGE = 10000; // lines: the most that a server answers with

/**
 * Return what loads the lines that are missing at a note of the newest run of a program, null where
 * they are not to be had. They are told by the numbers of the lines around the note.
 */
export async function findLogGap(view, program, note) {
  const around = linesAround(view.store, note);
  if (!around) return null;
  const {before, behind} = around;
  const {source, lines} = await read(program, {from: before.number || 1, lines: 2});
  const found = new Map(lines.map((each) => [each.line, each]));
  const isSame = !before.number || textOf(found.get(before.number)) === before.text; // not another run's
  if (source !== "file" || !isSame || !found.has(before.number + 1)) return null;
  return new LogGap(view, program, note, before.number + 1, behind.number - 1);
}

class LogGap {
  constructor(view, program, note, first, last) {
    Object.assign(this, {_view: view, _program: program, _note: note, _first: first, _last: last});
    this.lost = false; // some are not there any more
    this.full = false; // there is no room for more
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
    while (!this.done) {
      const {lines} = await read(this._program, {before: this._last + 1, lines: Math.min(PAGE, this.lines)});
      const {store} = this._view;
      const place = store.at(store.position(this._note) + 1);
      this.full = !store.hasRoom(lines.length);
      // A log that is being written may not have the last of them yet.
      if (lines.at(-1)?.line !== this._last || !place || this.full) return;
      const block = new Block();
      const feed = new Feed(block);
      for (const line of lines) feed.received(messageOf(line));
      this._view.prepend(block.entries, 0, place.chunk.ids[place.index]);
      this._last = lines[0].line - 1;
    }
  }
}

async function read(program, parameters) {
  const query = new URLSearchParams(parameters);
  const response = await fetch(`api/processes/${encodeURIComponent(program)}/log?${query}`);
  return response.ok ? response.json() : {source: "", lines: []};
}

function messageOf({line, text, stream, time}) {
  return {type: "process_output", line, data: text, stream, time};
}

function textOf(line) {
  const block = new Block();
  if (line) new Feed(block).received(messageOf(line));
  return block.entries[0]?.runs.map((run) => run.text).join("");
}

/** The lines before and behind a note, if their numbers are the program's and no run begins behind it. */
function linesAround(store, note) {
  const position = store.position(note);
  const [before, behind] = [-1, 1].map((way) => {
    const place = store.at(position + way);
    return place && store.read(place.chunk, place.index);
  });
  if (!behind?.number || behind.counted || before?.counted) return null;
  const first = before?.number ? before : {number: 0, text: ""};
  return behind.number - first.number > 1 && store.rises(note) ? {before: first, behind} : null;
}
