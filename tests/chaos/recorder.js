/* recorder.js: keeps what a client of ws_hub.js receives, as tests/chaos/record.py does. */

const NUMBERS = 1e12; // as in plan.py
const END = 2;

export class Recorder {
  constructor(name, client, presence, channels, present) {
    this.name = name;
    this.tracks = {};
    this.complaints = [];
    this.lagged = 0;
    this.open = new Set(channels);
    this.room = null;
    client.on("error", ({error, message}) => {
      this.complaints.push(String(error ?? JSON.stringify(message)));
    });
    for (const channel of channels) {
      const subscription = this.subscribe(client, channel);
      if (channel === present) this.room = presence(subscription);
    }
    client.connect();
  }

  subscribe(client, channel) {
    const seqs = [];
    const values = [];
    const gaps = [];
    const unnumbered = [];
    this.tracks[channel] = [seqs, values, gaps, unnumbered];
    const gap = (count) => gaps.push([seqs.length, count]);
    const handler = ({type, seq, data}) => {
      if (type !== "event") {
        this.complaints.push(`${channel}: a message of type ${type}`);
        return;
      }
      const value = data.publisher * NUMBERS + data.number;
      if (!Number.isInteger(seq)) {
        unnumbered.push(value);
        return;
      }
      seqs.push(seq);
      values.push(value);
      if (value === END) this.open.delete(channel);
    };
    const onSync = ({restarted, missed}) => {
      if (restarted) gap(null);
      if (missed) gap(missed);
    };
    return client.subscribe(channel, handler, {since: 0, onGap: gap, onSync, onLagged: () => this.lagged++});
  }

  look() {
    const present = this.room.members.map(({user}) => user);
    const begun = Object.values(this.tracks).every(([seqs]) => seqs.length);
    return {name: this.name, present, begun, ended: this.open.size === 0};
  }

  finish() {
    const {name, tracks, complaints, lagged} = this;
    return {name, tracks, complaints, lagged};
  }
}
