/* json_lines.js: lines of a log (log.js) that are JSON objects, unfolded into their fields.
 *
 * Such a line has a button before its text; its fields are shown below it, as text nodes. Must not
 * know messages or connections.
 */

import {addLinks} from "./anchors.js";
import {copyText} from "./clipboard.js";
import {fieldsOf, jsonStart, withSigns} from "./json_fields.js";
import {counted} from "./messages.js";

const AT_ONCE = 200; // fields that are shown before more are asked for
const MOST = 600; // characters of a value that are shown
const FAR = 20000; // lines through which the next one is looked for

export class JsonLines {
  /** `source`: a Source (links.js) for places in files. */
  constructor(view, {source = null} = {}) {
    this._view = view;
    this._source = source;
    this._open = new Map(); // id of a row -> {text, element} of its fields
    this._current = 0; // id of the row whose button had the focus last
    view.decorators.push((row, element) => this._decorate(row, element));
  }

  /** Another log begins. */
  reset() {
    this._open.clear();
    this._current = 0;
  }

  /** Go to the next line that is JSON, or with -1 to the one before, and its button; false for none. */
  step(direction) {
    const {store} = this._view;
    const known = store.position(this._current);
    const from = known < 0 ? this._view.topRow - direction / 2 : known;
    const id = store.near(from, direction, FAR, (text, {cut}) => jsonStart(text, cut) >= 0);
    if (!id || !this._view.reveal(id)) return false;
    this._current = id;
    this._view.element(id)?.querySelector(".unfold")?.focus({preventScroll: true});
    return true;
  }

  _toggle(id) {
    if (!this._open.delete(id)) {
      this._open.set(id, null);
      this._view.follow(false); // what is read must not move away
    }
    this._current = id;
    this._view.redecorate();
  }

  _decorate(row, element) {
    const text = element.querySelector(".text");
    let button = element.querySelector(".unfold");
    if (!button) {
      const start = row.kind === "note" || element.querySelector(".fold") ? -1 : jsonStart(row.text, row.cut);
      if (start < 0) {
        this._open.delete(row.id);
        return;
      }
      button = this._button(row);
      text.before(button);
    }
    const isOpen = this._open.has(row.id);
    const shown = element.querySelector(".fields");
    button.setAttribute("aria-expanded", isOpen);
    element.classList.toggle("unfolded", isOpen);
    if (!isOpen) shown?.remove();
    else if (!shown) element.append(this._fields(row));
  }

  _button(row) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "unfold";
    button.title = "Show the fields of this line, or hide them (Enter)";
    button.setAttribute("aria-label", row.number ? `Fields of line ${row.number}` : "Fields of this line");
    button.addEventListener("click", () => this._toggle(row.id));
    button.addEventListener("focus", () => (this._current = row.id));
    return button;
  }

  /** The fields of a row: the same element as before, if its text is the same. */
  _fields(row) {
    const known = this._open.get(row.id);
    if (known?.text === row.text) return known.element;
    const element = document.createElement("div");
    element.className = "fields";
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", row.number ? `Fields of line ${row.number}` : "Fields");
    this._fill(element, fieldsOf(row.text, jsonStart(row.text, row.cut)), row.cut);
    this._open.set(row.id, {text: row.text, element});
    return element;
  }

  _fill(element, fields, cut) {
    for (let count = 0; count < AT_ONCE; count++) {
      const {value: field, done} = fields.next();
      if (done) {
        if (cut) element.append(quiet(`${counted(cut, "more character")} of the line were left out`));
        return;
      }
      element.append(this._field(field));
    }
    const more = small("more fields", "Show more fields", () => {
      more.remove();
      this._fill(element, fields, cut);
      const next = element.querySelector(":scope > .load") ?? element.parentElement.querySelector(".unfold");
      next.focus({preventScroll: true}); // it was on the button that is gone
      this._view.redecorate();
    });
    element.append(more);
  }

  _field({depth, key, kind, value}) {
    const field = document.createElement("div");
    field.className = "field";
    field.style.setProperty("--depth", depth);
    const name = document.createElement("span");
    name.className = typeof key === "number" ? "item" : "key";
    name.textContent = key === "" ? '""' : withSigns(String(key));
    field.append(name, ":");
    if (!kind) return field;
    const text = document.createElement("span");
    text.className = `value ${kind}`;
    const whole = kind === "string" && !value ? '""' : value;
    text.textContent = withSigns(whole.slice(0, MOST));
    addLinks(text, this._source);
    field.append(" ", text);
    if (whole.length > MOST) {
      field.append(
        quiet(` … ${counted(whole.length - MOST, "more character")} `),
        small("copy", `Copy all ${counted(whole.length, "character")} of ${key}`, async (button) => {
          button.textContent = (await copyText(value)) ? "copied" : "not allowed";
        }),
      );
    }
    return field;
  }
}

function quiet(text) {
  const span = document.createElement("span");
  span.className = "rest";
  span.textContent = text;
  return span;
}

function small(text, label, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "load";
  button.textContent = text;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => act(button));
  return button;
}
