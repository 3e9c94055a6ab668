/* ansi.js: what a program writes to a terminal, as runs of styled text.
 *
 *   const parser = new AnsiParser();
 *   parser.parse("\x1b[1;31merror:\x1b[0m no such file");
 *   // [{text: "error:", style: {..., fg: 1, bold: true}}, {text: " no such file", style: null}]
 *
 * Colours (16, 256, 24 bit), bold, dim, italic, underline, strike and inverse are understood, and
 * links (OSC 8) that a page may have; the marks of sections (OSC 7300) are collected; all other
 * sequences are swallowed. A sequence may come in parts. Must not know the DOM.
 */

import {safeLink} from "./links.js";

const ESC = "\x1b";
const MAX_PENDING = 4096; // an unfinished sequence that grows beyond it was none

/* What may stand after ESC. Sticky, tried in this order at an ESC:
 *   CSI: parameters, intermediates, one final byte;
 *   a string (OSC, DCS, SOS, PM, APC) up to BEL or ST;
 *   two or three characters (charset, keypad, reset...). */
const CSI = /\x1b\[([0-?]*)([ -/]*)([@-~])/y;
const STRING = /\x1b([\]PX^_])([^\x07\x1b\x9c]*)(?:\x07|\x1b\\|\x9c)/y;
const SHORT = /\x1b(?:[ -/]+[0-~]|[0-OQ-WYZ\\`-~])/y;
/* What could still become one of them when more comes. */
const OPEN = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\x9c]*\x1b?|[ -/]*)$/y;
/* C0 controls that show nothing. Tab stays; backspace and bell are seen to below. */
const CONTROLS = /[\x00-\x07\x0b-\x1a\x1c-\x1f\x7f-\x9f]/g;
const MARK = "7300;"; // of an OSC sequence: a section begins or ends (docs/processes.md)
const MAX_MARKS = 16; // of one text
/* GitLab's own form, in the texts of servers that do not make it a mark: shown by no terminal. */
const SECTION = /(section_(?:start|end):\d{1,20}:[A-Za-z0-9_.-]{1,128}(?:\[[^\[\]\x00-\x1f]{0,256}\])?)\r\x1b\[[02]?K/g;
const PLAIN = /^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$/;

const NONE = Object.freeze({
  fg: null, // null, 0-255, or "#rrggbb"
  bg: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
  hidden: false,
  strike: false,
  link: null, // an address that a page may link to
});

export class AnsiParser {
  constructor() {
    this.style = NONE;
    this.marks = []; // of the text that was parsed last
    this._pending = "";
  }

  /** The state, to come back to with `restore`. */
  save() {
    return [this.style, this._pending];
  }

  restore([style, pending]) {
    this.style = style;
    this._pending = pending;
  }

  /** Return `{text, style}` runs; `style` is null where nothing is set. Texts are never empty. */
  parse(input) {
    const text = this._pending + input;
    if (this.marks.length) this.marks = [];
    if (this._pending === "" && PLAIN.test(text)) {
      return text === "" ? [] : [{text, style: this._current()}];
    }
    this._pending = "";
    const runs = [];
    let position = 0;
    while (position < text.length) {
      const escape = text.indexOf(ESC, position);
      const end = escape < 0 ? text.length : escape;
      if (end > position) this._print(text.slice(position, end), runs);
      if (escape < 0) break;
      position = this._sequence(text, escape, runs);
    }
    return runs;
  }

  /** Carry out the sequence at `start`; return where it ends. */
  _sequence(text, start, runs) {
    CSI.lastIndex = STRING.lastIndex = SHORT.lastIndex = OPEN.lastIndex = start;
    let match = CSI.exec(text);
    if (match) {
      if (match[3] === "m" && match[2] === "" && !/[<=>?]/.test(match[1])) {
        this.style = applySgr(this.style, match[1]);
      } else if (match[3] === "C") { // cursor forward: some programs make columns with it
        this._print(" ".repeat(Math.min(Number.parseInt(match[1], 10) || 1, 500)), runs);
      }
      return CSI.lastIndex;
    }
    match = STRING.exec(text);
    if (match) {
      if (match[1] === "]") this._osc(match[2]);
      return STRING.lastIndex;
    }
    match = SHORT.exec(text);
    if (match) return SHORT.lastIndex;
    if (OPEN.test(text) && text.length - start <= MAX_PENDING) {
      this._pending = text.slice(start);
      return text.length;
    }
    return start + 1; // an ESC that begins nothing
  }

  _osc(text) {
    if (text.startsWith("8;")) {
      const address = text.slice(text.indexOf(";", 2) + 1 || text.length);
      this.style = orNone({...this.style, link: safeLink(address) || null});
    } else if (text.startsWith(MARK) && this.marks.length < MAX_MARKS) {
      this.marks = [...this.marks, text.slice(MARK.length)];
    }
  }

  _print(text, runs) {
    if (text.includes("\b")) {
      for (const piece of text.split(/(\x08)/)) {
        if (piece === "\b") eraseLast(runs);
        else this._append(piece, runs);
      }
    } else {
      this._append(text, runs);
    }
  }

  _append(text, runs) {
    const shown = text.replace(CONTROLS, "");
    if (shown === "") return;
    const style = this._current();
    const last = runs[runs.length - 1];
    if (last && last.style === style) last.text += shown;
    else runs.push({text: shown, style});
  }

  _current() {
    return this.style === NONE ? null : this.style;
  }
}

/** A backspace: spinners write over what they wrote. */
function eraseLast(runs) {
  const last = runs[runs.length - 1];
  if (!last) return;
  last.text = [...last.text].slice(0, -1).join("");
  if (last.text === "") runs.pop();
}

/** Return the style after `CSI parameters m`. */
export function applySgr(style, parameters) {
  const groups = parameters === "" ? ["0"] : parameters.split(";");
  const next = {...style};
  for (let index = 0; index < groups.length; index++) {
    const parts = groups[index].split(":");
    const code = Number(parts[0] || 0);
    if (code === 38 || code === 48) {
      // "38;5;n" and "38;2;r;g;b" take the groups that follow, "38:5:n" holds all itself.
      const [color, used] = parts.length > 1
        ? [extendedColor(withoutSpace(parts.slice(1))), 0]
        : takeColor(groups.slice(index + 1));
      index += used;
      if (color !== undefined) next[code === 38 ? "fg" : "bg"] = color;
    } else if (code === 58) { // the colour of underlines: skipped with what belongs to it
      if (parts.length === 1) index += takeColor(groups.slice(index + 1))[1];
    } else if (code === 4 && parts.length > 1) {
      next.underline = parts[1] !== "0";
    } else {
      simpleSgr(next, code);
    }
  }
  return orNone(next);
}

function orNone(style) {
  return Object.keys(NONE).every((key) => style[key] === NONE[key]) ? NONE : Object.freeze(style);
}

function simpleSgr(style, code) {
  if (code === 0) Object.assign(style, {...NONE, link: style.link});
  else if (code === 1) style.bold = true;
  else if (code === 2) style.dim = true;
  else if (code === 3) style.italic = true;
  else if (code === 4 || code === 21) style.underline = true;
  else if (code === 7) style.inverse = true;
  else if (code === 8) style.hidden = true;
  else if (code === 9) style.strike = true;
  else if (code === 22) style.bold = style.dim = false;
  else if (code === 23) style.italic = false;
  else if (code === 24) style.underline = false;
  else if (code === 27) style.inverse = false;
  else if (code === 28) style.hidden = false;
  else if (code === 29) style.strike = false;
  else if (code >= 30 && code <= 37) style.fg = code - 30;
  else if (code === 39) style.fg = null;
  else if (code >= 40 && code <= 47) style.bg = code - 40;
  else if (code === 49) style.bg = null;
  else if (code >= 90 && code <= 97) style.fg = code - 90 + 8;
  else if (code >= 100 && code <= 107) style.bg = code - 100 + 8;
}

/** `2:<space>:r:g:b` has a colour space that `2:r:g:b` leaves out. */
function withoutSpace(parts) {
  return parts[0] === "2" && parts.length >= 5 ? ["2", ...parts.slice(2)] : parts;
}

function takeColor(groups) {
  const size = {5: 2, 2: 4}[groups[0]] ?? 1;
  return [extendedColor(groups.slice(0, size)), Math.min(size, groups.length)];
}

function extendedColor([kind, ...values]) {
  const bytes = values.map((value) => Number(value || 0));
  if (bytes.some((value) => !(value >= 0 && value <= 255))) return undefined;
  if (kind === "5" && bytes.length >= 1) return bytes[0];
  if (kind === "2" && bytes.length >= 3) return toHex(bytes);
  return undefined;
}

export function toHex(rgb) {
  return "#" + rgb.slice(0, 3).map((value) => Math.round(value).toString(16).padStart(2, "0")).join("");
}

/** Return [r, g, b] of a colour of the 256 beyond the first 16, or of "#rrggbb". */
export function toRgb(color) {
  if (typeof color === "string") {
    return [1, 3, 5].map((start) => Number.parseInt(color.slice(start, start + 2), 16));
  }
  if (color >= 232) return Array(3).fill(8 + (color - 232) * 10);
  const index = color - 16;
  return [Math.floor(index / 36), Math.floor(index / 6) % 6, index % 6].map((step) => (step ? 55 + step * 40 : 0));
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Return the contrast of two colours, 1 to 21 (WCAG). */
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** Return `rgb`, moved towards black or white until it can be read on `ground`. */
export function readable(rgb, ground, least = 4.5) {
  const target = luminance(ground) > 0.18 ? 0 : 255;
  let color = rgb;
  for (let step = 1; step <= 20 && contrast(color, ground) < least; step++) {
    color = rgb.map((value) => Math.round(value + ((target - value) * step) / 20));
  }
  return color;
}

/**
 * Puts lines together from what `process_output` messages carry.
 *
 * A text is a line; one that ends in "\r" is a line as it looks so far, which the next text
 * replaces; one that ends in ETB (0x17) is a piece, which the next text goes on with. Newlines
 * and carriage returns inside a text, which other servers send, are understood too.
 */
export class LineAssembler {
  /** @param {number} maxLine characters of a line that are kept; the rest is counted. */
  constructor(maxLine = 20000) {
    this._maxLine = maxLine;
    this._parser = new AnsiParser();
    this._start = this._parser.save(); // the state where the unfinished text begins
    this._pieces = []; // of the unfinished line, finished ones
    this._marks = []; // of these
    this._length = 0; // of the pieces, what was cut off included
    this._open = false;
  }

  /**
   * Return `[{runs, marks, cut, done, replaces}]`: `marks` are the sections that begin or end with
   * the line; `cut` characters too many for a line are left out; `replaces` says that it stands in
   * the place of the line before it, which was not `done`.
   */
  feed(data) {
    const rows = data.split("\n");
    const ended = rows.length > 1 && rows[rows.length - 1] === ""; // "text\n" is one line
    if (ended) rows.pop();
    return rows.map((row, index) => this._row(row, ended || index < rows.length - 1));
  }

  /** End a line that is open: what follows, a status say, begins a new one. */
  finish() {
    this._open = false;
    this._pieces = [];
    this._marks = [];
    this._length = 0;
    this._start = this._parser.save();
  }

  _row(row, newline) {
    let text = row;
    let done = true;
    let piece = false;
    if (text.endsWith("\x17") && !newline) {
      [text, done, piece] = [text.slice(0, -1), false, true];
    } else if (text.endsWith("\r")) {
      text = text.replace(/\r+$/, "");
      done = newline; // "text\r\n" is how a terminal ends a line
    }
    const back = text.lastIndexOf("\r");
    let marks = this._marks;
    this._parser.restore(this._start);
    if (back >= 0) { // what was written over still sets colours
      marks = [...marks, ...Array.from(text.matchAll(SECTION), (match) => match[1])].slice(0, MAX_MARKS);
      this._parser.parse(text.slice(0, back));
      text = text.slice(back + 1);
    }
    const replaces = this._open;
    const added = this._parser.parse(text);
    const room = Math.max(0, this._maxLine - this._length);
    const length = this._length + added.reduce((sum, run) => sum + run.text.length, 0);
    const runs = [...this._pieces, ...clip(added, room)];
    const cut = Math.max(0, length - this._maxLine);
    marks = marks.length ? [...marks, ...this._parser.marks].slice(0, MAX_MARKS) : this._parser.marks;
    this._open = !done;
    if (piece) [this._pieces, this._marks, this._length] = [runs, marks, length];
    if (done) [this._pieces, this._marks, this._length] = [[], [], 0];
    if (done || piece) this._start = this._parser.save();
    return {runs, marks, cut, done, replaces};
  }
}

function clip(runs, room) {
  const kept = [];
  for (const run of runs) {
    if (room <= 0) break;
    kept.push(run.text.length > room ? {...run, text: run.text.slice(0, room)} : run);
    room -= run.text.length;
  }
  return kept;
}
