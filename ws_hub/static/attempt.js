/* attempt.js: the last lines of the attempt before, which the server keeps when a program is run again. */

import {Feed} from "./feed.js";
import {LogView} from "./log.js";
import {counted, describeStatus} from "./messages.js";
import {MOST_LINES, messageOf, readProgramLog} from "./program_log.js";

/** Return "Attempt 1: exited 3" of what a status says of the attempt before. */
export function beforeText(before) {
  return `Attempt ${before.attempt}: ${describeStatus(before).text}`;
}

export class AttemptBefore {
  /** `elements`: the `dialog`, and in it a `title`, a `note` and a `log`. */
  constructor({dialog, title, note, log}) {
    Object.assign(this, {_dialog: dialog, _title: title, _note: note, _log: log});
    this._view = null;
    dialog.addEventListener("close", () => this._end());
  }

  /** Show the lines of an attempt that are kept. */
  async open(id, before) {
    this._end();
    this._title.textContent = beforeText(before);
    this._note.textContent = "loading…";
    this._dialog.showModal();
    const view = (this._view = new LogView(this._log));
    try {
      const answer = await readProgramLog(id, {attempt: before.attempt, last: MOST_LINES});
      if (this._view === view) this._show(answer);
    } catch (error) {
      if (this._view === view) this._note.textContent = `They cannot be read: ${error.message}`;
    }
  }

  _show({lines}) {
    const digits = Math.max(3, String(lines.at(-1)?.line ?? "").length);
    this._log.style.setProperty("--digits", `${digits}ch`);
    const feed = new Feed(this._view);
    for (const line of lines) feed.received(messageOf(line));
    this._note.textContent = lines.length ? `Its last ${counted(lines.length, "line")}` : "None of its lines are kept.";
  }

  _end() {
    this._view?.close();
    this._view = null;
  }
}
