/* paint.js: runs of styled text as nodes of a page, in colours that can be read. */

import {programLink} from "./anchors.js";
import {readable, toHex, toRgb} from "./ansi.js";

const MARKS = ["bold", "dim", "italic", "underline", "hidden", "strike"];

export class Painter {
  constructor() {
    this._ground = [255, 255, 255]; // the colour behind the lines, by which others are chosen
  }

  /** Look at the colour behind an element; say whether it is another one: another theme. */
  look(element) {
    const color = getComputedStyle(element).backgroundColor;
    const ground = color.startsWith("rgb(") ? color.match(/[0-9.]+/g).map(Number) : [255, 255, 255];
    if (String(ground) === String(this._ground)) return false;
    this._ground = ground;
    return true;
  }

  /** Show runs in an element, in the place of what it holds. */
  fill(element, runs) {
    if (runs.length === 1 && !runs[0].style) element.textContent = runs[0].text;
    else element.replaceChildren(...runs.map((run) => this._run(run)));
  }

  _run({text, style}) {
    if (!style) return document.createTextNode(text);
    const span = (style.link && programLink(text, style.link)) || document.createElement("span");
    span.textContent = text;
    if (style.name !== undefined) {
      span.className = style.name;
      return span;
    }
    const names = MARKS.filter((each) => style[each]);
    const {fg, bg} = style;
    const ink = style.bold && typeof fg === "number" && fg < 8 ? fg + 8 : fg;
    if (style.inverse) {
      this._color(span, names, "inv", ink ?? "ink");
      this._color(span, names, bg === null ? "fg" : "raw", bg ?? "ground");
    } else {
      if (bg !== null) this._color(span, names, "bg", bg);
      if (fg !== null) this._color(span, names, bg === null ? "fg" : "raw", ink);
    }
    span.classList.add(...names);
    return span;
  }

  /**
   * The sixteen colours, by name: as text ("fg") and inverse ("inv") they are the theme's, on a
   * ground of the program's ("bg", "raw") a terminal's. Others are moved until they can be read.
   */
  _color(span, names, what, color) {
    if (typeof color === "string" ? !color.startsWith("#") : color < 16) {
      names.push(`${what}-${color}`);
      return;
    }
    let rgb = toRgb(color);
    if (what === "fg" || what === "inv") rgb = readable(rgb, this._ground);
    if (what === "fg" || what === "raw") {
      span.style.color = toHex(rgb);
      return;
    }
    span.style.backgroundColor = toHex(rgb);
    if (what === "bg") span.style.color = toHex(readable(rgb, rgb, 7));
  }
}
