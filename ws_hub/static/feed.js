/* feed.js: the messages of one channel as lines of a log (log.js).
 *
 * Must not know the page or the connection: a client's callbacks in, lines of a view out.
 */

import {LineAssembler} from "./ansi.js";
import {clockTime, counted, describeMessage, describeStatus, duration} from "./messages.js";

export class Feed {
  /** `onStatus(known)` is called with what `describeStatus` says of a `process_status`. */
  constructor(view, {onStatus = () => {}} = {}) {
    this.view = view;
    this.status = null; // of the process, the newest
    this.started = null; // the server's clock
    this.ended = null;
    this._onStatus = onStatus;
    this._assembler = new LineAssembler();
    this._open = null; // the line that the next text replaces
  }

  received(message) {
    if (message.type === "process_output" && typeof message.data === "string") this._output(message);
    else if (message.type === "process_status") this._status(message);
    else describeMessage(message).forEach((entry) => this.view.append(entry));
  }

  /** The server has answered a subscribe: say what is gone. */
  synced({first, recovered, restarted, missed}) {
    if (restarted) {
      this._endLine();
      this.status = null;
      this.note("the server has started anew: another numbering begins", {gap: true});
    }
    if (missed > 0) this.missing(missed, first ? "earlier " : "");
    else if (!recovered && !restarted) this.missing(0, "");
  }

  missing(number, which = "") {
    const what = number ? counted(number, `${which}message`) : "some messages";
    this.note(`${what} ${number === 1 ? "is" : "are"} missing here: no longer kept by the server`, {name: "gap", gap: true});
  }

  note(text, {name = "", gap = false} = {}) {
    this.view.append({kind: "note", runs: [{text, gap, style: {name}}]});
  }

  /** Say whether the process has ended. */
  get over() {
    return Boolean(this.status && ["ok", "failed", "unknown"].includes(this.status.state));
  }

  _output(message) {
    const time = clockTime(message.timestamp);
    for (const {runs, cut, done, replaces} of this._assembler.feed(message.data)) {
      const entry = {runs, cut, time};
      if (replaces && this._open) this.view.replace(this._open, entry);
      else this._open = this.view.append(entry);
      if (done) this._open = null;
    }
  }

  _endLine() {
    this._assembler.finish();
    this._open = null;
  }

  _status(message) {
    this._endLine();
    const moment = Date.parse(message.timestamp ?? "") || null;
    const known = describeStatus(message.data);
    if (known.state === "running") {
      if (this.status && this.view.total) this.note("started again");
      [this.started, this.ended] = [moment, null];
    } else if (known.state !== "other") {
      this.ended = moment;
      const took = this.started && this.ended ? ` after ${duration(this.ended - this.started)}` : "";
      this.note([known.text + took, known.detail].filter(Boolean).join(": "), {name: known.state});
    }
    this.status = known;
    this._onStatus(known);
  }
}
