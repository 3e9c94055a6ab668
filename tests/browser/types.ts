/* A program that uses all of ws_hub.js: compiled, never run. */

import {
  HubClient,
  HubError,
  Subscription,
  calculateBackoff,
  fullJitter,
  readAt,
  splitBatch,
  tokenProtocols,
  waitAsked,
  webSocketUrl,
} from "./ws_hub.js";
import type {Filter, Message, State, Sync} from "./ws_hub.js";
import {SendBuffer, answerAsks} from "./ws_hub_requests.js";
import {KeyedState} from "./ws_hub_state.js";
import {AnsiParser, LineAssembler, WsHubLog} from "./static/ws_hub_log.js";

interface Saved {
  path: string;
}

const hub: HubClient = HubClient.fromPage({shared: "user 7", token: async () => "secret"});
const other = new HubClient(new URL("https://host/ws"), {jitter: false, protocols: ["a"]});

const board = new KeyedState<number>(hub, "board", (values, key) => {
  console.log(key && values.get(key)?.data.toFixed());
}, {onGap: (count) => console.log(count)});
hub.publish("board", 1, {key: "cpu", idempotencyKey: "7"}).then(() => board.close());

hub.history<string>("news", {sinceTime: new Date(), limit: 10}).then(({messages, seq}) => {
  console.log(messages.map(({data}) => data.length), seq + 1);
});
hub.subscribe("news", {sinceTime: Date.now() - 3600});
const wanted: Filter = {level: ["error", 1, true, null]};
hub.subscribe("log", {filter: wanted});
const noMore: () => void = answerAsks<{name: string}>(hub, async ({name}) => name.length);
const buffer = new SendBuffer(hub, {size: 10, overflow: "oldest"});
const kept: boolean = buffer.send({type: "seen"});
console.log(kept, buffer.waiting + buffer.dropped, noMore, buffer.clear());

const stop: () => void = hub.on("state", ({state, retryIn = 0}) => {
  const shown: [State, number] = [state, retryIn];
  console.log(shown);
});
hub.on("error", ({message, error}) => console.log(message?.data.length, error));
hub.on("message", (message: Message) => console.log(message.type));
hub.on("message", (message: Message) => {
  console.log(new Date(readAt(message)), message.stream === "stderr", message.time?.toFixed());
});
hub.on<Saved>("saved", (saved, {channel, data}) => console.log(saved.path, channel, data.event));
hub.addEventListener("state", (event) => console.log((event as CustomEvent).detail));
stop();

const lines: Subscription<string> = hub.subscribe<string>("process:b", ({data}) => data.trim(), {
  since: 0,
  onSync: ({replayed, missed}) => console.log(replayed + missed),
  onGap: (count) => console.log(count + 1),
  onLagged() {},
  onError: (message) => console.log(message.code),
});

async function follow(): Promise<number> {
  const sync: Sync = await lines.ready;
  for await (const {data, seq} of hub.subscribe<Saved>("news", {last: 3, buffer: 10})) {
    if (seq) return data.path.length;
  }
  const name = await hub.request<string>("name", {id: 1}, {timeout: 1000});
  try {
    await hub.publish("chat:1", {text: name});
  } catch (error) {
    if (error instanceof HubError) console.log(error.code.length);
  }
  lines.close();
  return sync.replayed + lines.seq + lines.dropped;
}

void follow();
void other.wake().then((alive: boolean) => alive);
const sent: boolean = other.send({type: "ping"});
other.connect();
other.retryNow();
other.close(1000, "done");
const waits: (number | null)[] = [calculateBackoff(1), fullJitter(1), waitAsked("")];
console.log(sent, waits, splitBatch(""), webSocketUrl("/ws"), tokenProtocols("a"));

const log: WsHubLog = document.createElement("ws-hub-log");
log.client = other;
const bold: boolean[] = new AnsiParser().parse("x").map(({style}) => style?.bold ?? false);
const cut: number[] = new LineAssembler(100).feed("x\r").map((line) => line.cut);
console.log(bold, cut);

// What is a mistake is told as one.
// @ts-expect-error: a channel is a text
hub.subscribe(undefined, () => {});
// @ts-expect-error: there is no such option
hub.subscribe("news", () => {}, {form: 0});
// @ts-expect-error: publish needs something to say
void hub.publish("news");
// @ts-expect-error: times are numbers
new HubClient("/ws", {pingInterval: "fast"});
// @ts-expect-error: `subscribe` makes it
new Subscription();
// @ts-expect-error: nobody sets it
hub.state = "connected";
