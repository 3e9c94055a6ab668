/* problems.js: the list of the errors and warnings in a log (outline.js), each of which leads to its line.
 *
 * A `<details>` whose summary counts them; its items are made while it is open.
 */

import {placeLink} from "./anchors.js";
import {addLogStyle} from "./log_style.js";
import {counted} from "./messages.js";

export class Problems {
  /** `onGone()` is called where a line that is gone to is not here any more. */
  constructor(outline, {onGone = () => {}} = {}) {
    this._outline = outline;
    this._onGone = onGone;
    this._shown = []; // what the items are of
    this.element = document.createElement("details");
    this.element.className = "problems";
    this.element.hidden = true;
    this._summary = document.createElement("summary");
    this._list = document.createElement("ol");
    this._list.tabIndex = -1;
    this._rest = document.createElement("p");
    this.element.append(this._summary, this._list, this._rest);
    this.element.addEventListener("toggle", () => this._fill());
    this._list.addEventListener("click", ({target}) => {
      const item = target.closest("button");
      if (item) this._go([...this._list.children].indexOf(item.parentElement));
    });
  }

  /** Show what has been found so far. */
  show() {
    const {error, warning, notice} = this._outline.notes.counts;
    addLogStyle(this.element);
    const parts = [[error, "error"], [warning, "warning"], [notice, "notice"]].filter(([count]) => count);
    this.element.hidden = !parts.length;
    this._summary.replaceChildren(...parts.flatMap(([count, level]) => [labelled(level, counted(count, level)), " "]));
    this._fill();
  }

  _fill() {
    if (!this.element.open) return;
    const {list, counts} = this._outline.notes;
    let same = 0;
    while (same < list.length && this._shown[same] === list[same]) same += 1;
    while (this._list.children.length > same) this._list.lastChild.remove();
    this._list.append(...list.slice(same).map((note) => this._item(note)));
    this._shown = [...list];
    const more = counts.error + counts.warning + counts.notice - list.length;
    this._rest.textContent = more > 0 ? `${more.toLocaleString("en")} more are not listed.` : "";
  }

  _item(note) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const text = [note.title, note.message].filter(Boolean).join(": ") || "(no text)";
    button.append(labelled(note.level, note.level), ` ${text}`);
    button.title = "Show the line";
    item.append(button);
    if (note.file) {
      const place = placeLink(this._outline.source, note.file, note.fileLine, note.column) ?? document.createElement("span");
      place.classList.add("place");
      place.textContent = [note.file, note.fileLine, note.fileLine && note.column].filter(Boolean).join(":");
      item.append(" ", place);
    }
    return item;
  }

  _go(index) {
    const note = this._shown[index];
    if (note && !this._outline.go(note)) this._onGone();
  }
}

function labelled(level, text) {
  const label = document.createElement("span");
  label.className = `level ${level}`;
  label.textContent = text;
  return label;
}
