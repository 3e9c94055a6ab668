/* groups.js: the groups of lines in a program's output, as CI systems mark them.
 *
 *   ::group::title  ##[group]title     until ::endgroup:: ##[endgroup]; they do not nest
 *   ##[section]title                   until the next one, or "##[section]Finishing: ..."
 *   section_start:UNIX:name            until section_end of that name, with all groups within
 *     (a mark, see ansi.js; "[collapsed=true]" behind the name)
 *   --- title  +++ title  ~~~ title    until the next of them; "^^^ +++" unfolds the one before
 *
 * A group begins with the line of its title. Lines come in the order of their numbers, the last ones
 * more than once where they change (recent.js); each takes the same time. Must not know the DOM.
 */

import {countFirst, Recent} from "./recent.js";

const MAX_GROUPS = 10000;
const MAX_DEPTH = 64;
const MAX_TITLE = 500;
const MAX_TEXT = 4096; // characters of a line that are looked at
const NO_EVENTS = [];

const COMMAND = /^[ \t]{0,64}(?:\d{4}-\d\d-\d\dT[\d:.]{8,20}Z )?(::|##\[)(group|endgroup|section)(?:::|\])/;
const BUILDKITE = /^(?:---|\+\+\+|~~~) (?=\S)/;
const UNFOLD = /^\^{3} \+{3}\s*$/;
/* Of another meaning: the head of a diff, or of one of Go's tests. */
const NO_TITLE = /^(?:[ab]\/|\/dev\/null|(?:FAIL|PASS|SKIP|BENCH): )/;
const BEGINS = new Set([...":#-+~^ \t2"].map((each) => each.charCodeAt(0))); // a line with a marker
const SECTION = /^section_(start|end):(\d{1,20}):([A-Za-z0-9_.-]{1,128})(?:\[([^\]]{0,256})\])?$/;

/**
 * What the lines so far have left for the next: the groups that are open, as a list from the
 * innermost, the last of Buildkite's, and what a "---" line right before did, if one was.
 */
const START = Object.freeze({open: null, last: null, dashes: null});

/**
 * A group. `start` is the number of the line of its title, and `first` its id; `end` and `last` are
 * those of its last line, null while it goes on. `depth` says in how many others it is.
 */
class Group {
  constructor(line, event, depth) {
    this.start = line.number;
    this.first = line.id;
    this.end = this.last = null;
    this.depth = depth;
    this.family = event.family;
    this.name = event.name ?? "";
    this.title = (event.title.trim() || event.name || "Group").slice(0, MAX_TITLE);
    this.collapsed = event.collapsed ?? false; // folded unless the reader wants it otherwise
    this.muted = event.muted ?? false;
    this.began = event.time ?? null; // in seconds since 1970
    this.ended = null;
    this.closed = false; // by a marker; not where only the output ends
    this.listed = false; // one whose title is not here, or one too many, is as if it were not
  }

  /** How long it took, in milliseconds; null where that is not known. */
  get took() {
    return this.began === null || this.ended === null ? null : Math.max(0, this.ended - this.began) * 1000;
  }
}

export class Groups {
  /** `onChange()` is called when groups begin, end or fold. */
  constructor({onChange = () => {}} = {}) {
    this._onChange = onChange;
    this._recent = new Recent((context, ...lines) => this._look(context ?? START, ...lines));
    this.list = []; // by their first lines
    this._byId = new Map(); // id of a first line -> the innermost group
    this.mode = "marked"; // or "open", "folded"
    this._choices = new Map(); // id of a first line -> whether the reader has folded the group
    this._failed = new Set(); // ids of the first lines of groups with an error
    this._newest = null; // line
    this._folds = null; // see `folds`
  }

  /** Take a line `{number, id, text, marks}`, or what became of one of the last ones. */
  take(line) {
    const clipped = line.text.length > MAX_TEXT ? {...line, text: line.text.slice(0, MAX_TEXT)} : line;
    if (!this._newest || line.number > this._newest.number) this._newest = clipped;
    this._recent.take(clipped);
  }

  /** Lines are missing behind the last one, or the output has ended: so do all groups. */
  end() {
    const {open} = this._recent.context ?? START;
    for (let node = open; node; node = node.below) {
      Object.assign(node.group, {end: this._newest.number, last: this._newest.id});
    }
    this._recent.cut();
    if (open) this._changed();
  }

  /** Forget groups from the first on whose titles are not here any more: they cannot be unfolded. */
  forget(isHere) {
    let count = 0;
    while (count < this.list.length && !isHere(this.list[count].first)) count += 1;
    if (!count) return;
    for (const group of this.list.splice(0, count)) {
      const {first} = group;
      group.listed = false;
      this._choices.delete(first);
      this._failed.delete(first);
      this._byId.delete(first);
    }
    this._changed();
  }

  /** Fold what the reader has folded in the groups of the same lines. */
  adopt({mode, _choices: choices}) {
    this.mode = mode;
    this._choices = choices;
    this._changed();
  }

  /** The group whose title is in the line with an id; undefined for none. */
  of(id) {
    return this._byId.get(id);
  }

  /** The groups that the line with a number is in, the outermost first, without that of its title. */
  around(number) {
    return this._around(countFirst(this.list, ({start}) => start < number), ({end}) => end === null || end >= number);
  }

  /** The same of a row by its place, where `placeOf(id)` says which place a row has. */
  aroundRow(place, placeOf) {
    const count = countFirst(this.list, ({first}) => placeOf(first) < place);
    return this._around(count, ({last}) => last === null || placeOf(last) >= place);
  }

  _around(count, holds) {
    const found = [];
    let depth = Infinity;
    for (let index = count - 1; index >= 0 && depth > 0; index--) {
      const group = this.list[index];
      if (group.depth >= depth) continue;
      depth = group.depth;
      if (holds(group)) found.unshift(group);
    }
    return found;
  }

  // --- what is folded ----------------------------------------------------------------------

  /** Whether only the title of a group is shown. */
  isFolded(group) {
    if (!group.listed) return false;
    const choice = this._choices.get(group.first);
    if (choice !== undefined) return choice;
    if (this.mode === "marked") return group.collapsed && group.closed && !this._failed.has(group.first);
    return this.mode === "folded";
  }

  /** Fold a group, or unfold it, whatever becomes of it. */
  fold(group, folded = true) {
    this._choices.set(group.first, folded);
    this._changed();
  }

  /** Fold all groups ("folded"), none ("open"), or those that the program has marked ("marked"). */
  setMode(mode) {
    this.mode = mode;
    this._choices.clear();
    this._changed();
  }

  /** The outermost group that hides the next line, unless that ends it; null where none does. */
  get hiding() {
    let found = null;
    for (let node = this._recent.context?.open; node; node = node.below) {
      if (this.isFolded(node.group)) found = node.group;
    }
    return found;
  }

  /** Whether a line of a group is an error. */
  hasFailed(group) {
    return this._failed.has(group.first);
  }

  /** How many lines a group has behind its title. */
  size({start, end}) {
    return Math.round((end ?? this._newest.number) - start);
  }

  /** Whether the reader has folded or unfolded single groups. */
  get hasChoices() {
    return this._choices.size > 0;
  }

  /** A line is an error: the groups that it is in are not folded because they are marked so. */
  fail(number) {
    for (const group of this.around(number)) {
      if (this._failed.has(group.first)) continue;
      this._failed.add(group.first);
      this._changed();
    }
  }

  /** The outermost groups of which only the titles are shown, in order. */
  get folds() {
    if (this._folds) return this._folds;
    this._folds = [];
    let end = 0;
    for (const group of this.list) {
      if (group.start <= end || group.end === group.start || !this.isFolded(group)) continue;
      this._folds.push(group);
      end = group.end ?? Infinity;
    }
    return this._folds;
  }

  _changed() {
    this._folds = null;
    this._onChange();
  }

  // --- what lines say ----------------------------------------------------------------------

  _look(context, line, before) {
    const events = eventsOf(line);
    if (!events.length) {
      return {context: context.dashes ? {...context, dashes: null} : context, effect: null};
    }
    if (context.dashes && events[0].sign === "+++") return diffHead(context.dashes);
    const change = new Change(this, context, line, before ?? line);
    for (const event of events) change.take(event);
    return {context: change.context, effect: change.isEmpty ? null : change};
  }

  _add(group) {
    if (this.list.length >= MAX_GROUPS) return;
    this.list.push(group);
    this._byId.set(group.first, group);
    group.listed = true;
  }

  _remove(group) {
    if (this.list[this.list.length - 1] !== group) return; // it was let go, or was one too many
    this.list.pop();
    this._byId.delete(group.first);
    group.listed = false;
  }
}

/** What the markers of one line do. */
class Change {
  constructor(groups, context, line, before) {
    this.before = context;
    this._groups = groups;
    this._line = line;
    this._lineBefore = before;
    this._open = context.open;
    this._last = context.last;
    this._dashes = null;
    this._steps = []; // [what to do, how to undo it]
  }

  get context() {
    return {open: this._open, last: this._last, dashes: this._dashes};
  }

  get isEmpty() {
    return !this._steps.length;
  }

  apply() {
    for (const [redo] of this._steps) redo();
    this._groups._changed();
  }

  undo() {
    for (const [, undo] of this._steps.toReversed()) undo();
    this._groups._changed();
  }

  take(event) {
    if (event.sign === "^^^") {
      const {_last: group} = this;
      if (group?.collapsed) this._steps.push([() => (group.collapsed = false), () => (group.collapsed = true)]);
      return;
    }
    const before = find(this._open, event);
    if (before) this._close(before, event);
    if (!event.starts || (this._open?.depth ?? 0) >= MAX_DEPTH) return;
    const depth = this._open?.depth ?? 0;
    const group = new Group(this._line, event, depth);
    this._open = {group, below: this._open, depth: depth + 1};
    this._steps.push([() => this._groups._add(group), () => this._groups._remove(group)]);
    if (event.sign) this._last = group;
    if (event.sign === "---") this._dashes = this;
  }

  /** End a group, and all within. */
  _close(until, event) {
    const last = event.whole ? this._line : this._lineBefore;
    for (;;) {
      const {group} = this._open;
      const [end, id] = last.number > group.start ? [last.number, last.id] : [group.start, group.first];
      const ended = this._open === until && !event.starts ? event.time ?? null : null;
      const close = () => Object.assign(group, {end, last: id, closed: true, ended});
      this._steps.push([close, () => Object.assign(group, {end: null, last: null, closed: false, ended: null})]);
      const isLast = this._open === until;
      this._open = this._open.below;
      if (isLast) return;
    }
  }
}

/** "--- old" and "+++ new" one after the other are the head of a diff: neither is a title. */
function diffHead(dashes) {
  return {
    context: {...dashes.before, dashes: null},
    effect: {apply: () => dashes.undo(), undo: () => dashes.apply()},
  };
}

/** The open group that a marker ends. */
function find(open, {family, name}) {
  for (let node = open; node; node = node.below) {
    if (node.group.family === family && node.group.name === (name ?? "")) return node;
  }
  return null;
}

/** How many of a line's first characters are the marker of a group, and not its title. */
export function markerLength(text, group) {
  const command = COMMAND.exec(text);
  if (command) return command[0].length;
  return group?.family === "buildkite" ? 4 : 0;
}

/** Return the markers of a line: `{starts, family, name, title, ...}`. */
function eventsOf({text, marks = []}) {
  if (marks.length) return sections(marks, text);
  if (!BEGINS.has(text.charCodeAt(0))) return NO_EVENTS;
  const command = COMMAND.exec(text);
  if (command) return [ofCommand(command[1], command[2], text.slice(command[0].length))];
  const sign = text.slice(0, 3);
  if (sign === "^^^") return UNFOLD.test(text) ? [{sign}] : NO_EVENTS;
  const title = BUILDKITE.test(text) ? text.slice(4).trim() : "";
  if (!title || NO_TITLE.test(title) || title.endsWith("--") || title.includes("\t")) return NO_EVENTS;
  return [{starts: true, family: "buildkite", title, sign, collapsed: sign !== "+++", muted: sign === "~~~"}];
}

function ofCommand(form, name, rest) {
  if (name === "endgroup") return {starts: false, family: "group", whole: true};
  if (name === "group") {
    const title = form === "::" ? unescape(rest) : rest;
    return {starts: true, family: "group", title, collapsed: true};
  }
  if (/^\s*Finishing: /.test(rest)) return {starts: false, family: "section", whole: true};
  return {starts: true, family: "section", title: rest.replace(/^\s*Starting: /, "")};
}

function sections(marks, text) {
  const found = marks.map((mark) => SECTION.exec(mark)).filter(Boolean);
  return found.map(([, kind, time, name, options = ""], index) => {
    const starts = kind === "start";
    const last = index === found.length - 1;
    return {
      starts,
      family: "gitlab",
      name,
      time: Number(time),
      title: last ? text : name,
      collapsed: options.split(",").includes("collapsed=true"),
      whole: !starts && last && !text.trim(),
    };
  });
}

/** What GitHub's commands escape. */
function unescape(text) {
  return text.replace(/%0[DA]/gi, " ").replaceAll("%25", "%");
}
