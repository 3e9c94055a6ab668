/* older.js: what a channel's history has from before the first line of a log, page by page.
 *
 * A log begins with the newest messages, so that its end is seen at once; the older ones follow
 * in the background, and stand in front of it. Must not know the page.
 */

import {Feed} from "./feed.js";

const PAGE = 1000; // messages: the most that a server answers with
const KNOWN = 5000; // numbers of lines that an older page may have too, in a state before
const NEAR = 100; // rows among which the rest of a line is

/** The lines of some messages, before they have a place in a log. */
class Block {
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
    if (index >= 0) this.entries.splice(index, 1);
  }

  setStatus() {}
}

export class Older {
  /** `ask(part)` returns a promise of a page of the history; `onChange()` is called after each. */
  constructor(feed, ask, onChange) {
    this.left = 0; // messages that are still to come
    this._feed = feed;
    this._ask = ask;
    this._onChange = onChange;
    this._oldest = 0; // number of the first message that is here
    this._later = new Set(); // numbers of the first lines that are here, of one run
    this._ended = false; // the run of those: its beginning is here
    this._closed = false;
  }

  close() {
    this._closed = true;
  }

  /** A message of the first, newest part of the history. */
  saw(message) {
    if (!Number.isInteger(message.seq)) return;
    this._oldest ||= message.seq;
    if (message.type === "process_status") this._ended = true;
    if (Number.isInteger(message.line) && !this._ended && this._later.size < KNOWN) this._later.add(message.line);
  }

  /** Load what there is, as far as there is room. A failure ends it: what is here is right. */
  async load(epoch) {
    const {view} = this._feed;
    if (this._oldest > 1 && !this._feed.status) await this._learn();
    while (!this._closed && this._oldest > 1) {
      const page = await this._ask({before: this._oldest, limit: PAGE});
      if (this._closed || page.epoch !== epoch) break;
      if (!page.messages.length) {
        this._feed.missingBefore(this._oldest - 1);
        break;
      }
      if (!view.store.hasRoom(page.messages.length)) {
        const {number} = view.store.row(view.store.first);
        view.store.before.lines += Math.max(0, number - 1);
        break;
      }
      this._take(page.messages);
      this.left = Math.max(0, this._oldest - page.first);
      this._onChange();
    }
    this.left = 0;
    this._onChange();
  }

  /** Take from the first messages that are kept whether the program runs, and since when. */
  async _learn() {
    const {messages} = await this._ask({since: 0, limit: 10});
    const feed = new Feed(new Block(), {onStart: this._feed.onStart});
    for (const message of messages) if (message.type === "process_status") feed.received(message);
    if (!this._closed && !this._feed.status && feed.status) this._feed.know(feed);
  }

  _take(messages) {
    const block = new Block();
    const feed = new Feed(block, {onStart: this._feed.onStart});
    let before = messages[0].seq - 1;
    let run = null; // entries of the first run in these messages
    for (const message of messages) {
      if (message.seq > before + 1) feed.missing(message.seq - before - 1);
      before = message.seq;
      feed.received(message);
      if (message.type === "process_status") run ??= [...block.entries];
    }
    if (this._oldest > before + 1) feed.missing(this._oldest - before - 1);
    this._oldest = messages[0].seq;
    this._join(feed, block);
    for (const [number, {shown}] of feed.lines) if (this._later.has(number)) block.remove(shown);
    const numbers = (run ?? block.entries).map((entry) => entry.number).filter(Boolean);
    this._later = new Set([...numbers, ...(run ? [] : this._later)].slice(0, KNOWN));
    this._feed.follows(feed, block);
  }

  /** Put the beginning of a line whose end is here already in front of that. */
  _join(feed, block) {
    const {view} = this._feed;
    const head = feed.unfinished;
    const end = head && this._firstRow((row) => row.kind !== "note" && (!head.number || row.number === head.number));
    if (!end) return;
    const {number, ...row} = end;
    view.replace(end.id, {...row, ...(head.number && {number}), runs: [...head.runs, ...end.runs], cut: head.cut + end.cut});
    block.remove(head);
  }

  /** The first row, of few, for which this is true. */
  _firstRow(wanted) {
    const {store} = this._feed.view;
    for (let position = 0; position < NEAR; position++) {
      const place = store.at(position);
      const row = place && store.read(place.chunk, place.index);
      if (row && wanted(row)) return row;
    }
    return null;
  }
}
