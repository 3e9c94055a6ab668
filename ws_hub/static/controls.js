/* controls.js: the buttons that end the program that is watched, and the line that writes to it.
 *
 * They are there as far as the server permits. One client at a time holds the input of a program:
 * the first text takes the hold, and the page gives it back when it is told to, or closed.
 */

const ASKS_AGAIN = 3000; // ms in which a second press confirms the first

export class Controls {
  /**
   * `elements` are those of the page by their ids, `client` the HubClient; `onError(text)` is called
   * with what the server refuses.
   */
  constructor(client, elements, onError) {
    this.client = client;
    this.onError = onError;
    this.elements = elements;
    this.channel = "";
    this._looking = 0; // the number of the newest question
    this._known = null; // the answer
    const {control, input, release, end, stop, kill} = elements;
    control.addEventListener("submit", (event) => {
      event.preventDefault();
      this._send(`${input.value}\n`).then((sent) => sent && control.reset());
    });
    end.addEventListener("click", () => this._send());
    release.addEventListener("click", () => this._ask("process_hold", false).then(() => this.look()));
    this._unpressed = [
      confirmed(stop, () => this._ask("process_signal", "stop")),
      confirmed(kill, () => this._ask("process_signal", "kill")),
    ];
    this._show();
  }

  /** Another program is watched, or none (""): the hold of the one before is given back. */
  watch(channel) {
    if (this._known?.held) this.client.request("process_hold", false, {channel: this.channel}).catch(() => {});
    for (const reset of this._unpressed) reset();
    this.channel = channel;
    this._known = null;
    this._looking += 1;
    this._show();
  }

  /** Ask what is permitted: the program has begun or ended, or the connection is another. */
  async look() {
    const asked = (this._looking += 1);
    let known = null;
    if (this.channel) {
      try {
        known = await this.client.request("process_control", undefined, {channel: this.channel});
      } catch {
        // A server without it, or none: nothing is offered.
      }
    }
    if (asked !== this._looking) return;
    this._known = known;
    this._show();
  }

  /** A message of the channel: it may say that another client holds the input. */
  received(message) {
    if (message.type === "event" && message.data?.event === "process_hold") this.look();
  }

  async _ask(type, data, channel = this.channel) {
    try {
      await this.client.request(type, data, {channel});
      return true;
    } catch (error) {
      this.onError(error.message);
      return false;
    }
  }

  async _send(text) {
    const {channel} = this;
    if (!this._known?.held) {
      if (!(await this._ask("process_hold", true))) return false;
      if (channel !== this.channel) {
        this._ask("process_hold", false, channel); // another program is watched by now
        return false;
      }
      this._known = {...this._known, held: true}; // `watch` may be next, and gives it back
    }
    const sent = await this._ask("process_input", text);
    this.look();
    return sent;
  }

  _show() {
    const {control, input, send, release, end, stop, kill} = this.elements;
    const {actions = [], input: takes = false, held = false, holder = null} = this._known ?? {};
    const writes = takes && actions.includes("input");
    const other = holder !== null && !held;
    for (const each of [input, send, end]) {
      each.hidden = !writes;
      each.disabled = other;
    }
    release.hidden = !held;
    stop.hidden = !actions.includes("stop");
    kill.hidden = !actions.includes("kill");
    input.placeholder = other ? `${holder.user ?? "Another client"} holds the input` : "Input of the program";
    control.hidden = !writes && stop.hidden && kill.hidden;
  }
}

/** Have a button ask before it does something: a second press confirms. */
function confirmed(button, act) {
  const text = button.textContent;
  let timer = 0;
  const reset = () => {
    clearTimeout(timer);
    timer = 0;
    button.textContent = text;
  };
  button.addEventListener("click", () => {
    if (timer) {
      reset();
      act();
    } else {
      button.textContent = `${text} now?`;
      timer = setTimeout(reset, ASKS_AGAIN);
    }
  });
  button.addEventListener("blur", reset);
  return reset;
}
