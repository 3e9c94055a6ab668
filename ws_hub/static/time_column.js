/* time_column.js: the times before the lines of a log (log.js), and the mark of lines of stderr.
 *
 * The times are those at which the server has read the lines, not those of their arrival here.
 * Must not know messages or connections.
 */

import {clockText, deltaText, elapsedText} from "./times.js";

/** What the column shows: nothing, the local time, that since the program's start or the line before. */
const TIMES = ["", "clock", "elapsed", "delta"];

/** The column of a view, which it gives the class "times" while it is shown. */
export class TimeColumn {
  constructor(view) {
    this._view = view;
    this.mode = "";
    this.reset();
    view.timeText = (row, before) => this._text(row, before);
    view.decorators.push(markStderr);
  }

  /** Show another one of TIMES. */
  show(mode) {
    this.mode = TIMES.includes(mode) ? mode : "clock";
    this._view.scroller.classList.toggle("times", this.mode !== "");
    this._view.timesChain = this.mode === "delta";
    this._view.repaint();
    this._view.follow(this._view.following); // other heights: the end moves
  }

  /** Show the next one; return it. */
  cycle() {
    this.show(TIMES[(TIMES.indexOf(this.mode) + 1) % TIMES.length]);
    return this.mode;
  }

  /** Forget when programs were started: another log begins. */
  reset() {
    this._starts = []; // microseconds since 1970, rising
    this._first = null; // time of the first line
  }

  /** A program was started, in microseconds since 1970. */
  begin(time) {
    if (time === null || this._starts.includes(time)) return;
    this._starts.push(time);
    this._starts.sort((a, b) => a - b); // older ones may come later
    if (this.mode === "elapsed") this._view.repaint();
  }

  /** When the program of a row was started, or else when the first line that is here was read. */
  _start(time) {
    return this._starts.findLast((each) => each <= time) ?? this._firstTime() ?? time;
  }

  /** Of the first line that was ever here. */
  _firstTime() {
    for (const {times, count} of this._view.store.chunks) {
      const found = times.subarray(0, count).find((time) => !Number.isNaN(time));
      if (found === undefined) continue;
      if (this._first === null || found < this._first) this._first = found;
      break;
    }
    return this._first;
  }

  _text({time}, before) {
    if (this.mode === "" || time === null) return "";
    if (this.mode === "clock") return clockText(time);
    if (this.mode === "elapsed") return elapsedText(time - this._start(time));
    return deltaText(time - (before?.time ?? this._start(time)));
  }
}

/** Say to those who hear the page what those who see it are shown by a mark. */
function markStderr(row, element) {
  if (!row.stderr || element.querySelector(".said")) return;
  const said = document.createElement("span");
  said.className = "said";
  said.textContent = "stderr: ";
  element.querySelector(".gutter").title = "stderr";
  element.querySelector(".text").before(said);
}
