/* feed.js: the messages of one channel as lines of a log (log.js).
 *
 * Must not know the page or the connection: a client's callbacks in, lines of a view out.
 */

import {LineAssembler} from "./ansi.js";
import {counted, describeMessage, describeStatus, duration, sizeText} from "./messages.js";
import {timeOf} from "./times.js";

const KNOWN_LINES = 4096; // that may still change: more than the rows of a terminal
const ROWS = 512; // lines behind missing ones, among which some may be missing as well

export class Feed {
  /**
   * `behind`: other messages are in front, of which nothing is known here. `onStatus(known)` is called
   * with what `describeStatus` says of a `process_status`, `onStart(time)` with the microseconds at
   * which a program was started, `onUsage()` when it is known what it uses.
   */
  constructor(view, {behind = false, onStatus = () => {}, onStart = () => {}, onUsage = () => {}} = {}) {
    this.view = view;
    this.onStart = onStart;
    this.status = null; // of the process, the newest
    this.usage = null; // of the process: {cpuSeconds, memoryBytes, peakBytes}
    this.attempt = null; // {number, before}: of the newest run, and the status of the attempt before
    this.started = null; // the server's clock
    this.ended = null;
    this._behind = behind;
    this._onStatus = onStatus;
    this._onUsage = onUsage;
    this._assembler = new LineAssembler();
    this._open = 0; // id of the line that the next text replaces
    this._lines = new Map(); // number of a line of the program -> the newest ones, as shown
    this._newest = 0; // number of a line
    this._earlier = 0; // lines of the runs before
    this._twice = new Map(); // id of a note -> lines of the run before it, if another one follows
    this._end = null; // {known, note}: how the newest run has ended, and the id of the note of it
    // {text, note}: of what is missing before the next line, and the id of the note of that. Behind
    // that line {from, lines, until}: of how many lines it is, and between which numbers these are.
    this._gap = null;
  }

  received(message) {
    if (message.type === "process_output" && typeof message.data === "string") this._output(message);
    else if (message.type === "process_status") this._status(message);
    else describeMessage(message).forEach((entry) => this.view.append(entry));
  }

  /** The server has answered a subscribe: say what is gone. */
  synced({first, recovered, restarted, missed, bytes}) {
    if (restarted) {
      this._endLine();
      this._forgetLines();
      this.status = null;
      this.note("the server has started anew: another numbering begins", {gap: true});
    }
    if (missed > 0) this.missing(missed, {which: first ? "earlier " : "", bytes});
    else if (!recovered && !restarted) this.missing(0);
  }

  /** So many messages are gone, of so many bytes where that is known. */
  missing(number, {which = "", bytes} = {}) {
    const note = this.view.append(gapNote(gapText(number, `${which}message`, bytes), {messages: number}));
    this._gap = {note, text: (lines) => gapText(lines, `${which}line`, bytes)};
  }

  /**
   * So many messages were passed over, which the server still has; return the id of the note of
   * that. The next line is behind all that are here, or of another run.
   */
  skipped(number) {
    this._endLine();
    const note = this.view.append(gapNote(skippedText(number, "message"), {messages: number}));
    this._gap = {note, skipped: true, text: (lines) => skippedText(lines, "line")};
    return note;
  }

  /**
   * A line has a number: say how many lines are missing, where messages were told. The first lines
   * behind the gap may be old ones that have changed, and some between them missing as well.
   */
  _countGap(number) {
    const gap = this._gap;
    gap.from ??= this._newest;
    if (number <= gap.from) return;
    gap.until ??= gap.skipped ? number : number + ROWS;
    this._resize(gap, number > this._newest ? number - this._newest - 1 : -1);
    if (number >= gap.until) this._gap = null;
  }

  _resize(gap, change) {
    const lines = (gap.lines ?? 0) + change;
    if (!change || lines < 0) return;
    gap.lines = lines;
    this.view.replace(gap.note, gapNote(gap.text(lines), {lines}));
  }

  note(text, how) {
    return this.view.append(noteOf(text, how));
  }

  /** Whether the lines of the program have numbers. */
  get numbered() {
    return this._newest > 0;
  }

  /** Say that so many messages of those that were passed over are not there any more. */
  missingAt(note, number) {
    this.view.replace(note, gapNote(gapText(number, "message"), {messages: number}));
  }

  /** The line behind all of this, which another feed has shown, has a number: count what is missing before it. */
  followedBy(number) {
    if (!this._gap || number <= this._newest) return;
    this._countGap(number);
    this._gap = null;
  }

  /** Say that so many lines are missing at a note. */
  missingLinesAt(note, lines) {
    this.view.replace(note, gapNote(gapText(lines, "line"), {lines}));
  }

  /** Say what is missing in front of all that is here. */
  missingBefore(number) {
    const row = this.view.store.row(this.view.store.first);
    const lines = row?.number && !row.counted ? row.number - 1 : 0;
    const note = lines
      ? gapNote(gapText(lines, "earlier line"), {lines})
      : gapNote(gapText(number, "earlier message"), {messages: number});
    this.view.prepend([note], 0);
  }

  /** The number of the newest line of the program's run; 0 for none. */
  get newest() {
    return this._newest;
  }

  /** Show what became of a line later, whose number is not above the newest; return that row. */
  edited({number, ...entry}) {
    const own = {...entry, number, total: this._earlier + number};
    const known = this._lines.get(number) ?? {shown: this.view.insert(own, this._after(number))};
    this.view.replace(known.shown, own);
    this._lines.set(number, {...known, pieces: null});
    return known.shown;
  }

  /** The row of a line has another id. */
  moved(number, from, to) {
    const known = this._lines.get(number);
    if (known?.shown === from) known.shown = to;
  }

  /** The lines of the program's run that may still change: number -> {shown, pieces}. */
  get lines() {
    return this._lines;
  }

  /** What the view made of a line of which only the beginning has come; null for none. */
  get unfinished() {
    if (this._open) return this._open;
    const newest = this._lines.get(this._newest);
    return newest?.pieces ? newest.shown : null;
  }

  /**
   * Put in front of all, or of a place behind a note, what another feed has made of the messages before.
   * `goesOn`: lines of its last run stand behind that, and count those before them.
   */
  follows(before, {entries, total}, {place, note, goesOn}) {
    let lines = before._newest && goesOn ? before._earlier : total;
    if (lines && this._twice.has(note)) { // those of the run that was going on then are counted
      lines -= this._twice.get(note);
      this._twice.delete(note);
    }
    this._earlier += lines;
    this.view.prepend(entries, lines, place);
    if (this.started === null && before.started !== null) {
      this.started = before.started;
      if (this._end && before.ended === null) this.view.replace(this._end.note, this._endNote());
    }
    if (!this.status && before.status) this.know(before);
  }

  /** Take a status of the process from what another feed knows. */
  know({status, started, ended, usage, attempt}) {
    Object.assign(this, {status, started, ended, usage, attempt});
    this._onStatus(status);
  }

  /** Take the start of the run that is going on, of which only a sample was known. */
  knowStart({status, started}) {
    if (this.started !== null || status?.state !== this.status?.state) return;
    this.started = started;
    this._onStatus(this.status);
  }

  /** Say whether the process has ended. */
  get over() {
    return Boolean(this.status && ["ok", "failed", "unknown"].includes(this.status.state));
  }

  _output(message) {
    const origin = {time: timeOf(message), stderr: message.stream === "stderr"};
    if (Number.isInteger(message.line)) {
      this._numbered(message.line, message.data, origin);
      return;
    }
    for (const {runs, marks, cut, done, replaces} of this._assembler.feed(message.data)) {
      const entry = {runs, marks, cut, ...origin};
      if (replaces && this._open) this.view.replace(this._open, entry);
      else this._open = this.view.append(entry);
      if (done) this._open = 0;
    }
  }

  /** A text of a line that has a number: it takes the place of what was shown of that line. */
  _numbered(number, data, origin) {
    if (number === 0) {
      this._assembler.finish();
      const [{runs}] = this._assembler.feed(data);
      this._assembler.finish();
      this.view.setStatus(runs);
      return;
    }
    if (this._gap?.skipped && number <= this._newest) { // of another run
      this._twice.set(this._gap.note, this._newest);
      this._forgetLines();
    }
    const known = this._lines.get(number);
    const assembler = known?.pieces ?? (data.endsWith("\x17") ? new LineAssembler() : this._assembler);
    const [{runs, marks, cut, done}] = assembler.feed(data);
    if (assembler === this._assembler) assembler.finish(); // each text has its own colours
    const pieces = assembler === this._assembler || done ? null : assembler;
    const entry = {runs, marks, cut, ...origin, number, total: this._earlier + number};
    if (known) {
      known.pieces = pieces;
      this.view.replace(known.shown, entry);
      return;
    }
    if (this._gap) this._countGap(number);
    const shown = number > this._newest ? this.view.append(entry) : this.view.insert(entry, this._after(number));
    this._newest = Math.max(this._newest, number);
    this._lines.set(number, {shown, pieces});
    if (this._lines.size > KNOWN_LINES) this._lines.delete(this._lines.keys().next().value);
  }

  /** The id of the line that stands behind a number; 0 for none that is known. */
  _after(number) {
    const behind = [...this._lines.keys()].filter((each) => each > number);
    return behind.length ? this._lines.get(Math.min(...behind)).shown : 0;
  }

  _endLine() {
    this._assembler.finish();
    this._open = 0;
  }

  /** Another run of the program counts its lines from 1. */
  _forgetLines() {
    this._lines.clear();
    this._newest = 0;
    this._earlier = this.view.total;
    this._gap = null;
    this.view.setStatus([]);
  }

  _status(message) {
    if (this._sampled(message.data)) return;
    this._endLine();
    const moment = Date.parse(message.timestamp ?? "") || null;
    const known = describeStatus(message.data);
    if (known.state !== "other") this._forgetLines();
    if (known.state === "running") {
      const {total} = this.view;
      if (this._behind ? this.status || total : this.status && total) this.note("started again");
      [this.started, this.ended] = [moment, null];
      this._end = null;
      this.onStart(timeOf(message));
    } else if (known.state !== "other") {
      this.ended = moment;
      this._end = {known};
      this._end.note = this.view.append(this._endNote());
    }
    this.status = known;
    this._onStatus(known);
  }

  /** Take what a program uses while it runs: no run begins with that, and no line ends. */
  _sampled(data) {
    this.attempt = attemptOf(data);
    if (data?.status !== "running") this.usage = data?.usage ?? null;
    else if (data.usage) {
      this.usage = data.usage;
      if (this.status?.state !== "running") this.status = describeStatus(data); // its start is not here
      this._onUsage();
      return true;
    } else this.usage = null;
    return false;
  }

  /** The note of how the program has ended, and after how long where that is known by now. */
  _endNote() {
    const {known} = this._end;
    const took = this.started && this.ended ? ` after ${duration(this.ended - this.started)}` : "";
    return noteOf([known.text + took, known.detail].filter(Boolean).join(": "), {name: known.state});
  }
}

function attemptOf(data) {
  return Number.isInteger(data?.attempt) ? {number: data.attempt, before: data.before ?? null} : null;
}

function noteOf(text, {name = "", gap = false, missed} = {}) {
  return {kind: "note", runs: [{text, style: {name}}], gap, missed};
}

/** A note of so many lines or messages that are not here. */
function gapNote(text, {lines = 0, messages = 0}) {
  return noteOf(text, {name: "gap", gap: true, missed: {lines, messages}});
}

function skippedText(number, what) {
  return `This page fell behind: ${counted(number, what)} not shown`;
}

function gapText(number, what, bytes) {
  const size = bytes ? ` (${sizeText(bytes)} of messages)` : "";
  const missing = number ? `${counted(number, what)}${size}` : "some messages";
  return `${missing} ${number === 1 ? "is" : "are"} missing here: no longer kept by the server`;
}
