/* ws_hub_state.js: the newest message of each key of a keyed channel. Types: ws_hub_state.d.ts. */

export class KeyedState {
  constructor(client, channel, onChange, options = {}) {
    if (onChange && typeof onChange !== "function") {
      throw new TypeError(`onChange must be a function, not ${String(onChange)}`);
    }
    this.values = new Map();
    this.subscription = client.subscribe(channel, (message) => this._take(message, onChange), {
      ...options,
      onSync: (sync) => {
        // What is not among the keys that follow does not exist any more.
        if (!sync.recovered && this.values.size) {
          this.values.clear();
          onChange?.(this.values);
        }
        options.onSync?.(sync);
      },
    });
  }

  close() {
    this.subscription.close();
  }

  _warn(channel) {
    if (this._warned) return;
    this._warned = true;
    console.warn(`ws_hub: ${channel} keeps no keys: its ChannelRule needs keyed=True`);
  }

  _take(message, onChange) {
    const {key, data} = message;
    if (typeof key !== "string") {
      if (message.type !== "presence") this._warn(message.channel);
      return;
    }
    if (data === undefined) this.values.delete(key);
    else this.values.set(key, message);
    onChange?.(this.values, key);
  }
}
