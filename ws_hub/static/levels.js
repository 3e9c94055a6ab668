/* levels.js: how bad a line says that it is, and a filter by that.
 *
 * Levels are taken from JSON lines ("level", "severity", pino's numbers), `level=warn`, and words
 * as loggers write them: "ERROR", "[warn]", "error:". An indented line goes with the one before it.
 *
 * Must not know the DOM.
 */

import {FILTERED, NOTE} from "./lines.js";

const SLICE = 10; // milliseconds without a pause
const LOOKED_AT = 200; // characters at the beginning of a line

const DEBUG = 1;
const INFO = 2;
export const WARNING = 3;
export const ERROR = 4;

const NAMES = {
  __proto__: null, // so that "constructor" is none of them
  trace: DEBUG, debug: DEBUG, dbg: DEBUG, verbose: DEBUG, info: INFO, inf: INFO, notice: INFO,
  warn: WARNING, warning: WARNING, wrn: WARNING, error: ERROR, err: ERROR, fatal: ERROR,
  critical: ERROR, crit: ERROR, severe: ERROR, alert: ERROR, emergency: ERROR, panic: ERROR,
};
const FIELD = /"(?:level|severity|lvl|levelname|log\.level)"\s*:\s*(?:"([A-Za-z]+)"|([0-9]+))/;
const PAIR = /(?:^|\s)(?:level|lvl|severity)="?([A-Za-z]+)/;
const WORD = /\b(TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL|SEVERE|PANIC)\b|(?:^|[\s[(<])(debug|info|warn|warning|error|fatal)(?=[\])>:])/i;

/** Return the level of a line, 0 for one that says none. */
export function levelOf(text) {
  if (text[0] === "{") {
    const [, name, number] = FIELD.exec(text) ?? [];
    if (number) return number >= 50 ? ERROR : number >= 40 ? WARNING : number >= 30 ? INFO : DEBUG;
    return NAMES[name?.toLowerCase()] ?? 0;
  }
  const start = text.slice(0, LOOKED_AT);
  const pair = PAIR.exec(start);
  if (pair) return NAMES[pair[1].toLowerCase()] ?? 0;
  for (let at = 0, rest = start; at < 3; at++) {
    const word = WORD.exec(rest);
    if (!word) return 0;
    // "an error" in a sentence is no level: capitals, or a sign behind it.
    if (word[2] || word[1] === word[1].toUpperCase()) return NAMES[(word[1] ?? word[2]).toLowerCase()];
    rest = rest.slice(word.index + word[0].length);
  }
  return 0;
}

/** Hides the lines of a store below a level, in slices of a few milliseconds. */
export class LevelFilter {
  /** `onChange()` is called when other lines are hidden. */
  constructor(store, onChange) {
    this.least = 0; // no line is hidden
    this._store = store;
    this._onChange = onChange;
    this._number = 1; // of the filter: chunk.filtered says which has gone through it
    this._channel = new MessageChannel();
    this._channel.port1.onmessage = () => this._slice();
    this._due = false;
  }

  close() {
    this._channel.port1.close();
  }

  set(least) {
    if (least === this.least) return;
    this.least = least;
    this._number += 1;
    this._post();
  }

  /** Go through what has come or changed. */
  go() {
    if (this.least) this._post();
  }

  /** How many lines are hidden. */
  get hidden() {
    return this._store.chunks.reduce((sum, chunk) => sum + chunk.hiddenLines, 0);
  }

  _post() {
    if (this._due) return;
    this._due = true;
    this._channel.port2.postMessage(0);
  }

  _slice() {
    this._due = false;
    const end = performance.now() + SLICE;
    let level = 0; // of the line before
    let done = false;
    for (const chunk of this._store.chunks) {
      if (chunk.filtered !== this._number || chunk.levelBefore !== level) {
        if (done && performance.now() > end) {
          this._post();
          break;
        }
        this._filter(chunk, level);
        done = true;
      }
      level = chunk.lastLevel;
    }
    if (done) this._onChange();
  }

  _filter(chunk, before) {
    const {least} = this;
    const texts = least ? chunk.joined().split("\n") : [];
    let level = before;
    let changed = false;
    chunk.hiddenLines = 0;
    for (let index = 0; index < chunk.count; index++) {
      const flags = chunk.flags[index];
      let hide = 0;
      if (least && !(flags & NOTE)) {
        if (!/^\s/.test(texts[index])) level = levelOf(texts[index]);
        hide = level < least ? FILTERED : 0;
        if (hide) chunk.hiddenLines += 1;
      }
      if ((flags & FILTERED) === hide) continue;
      chunk.flags[index] = (flags & ~FILTERED) | hide;
      changed = true;
    }
    if (changed) chunk.touch();
    chunk.filtered = this._number;
    chunk.levelBefore = before;
    chunk.lastLevel = level;
  }
}
