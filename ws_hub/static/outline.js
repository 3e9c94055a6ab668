/* outline.js: the groups of a log, and the errors and warnings in it, shown in its view (log.js).
 *
 * Hides the rows of folded groups, and adds to the rows in view what they are: a button before the
 * title of a group, the number of its lines behind it, the level of an error, links.
 *
 * Must not know messages or connections.
 */

import {addLinks} from "./anchors.js";
import {Annotations, commandOf} from "./annotations.js";
import {Groups, markerLength} from "./groups.js";
import {FOLDED, textOf} from "./lines.js";
import {counted, duration} from "./messages.js";

const KNOWN = 2000; // lines that may still change, at least half of it
const SLICE = 8; // milliseconds of looking through lines without a pause
const PATIENCE = 300; // milliseconds after which lines that came in front are looked through

let analyses = 0;

/** The groups, errors and warnings of lines, which have numbers by their order. */
class Analysis {
  constructor(onChange, onFound) {
    this.onChange = onChange;
    this.groups = new Groups({onChange: () => this.onChange()});
    this.notes = new Annotations({
      onFound: (note) => {
        if (note.level === "error") this.groups.fail(note.line);
        onFound();
      },
    });
    this.order = ++analyses;
    this.count = 0; // lines
    this._numbers = new Map(); // id -> number, of the last lines
  }

  /** Look at a line behind all others. */
  add(id, entry) {
    this._take(id, (this.count += 1), entry);
  }

  /** Look at a line between two others. */
  insert(id, entry, before, behind) {
    const [low, high] = [before, behind].map((each) => this._numbers.get(each));
    if (high !== undefined) this._take(id, ((low ?? high - 1) + high) / 2, entry);
  }

  /** Look at what became of a line, if it is among the last. */
  change(id, entry) {
    const number = this._numbers.get(id);
    if (number !== undefined) this._take(id, number, entry);
  }

  /** Lines are missing behind the last one, or the output has ended. */
  end() {
    this.groups.end();
    this.notes.end();
  }

  _take(id, number, {runs, marks}) {
    this._numbers.set(id, number);
    if (this._numbers.size > KNOWN) {
      for (const each of [...this._numbers.keys()].slice(0, KNOWN / 2)) this._numbers.delete(each);
    }
    const line = {number, id, text: textOf(runs), marks};
    this.groups.take(line);
    this.notes.take(line);
  }
}

export class Outline {
  /**
   * `source`: a Source (links.js) for places in files; `onChange()` is called, once a frame at most,
   * when there are other groups, errors or warnings.
   */
  constructor(view, {source = null, onChange = () => {}} = {}) {
    this._view = view;
    this._onChange = onChange;
    this.source = source;
    this._timer = 0;
    this._use(this._analysis());
    this._reset();
    view.decorators.push((row, element) => this._decorate(row, element));
    view.outline = this;
  }

  _reset() {
    clearTimeout(this._timer);
    this._applied = []; // [first, last]: ids of the folded groups that have rows hidden
    this._dropped = 0; // rows that the view has let go
    this._seen = new WeakSet(); // elements of texts that have their links
    this._dirty = true;
    this._told = ""; // of what `onChange` was told
    this._current = 0; // id of the line of the error or warning that was gone to last
    this._building = null; // {analysis, last, changed}: all lines, looked through anew, up to that row
    this._before = 0; // rows that came in front and have not been looked through
  }

  _analysis() {
    return new Analysis(() => {}, () => this._view.redecorate());
  }

  _use(analysis) {
    this._lines = analysis;
    this.groups = analysis.groups;
    this.notes = analysis.notes;
    analysis.onChange = () => this._changed();
  }

  close() {
    clearTimeout(this._timer);
  }

  // --- what the view tells of its rows -----------------------------------------------------

  /** The view is empty again. */
  clear() {
    const {mode} = this.groups;
    this._use(this._analysis());
    this._reset();
    this.groups.setMode(mode);
  }

  /** Whether the next row is hidden when it comes. */
  get hides() {
    return this.groups.hiding !== null;
  }

  added(id, entry) {
    const {hiding} = this.groups; // with the row, whatever becomes of the group before the next frame
    if (hiding && this._applied.at(-1)?.[0] !== hiding.first) this._applied.push([hiding.first, null]);
    add(this._lines, id, entry);
    if (this.groups.hiding) this._view.redecorate(); // it has a line more
  }

  inserted(id, entry, behind) {
    const {store} = this._view;
    const place = store.at(store.position(id) - 1);
    const before = place?.chunk.ids[place.index];
    this._lines.insert(id, entry, before, behind);
    this._building?.analysis.insert(id, entry, before, behind); // unless it is to come there
    this._applied = this._applied.map(([first]) => [first, -1]); // the row may be in one of them
    this._dirty = true;
  }

  replaced(id, entry) {
    if (!entry.kind) this._lines.change(id, entry);
    this._building?.changed.add(id);
  }

  /** Rows came in front of all: look through all again, once there are many or no more come. */
  prepended(count) {
    this._before += count;
    if (this._building) return;
    clearTimeout(this._timer);
    const wait = this._before > this._lines.count ? 0 : PATIENCE;
    this._timer = setTimeout(() => this._build(), wait);
  }

  _build() {
    this._before = 0;
    this._building = {analysis: this._analysis(), last: 0, changed: new Set()};
    this._slice();
  }

  /** Look through lines for some milliseconds; have the result used at the end. */
  _slice() {
    const {store} = this._view;
    const {chunks} = store;
    const end = performance.now() + SLICE;
    const building = this._building;
    const place = store.locate(building.last);
    if (building.last && !place) { // it was let go
      this._build();
      return;
    }
    let index = place ? place.index + 1 : 0;
    for (const chunk of chunks.slice(place ? chunks.indexOf(place.chunk) : 0)) {
      while (index < chunk.count) {
        const row = store.read(chunk, index++);
        add(building.analysis, row.id, row);
        building.last = row.id;
        if (index % 32 === 0 && performance.now() > end) {
          this._timer = setTimeout(() => this._slice());
          return;
        }
      }
      index = 0;
    }
    this._finish();
  }

  _finish() {
    const {analysis, changed} = this._building;
    this._building = null;
    for (const id of changed) {
      const row = this._view.store.row(id);
      if (row && !row.kind) analysis.change(id, row);
    }
    analysis.groups.adopt(this.groups);
    this._use(analysis);
    this._dropped = -1; // titles may have been let go since they were looked at
    this._changed();
    if (this._before) this.prepended(0);
  }

  // --- what the reader does ----------------------------------------------------------------

  /** Fold all groups ("folded"), none ("open"), or those that the program has marked ("marked"). */
  setMode(mode) {
    this.groups.setMode(mode);
  }

  /** Go to the line of an error or a warning; return false if it is not here any more. */
  go(note) {
    if (!this._view.store.locate(note.id)) return false;
    this._current = note.id;
    this._view.link(note.id);
    return true;
  }

  /** Go to the next error or warning that is here, or with -1 to the one before; return it. */
  step(direction) {
    const {list} = this.notes;
    const from = list.findIndex((note) => note.id === this._current);
    for (let count = 1; count <= list.length; count++) {
      const first = from < 0 && direction < 0 ? 0 : from;
      const note = list[(first + direction * count + list.length) % list.length];
      if (note.level !== "notice" && this.go(note)) return note;
    }
    return null;
  }

  _changed() {
    this._dirty = true;
    this._view.redecorate();
  }

  // --- rows that are hidden ----------------------------------------------------------------

  /** Before a frame: hide what is folded. */
  draw() {
    const {store} = this._view;
    if (store.dropped !== this._dropped) {
      this._dropped = store.dropped;
      this.groups.forget((id) => store.locate(id) !== null);
    }
    if (this._dirty) {
      this._dirty = false;
      this._refold();
    }
    const told = `${this._lines.order} ${this.notes.changes} ${this.groups.list.length > 0}`;
    if (told === this._told) return;
    this._told = told;
    this._onChange();
  }

  _refold() {
    const folds = this.groups.folds.map(({first, last}) => [first, last]);
    const before = this._applied;
    let same = 0;
    while (same < folds.length && same < before.length && String(folds[same]) === String(before[same])) same += 1;
    if (same === folds.length && same === before.length) return;
    this._applied = folds;
    hide(this._view.store, folds, [before[same]?.[0], folds[same]?.[0]]);
  }

  /** Unfold what hides a row. */
  reveal(id) {
    const {store} = this._view;
    const around = this.groups.aroundRow(store.position(id), (each) => store.position(each));
    for (const group of around) if (this.groups.isFolded(group)) this.groups.fold(group, false);
    this.draw();
  }

  // --- rows that are shown -----------------------------------------------------------------

  _decorate(row, element) {
    const text = element.querySelector(".text");
    const group = row.kind === "note" ? undefined : this.groups.of(row.id);
    const head = element.querySelector(".fold");
    if (group) this._showGroup(group, element, head ?? this._makeFold(row.id, element, text));
    else if (head) {
      head.remove();
      element.querySelector(".folded").remove();
      element.classList.remove("group", "muted", "failed");
    }
    if (this._seen.has(text)) return;
    this._seen.add(text);
    if (row.kind === "") showCommand(row.text, group, element, text);
    addLinks(text, this.source);
  }

  _makeFold(id, element, text) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "fold";
    button.addEventListener("click", () => {
      const group = this.groups.of(id);
      if (group) this.groups.fold(group, !this.groups.isFolded(group));
    });
    const size = document.createElement("span");
    size.className = "folded";
    text.before(button);
    text.after(size);
    element.classList.add("group");
    return button;
  }

  _showGroup(group, element, button) {
    const folded = this.groups.isFolded(group);
    const lines = counted(this.groups.size(group), "line");
    const took = group.took === null ? "" : `, ${duration(group.took)}`;
    button.setAttribute("aria-expanded", !folded);
    button.setAttribute("aria-label", `${group.title}: ${lines}${took}`);
    button.title = `${folded ? "Show" : "Hide"} ${lines}`;
    element.querySelector(".folded").textContent = folded ? `${lines}${took}` : took.slice(2);
    element.classList.toggle("muted", group.muted);
    element.classList.toggle("failed", this.groups.hasFailed(group));
  }
}

/** Show what a command makes of its line, and the command itself only faintly. */
function showCommand(line, group, element, text) {
  const command = commandOf(line);
  if (command) element.classList.add(`told-${command.level}`);
  const length = command?.prefix ?? markerLength(line, group);
  const node = text.firstChild;
  if (!length || node.nodeType !== Node.TEXT_NODE || node.length < length) return; // it has colours
  node.splitText(length);
  const head = document.createElement("span");
  head.className = "command";
  node.replaceWith(head);
  head.append(node);
}

/** Have a row at the end looked at: a note is of an end, or of lines that are missing. */
function add(analysis, id, entry) {
  if (entry.kind === "note") analysis.end();
  else if (!entry.kind) analysis.add(id, entry);
}

/**
 * Hide the rows behind the first of each fold `[first, last]`, to its last one, and show the others,
 * from the first one of `from` on; null as last one is the end of the log.
 */
function hide(store, folds, from) {
  const lasts = new Map(folds);
  const {chunks} = store;
  const places = from.filter((id) => id !== undefined).map((id) => store.locate(id));
  const starts = places.map((place) => (place ? [chunks.indexOf(place.chunk), place.index] : [0, 0]));
  const [[first, start]] = starts.sort(([one, index], [other, another]) => one - other || index - another);
  let until; // the last row to hide; undefined while rows are shown
  for (let at = first; at < chunks.length; at++) {
    const chunk = chunks[at];
    for (let index = at === first ? start : 0; index < chunk.count; index++) {
      const id = chunk.ids[index];
      if (lasts.has(id)) until = undefined;
      const flags = until === undefined ? chunk.flags[index] & ~FOLDED : chunk.flags[index] | FOLDED;
      if (flags !== chunk.flags[index]) {
        chunk.flags[index] = flags;
        chunk.height = -1;
      }
      if (lasts.has(id)) until = lasts.get(id);
      else if (id === until) until = undefined;
    }
  }
}
