/* older.js: what a channel's history has from before the first line of a log, page by page.
 *
 * A log begins with the newest messages, so that its end is seen at once; the older ones follow
 * in the background, and stand in front of it. Must not know the page.
 */

import {Feed} from "./feed.js";

const PAGE = 1000; // messages: the most that a server answers with
const PAUSE = 4; // milliseconds between pages, for all else that the page does
const KNOWN = 5000; // numbers of lines that an older page may have too, in a state before
const NEAR = 100; // rows among which the rest of a line is

/** The lines of some messages, before they have a place in a log. */
export class Block {
  constructor() {
    this.entries = [];
    this.total = 0;
  }

  append(entry) {
    if (entry.kind !== "note") this.total = Math.max(this.total, entry.total ?? this.total + 1);
    const own = {...entry};
    this.entries.push(own);
    return own;
  }

  insert(entry, before) {
    const own = this.append(entry);
    const index = before ? this.entries.indexOf(before) : -1;
    if (index >= 0) this.entries.splice(index, 0, this.entries.pop());
    return own;
  }

  replace(own, entry) {
    Object.assign(own, entry);
  }

  remove(own) {
    const index = this.entries.indexOf(own);
    if (index < 0) return;
    this.entries.splice(index, 1);
    if (own.number === undefined) this.total -= 1;
  }

  setStatus() {}
}

/** How many messages below a number the server has let go behind the beginning. */
function gone(middle, below) {
  return middle && middle.after < below ? Math.min(middle.messages, below - middle.after - 1) : 0;
}

/** A message, if a run of the program begins with it; else null. */
function beginOf(message) {
  return message.type === "process_status" && message.data?.status === "running" ? message : null;
}

export class Older {
  /**
   * `ask(part)` returns a promise of a page of the history; `onChange()` is called at the end. With
   * `since` it loads what is behind that message, in the place behind a note.
   */
  constructor(feed, ask, onChange, {since = 0, note = 0} = {}) {
    this.left = 0; // messages that are still to come
    this._feed = feed;
    this._ask = ask;
    this._onChange = onChange;
    this._since = since;
    this._note = note;
    this._oldest = 0; // number of the first message that is here
    this._later = new Set(); // numbers of the first lines that are here, of one run
    this._ended = false; // the run of those: its beginning is here
    this._begin = null; // the first message that is here, if a run begins with it
    this._closed = false;
    this._loading = null; // a promise, while it loads
    this.full = false; // there is no room for more
    this.lost = false; // some are not there any more
  }

  close() {
    this._closed = true;
  }

  /** A message of the first, newest part of the history. */
  saw(message) {
    if (!Number.isInteger(message.seq)) return;
    if (!this._oldest && !this._note) this._begin = beginOf(message);
    this._oldest ||= message.seq;
    if (message.type === "process_status") this._ended = true;
    if (Number.isInteger(message.line) && !this._ended && this._later.size < KNOWN) this._later.add(message.line);
  }

  /** Load what there is, as far as there is room; once at a time. After a failure it may be called again. */
  load(epoch) {
    this._loading ??= this._load(epoch).finally(() => (this._loading = null));
    return this._loading;
  }

  async _load(epoch) {
    try {
      if (this._oldest > 1 && (!this._feed.status || this._feed.started === null)) await this._learn();
      while (!this._closed && !this.done && (await this._next(epoch))) {
        await new Promise((go) => setTimeout(go, PAUSE));
      }
    } finally {
      this.left = 0;
      this._onChange();
    }
  }

  /** Load one page; say whether there may be another one. */
  async _next(epoch) {
    const {store} = this._feed.view;
    const page = await this._ask({before: this._oldest, limit: PAGE});
    if (this._closed || page.epoch !== epoch) return false;
    const messages = page.messages.filter(({seq}) => seq > this._since);
    if (!messages.length) {
      this._missing(this._oldest - this._since - 1);
      return false;
    }
    if (!store.hasRoom(messages.filter(({type}) => type !== "process_status").length)) {
      if (!this._note && !this.full) store.before.lines += Math.max(0, store.row(store.first).number - 1);
      this.full = true;
      return false;
    }
    const {seq} = messages[0];
    this.left = Math.max(0, seq - Math.max(this._since + 1, page.first) - gone(page.middle, seq));
    this._take(messages, page.middle);
    return true;
  }

  /** Whether all is here. */
  get done() {
    return this._oldest <= this._since + 1;
  }

  _missing(number) {
    if (this._note) this._feed.missingAt(this._note, number);
    else this._feed.missingBefore(number);
    this._oldest = this._since + 1;
    this.lost = true;
  }

  /** The row that the messages stand in front of; 0 for none. */
  _place() {
    const {store} = this._feed.view;
    if (!this._note) return store.first;
    const next = store.at(this._start);
    return next ? next.chunk.ids[next.index] : 0;
  }

  /** Take from the first messages that are kept whether the program runs, and since when. */
  async _learn() {
    const {messages} = await this._ask({since: 0, limit: 10});
    const feed = new Feed(new Block(), {onStart: this._feed.onStart});
    for (const message of messages) if (message.type === "process_status") feed.received(message);
    if (this._closed || !feed.status) return;
    if (this._feed.status) this._feed.knowStart(feed);
    else this._feed.know(feed);
  }

  /** `middle` is what the server has let go between some of the messages. */
  _take(messages, middle) {
    const block = new Block();
    const behind = this._note > 0 || messages[0].seq > this._since + 1;
    const feed = new Feed(block, {onStart: this._feed.onStart, behind});
    let before = messages[0].seq - 1;
    let run = null; // entries of the first run in these messages
    const missing = (next) => {
      if (next > before + 1) feed.missing(next - before - 1, {bytes: middle?.after === before ? middle.bytes : undefined});
    };
    for (const message of messages) {
      missing(message.seq);
      before = message.seq;
      feed.received(message);
      if (message.type === "process_status") run ??= [...block.entries];
    }
    missing(this._oldest);
    this._oldest = messages[0].seq;
    if (this._begin) feed.received(this._begin); // the rows behind are of another run
    this._begin = beginOf(messages[0]);
    const goesOn = this._firstLine(() => true) !== null; // the run that these end in does behind them
    const moved = this._edited(feed).map((row) => this._move(row, feed));
    const next = this._firstLine(() => true);
    if (next?.number && !next.counted) feed.followedBy(next.number);
    this._join(feed, block);
    for (const [number, {shown}] of feed.lines) if (this._later.has(number)) block.remove(shown);
    const numbers = (run ?? block.entries).map((entry) => entry.number).filter(Boolean);
    this._later = new Set([...numbers, ...(run ? [] : this._later)].slice(0, KNOWN));
    this._feed.follows(feed, block, {place: this._place(), note: this._note, goesOn});
    for (const {number, id, own} of moved) this._feed.moved(number, id, this._idAt(block.entries.indexOf(own)));
  }

  _idAt(index) {
    const {chunk, index: at} = this._feed.view.store.at(this._start + index);
    return chunk.ids[at];
  }

  /** How many rows are in front of the place. */
  get _start() {
    return this._note ? this._feed.view.store.position(this._note) + 1 : 0;
  }

  /**
   * The first rows that are here and belong among those of a feed with numbers up to the newest: of
   * lines that have changed since later ones came. The newest itself may only go on here.
   */
  _edited({newest, unfinished}) {
    const found = [];
    for (const row of this._firstRows()) {
      if (!row.number || row.counted || row.number > newest) break;
      if (row.number === newest && unfinished) break;
      found.push(row);
    }
    return found;
  }

  /** Have a row that is here take its place among older ones. */
  _move({id, ...row}, feed) {
    this._feed.view.remove(id);
    this._later.delete(row.number);
    return {number: row.number, id, own: feed.edited(row)};
  }

  /** Put the beginning of a line whose end is here already in front of that. */
  _join(feed, block) {
    const {view} = this._feed;
    const head = feed.unfinished;
    const end = head && this._firstLine((row) => !head.number || row.number === head.number);
    if (!end) return;
    const {number, ...row} = end;
    const whole = {runs: [...head.runs, ...end.runs], marks: [...head.marks, ...end.marks], cut: head.cut + end.cut};
    view.replace(end.id, {...row, ...(head.number && {number}), ...whole});
    block.remove(head);
  }

  /** The first line behind the place, of few in front of any note, for which this is true. */
  _firstLine(wanted) {
    let left = NEAR;
    for (const row of this._firstRows()) {
      if (row.kind === "note") break;
      if (wanted(row)) return row;
      if (!--left) break;
    }
    return null;
  }

  /** The rows behind the place. */
  *_firstRows() {
    const {store} = this._feed.view;
    for (let position = this._start; ; position++) {
      const place = store.at(position);
      if (!place) return;
      yield store.read(place.chunk, place.index);
    }
  }
}
