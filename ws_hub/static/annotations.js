/* annotations.js: the errors and warnings that a program's output tells of, and where they are.
 *
 *   ::error file=a.js,line=3,col=5,title=Lint::text      also ::warning, ::notice, ::debug
 *   ##[error]text  ##[warning]text  ##vso[task.logissue type=error;sourcepath=a.cs;linenumber=3]text
 *   a.c:3:5: error: text     a.ts(3,5): error TS2304: text     a.go:3:5: text    (compilers)
 *   error[E0308]: text, then --> a.rs:3:5                                        (rustc)
 *   Traceback ... File "a.py", line 3 ... ValueError: text                       (Python)
 *   test_a.py:3: AssertionError   a.py:3:5: F401 text                            (pytest, ruff)
 *   a.js, then 3:5  error  text  rule    a.js:3:5: text [Error/rule]             (ESLint)
 *
 * Lines come in the order of their numbers, the last ones more than once where they change
 * (recent.js). Each takes time in proportion to its length at most: every expression begins at a
 * line's begin, and no part of one can match what the part behind it begins with more than a
 * bounded number of times. Must not know the DOM.
 */

import {Recent} from "./recent.js";

const MAX_LISTED = 1000;
const MAX_TEXT = 2048; // characters of a line that are looked at
const MAX_MESSAGE = 500;
const RUST_LINES = 6; // between a message and its place
const PYTHON_LINES = 200; // of a traceback

const PROPERTY = {file: "file", line: "line", col: "column", endLine: "endLine", title: "title"};
const ISSUE = {sourcepath: "file", linenumber: "line", columnnumber: "column", type: "level"};
const LEVELS = new Set(["error", "warning", "notice", "debug"]);

const BRACKETS = /^\s{0,64}(?:\d{4}-\d\d-\d\dT[\d:.]{8,20}Z )?##\[(error|warning|debug)\]/;
/* A file's name has no blank, so that a time is none: "2026-01-02 12:30:45 - ERROR". */
const COMPILER = /^\s{0,16}((?:[A-Za-z]:(?=[\\/]))?[^\s:"'<>|()[\]{}*?]{1,400}):(\d{1,9}):(?:(\d{1,9})(?::| -)|)\s{1,4}(?:fatal )?(error|warning)(?=\W)(?: ([A-Z]{1,9}\d{1,8}))?:?\s{0,4}/i;
const PARENTHESES = /^\s{0,16}((?:[A-Za-z]:(?=[\\/]))?[^\s:()"<>|*?][^:()"<>|*?]{0,400})\((\d{1,9})(?:,(\d{1,9}))?(?:,\d{1,9},\d{1,9})?\) ?: {1,4}(?:fatal )?(error|warning)(?: ([A-Z]{1,9}\d{1,8}))?:?\s{0,4}/;
const GO = /^(?:vet: )?([^\s:]{1,400}):(\d{1,9}):(\d{1,9}): /;
const PYTHON = /^([^\s:]{1,400}|[A-Za-z]:[^\s:]{1,400}):(\d{1,9}):(?:(\d{1,9}):?)? ([\w.]{1,200})(?:: | (?=\S)|$)/;
const UNIX = /^((?:[A-Za-z]:(?=[\\/]))?[^\s:]{1,400}):(\d{1,9}):(\d{1,9}): /;
const UNIX_END = /^(Error|Warning)(?:\/[^\]]{1,100})?\]$/;
const RUST = /^(error|warning)(?:\[([A-Z]\d{1,6})\])?: /;
const RUST_PLACE = /^\s{1,16}--> ((?:[A-Za-z]:(?=[\\/]))?[^\s:][^:]{0,400}):(\d{1,9}):(\d{1,9})\s{0,16}$/;
const FRAME = /^\s{1,64}File "([^"]{1,400})", line (\d{1,9})(?:, in |$)/;
const EXCEPTION = /^([A-Za-z_][\w.]{0,200})(?:: |$)/;
const RAISED = /(?:Error|Exception|Warning|Interrupt|Exit|Iteration|Failed|Failure|Group)$/;
const LINTED = /^\s{2,8}(\d{1,9}):(\d{1,9})\s{1,16}(error|warning)\s\s/;
const LINTED_FILE = /^(?:[A-Za-z]:(?=[\\/]))?[^\s:*?"<>|][^:*?"<>|]{0,400}$/;
/* Nearly all lines have nothing of it. */
const LIKELY = /::|##|\d[:)]|^(?:error|warning)[[:]|^Traceback|^\s+File "|^\S.*\.[A-Za-z]\w{0,4}$/;

export class Annotations {
  /**
   * `onFound(annotation)` is called with each new one: `{level, line, id, message, title, file,
   * fileLine, column, endLine}`. `line` and `id` are those of the line of the log that tells it;
   * `file` is "" and `fileLine` 0 where it names none.
   */
  constructor({maxListed = MAX_LISTED, onFound = () => {}} = {}) {
    this._maxListed = maxListed;
    this._onFound = onFound;
    this._recent = new Recent((context, line) => this._look(context, line));
    this.list = []; // the first of them
    this.counts = {error: 0, warning: 0, notice: 0}; // of all
    this.changes = 0; // how often one was found or lost
  }

  /** Take a line `{number, id, text}`, or what became of one of the last ones. */
  take(line) {
    this._recent.take(line.text.length > MAX_TEXT ? {...line, text: line.text.slice(0, MAX_TEXT)} : line);
  }

  /** Lines are missing behind the last one. */
  end() {
    this._recent.cut();
  }

  _look(context, line) {
    const {found, next} = annotate(context, line.text);
    const after = next && {from: line, ...next};
    if (!found) return {context: after, effect: null};
    const {from = line, ...about} = found;
    const note = {title: "", file: "", fileLine: 0, column: 0, endLine: 0, ...about, line: from.number, id: from.id};
    return {context: after, effect: {apply: () => this._add(note), undo: () => this._remove(note)}};
  }

  _add(note) {
    this.changes += 1;
    this.counts[note.level] += 1;
    if (this.list.length < this._maxListed) this.list.push(note);
    this._onFound(note);
  }

  _remove(note) {
    this.changes += 1;
    this.counts[note.level] -= 1;
    if (this.list[this.list.length - 1] === note) this.list.pop();
  }
}

/**
 * Return how a line is to be shown by itself: `{level, prefix}`, the level that a command gives it
 * and how many of its first characters are the command; null for an ordinary line.
 */
export function commandOf(text) {
  const clipped = text.length > MAX_TEXT ? text.slice(0, MAX_TEXT) : text;
  const found = clipped.includes("::") || clipped.includes("##") ? command(clipped) : null;
  return found && {level: found.level, prefix: found.prefix};
}

/* `{found, next}`: what a line tells, and what the next one may complete. */
const NOTHING = {found: null, next: null};

function annotate(context, text) {
  if (context) {
    const done = COMPLETE[context.kind](context, text);
    if (done) return done;
  }
  if (!LIKELY.test(text)) return NOTHING;
  const said = command(text);
  if (said) {
    const {prefix, ...found} = said;
    return {found: found.level === "debug" ? null : found, next: null};
  }
  const found = compiled(text);
  if (found) return {found, next: null};
  return {found: null, next: begun(text)};
}

// --- commands ------------------------------------------------------------------------------

function command(text) {
  const bracket = BRACKETS.exec(text);
  if (bracket) {
    const prefix = bracket[0].length;
    return {level: bracket[1], message: short(text.slice(prefix)), prefix};
  }
  const start = text.length - text.trimStart().length;
  if (text.startsWith("::", start)) return workflowCommand(text, start);
  if (text.startsWith("##vso[task.logissue ", start)) return issueCommand(text, start);
  return null;
}

function workflowCommand(text, start) {
  const end = text.indexOf("::", start + 2);
  if (end < 0) return null;
  const head = text.slice(start + 2, end);
  const blank = head.indexOf(" ");
  const level = blank < 0 ? head : head.slice(0, blank);
  if (!LEVELS.has(level)) return null;
  const values = blank < 0 ? {} : properties(head.slice(blank + 1), ",", PROPERTY);
  return {...values, level, message: short(unescape(text.slice(end + 2))), prefix: end + 2};
}

function issueCommand(text, start) {
  const end = text.indexOf("]", start);
  if (end < 0) return null;
  const head = text.slice(start + "##vso[task.logissue ".length, end);
  const {level, ...values} = properties(head, ";", ISSUE);
  if (level !== "error" && level !== "warning") return null;
  return {...values, level, message: short(text.slice(end + 1)), prefix: end + 1};
}

/** Return the known ones of "file=a,line=3", by our names. */
function properties(text, separator, names) {
  const values = {};
  for (const part of text.split(separator)) {
    const equals = part.indexOf("=");
    const name = part.slice(0, Math.max(equals, 0)).trim();
    if (equals < 0 || !Object.hasOwn(names, name)) continue;
    const value = unescape(part.slice(equals + 1)).trim();
    const known = names[name];
    if (known === "line") values.fileLine = toNumber(value);
    else if (known === "column" || known === "endLine") values[known] = toNumber(value);
    else values[known] = short(value);
  }
  return values;
}

/** What GitHub's commands escape. */
function unescape(text) {
  if (!text.includes("%")) return text;
  return text.replace(/%0D/gi, "\r").replace(/%0A/gi, "\n").replace(/%3A/gi, ":").replace(/%2C/gi, ",").replaceAll("%25", "%");
}

// --- one line of a compiler or a linter ----------------------------------------------------

function compiled(text) {
  let match = COMPILER.exec(text);
  if (match && isPath(match[1])) {
    const [head, file, line, column, level, code] = match;
    return place(level.toLowerCase(), file, line, column, coded(code, text.slice(head.length)));
  }
  match = PARENTHESES.exec(text);
  if (match && isPath(match[1])) {
    const [head, file, line, column, level, code] = match;
    return place(level, file, line, column, coded(code, text.slice(head.length)));
  }
  match = GO.exec(text);
  if (match && match[1].endsWith(".go")) {
    return place("error", match[1], match[2], match[3], text.slice(match[0].length));
  }
  return python(text) ?? unix(text);
}

function python(text) {
  const match = PYTHON.exec(text);
  if (!match || !/\.pyi?$/.test(match[1])) return null;
  const [head, file, line, column, word] = match;
  const message = column ? `${word} ${text.slice(head.length)}`.trim() : text.slice(text.indexOf(word, file.length + line.length + 2));
  if (column) return /^[A-Z]{1,6}\d{2,5}$/.test(word) ? place("warning", file, line, column, message) : null;
  if (!RAISED.test(word)) return null;
  return place(word.endsWith("Warning") ? "warning" : "error", file, line, 0, message);
}

function unix(text) {
  if (!text.endsWith("]")) return null;
  const match = UNIX.exec(text);
  const end = text.lastIndexOf(" [");
  if (!match || end < match[0].length || !isPath(match[1])) return null;
  const level = UNIX_END.exec(text.slice(end + 2));
  return level && place(level[1].toLowerCase(), match[1], match[2], match[3], text.slice(match[0].length, end));
}

function coded(code, message) {
  return code ? `${code}: ${message}` : message;
}

function place(level, file, line, column, message) {
  return {level, file, fileLine: toNumber(line), column: toNumber(column), message: short(message)};
}

/** Whether it may be a file: "12" of "12:30:45" is none. */
function isPath(text) {
  return /[./\\]/.test(text) && /[A-Za-z_]/.test(text);
}

// --- what takes several lines --------------------------------------------------------------

function begun(text) {
  const rust = RUST.exec(text);
  if (rust) {
    const message = short(coded(rust[2], text.slice(rust[0].length)));
    return {kind: "rust", level: rust[1], message, left: RUST_LINES};
  }
  const frame = FRAME.exec(text);
  if (frame) return {kind: "python", file: frame[1], fileLine: toNumber(frame[2]), left: PYTHON_LINES};
  if (text.startsWith("Traceback (most recent call last)")) {
    return {kind: "python", file: "", fileLine: 0, left: PYTHON_LINES};
  }
  return LINTED_FILE.test(text) && isPath(text) ? {kind: "eslint", file: text.trimEnd()} : null;
}

/* Each returns what a line makes of what was begun; null for a line that has nothing to do with it. */
const COMPLETE = {
  rust(context, text) {
    const match = RUST_PLACE.exec(text);
    if (match) {
      const {level, message, from} = context;
      return {found: {...place(level, match[1], match[2], match[3], message), from}, next: null};
    }
    return context.left && !RUST.test(text) ? {found: null, next: {...context, left: context.left - 1}} : null;
  },

  python(context, text) {
    const frame = FRAME.exec(text);
    const left = context.left - 1;
    if (frame) return {found: null, next: {...context, file: frame[1], fileLine: toNumber(frame[2]), left}};
    if (/^\s+\S/.test(text)) return left > 0 ? {found: null, next: {...context, left}} : null;
    const raised = EXCEPTION.exec(text);
    if (!raised || !context.file || !(RAISED.test(raised[1]) || raised[1].includes("."))) return null;
    return {found: place("error", context.file, context.fileLine, 0, text), next: null};
  },

  eslint(context, text) {
    const match = LINTED.exec(text);
    if (!match) return null;
    const rest = text.slice(match[0].length).trim();
    const gap = rest.lastIndexOf("  ");
    const message = gap < 0 ? rest : `${rest.slice(0, gap).trimEnd()} (${rest.slice(gap + 2)})`;
    return {found: place(match[3], context.file, match[1], match[2], message), next: context};
  },
};

function short(text) {
  const trimmed = text.trim();
  return trimmed.length > MAX_MESSAGE ? `${trimmed.slice(0, MAX_MESSAGE)} …` : trimmed;
}

function toNumber(text) {
  return /^\d{1,9}$/.test(text) ? Number(text) : 0;
}
