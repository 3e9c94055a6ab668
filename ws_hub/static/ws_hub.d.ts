/**
 * Types of ws_hub.js, the client of a ws_hub server, or of a Go hub, for browsers and Node.
 * All times are milliseconds.
 */

/** A message of the wire. What it says is in `data`. */
export interface Message<Data = unknown> {
  type: string;
  channel?: string;
  processId?: string;
  data: Data;
  /** RFC 3339, of the server. */
  timestamp?: string;
  /** The number in a channel that keeps history. */
  seq?: number;
  /** In `process_output`: left out for the standard output. */
  stream?: "stderr";
  /**
   * In `process_output`: when it was read, microseconds since 1970, where that was not at its
   * `timestamp`. See `readAt`.
   */
  time?: number;
  /** In `process_output`: the number of the line, which a later message with it replaces. */
  line?: number;
  /** In a keyed channel: what this is the newest state of. Without `data` that is deleted. */
  key?: string;
  id?: string | number;
  code?: string;
}

/** A message to send. What it says goes into `data`; the protocol's own requests have more fields. */
export interface Outgoing {
  type: string;
  data?: unknown;
  channel?: string;
  id?: string | number;
  key?: string;
  code?: string;
  processId?: string;
  timestamp?: string;
  seq?: number;
  epoch?: string;
  stream?: string;
  time?: number;
  line?: number;
  since?: number;
  last?: number;
  since_time?: string;
  before?: number;
  limit?: number;
  idempotencyKey?: string;
  filter?: Filter;
}

/** What a named event of the application carries: `hub.send_event("saved", ...)`. */
export interface NamedEvent<Data = unknown> {
  event: string;
  data: Data;
}

export type State = "idle" | "connecting" | "connected" | "waiting" | "closed";

/**
 * "idle" → "connecting" → "connected" → "waiting" → "connecting" ...; "closed" after `close()`,
 * and after what says not to come back: a close code (4401, 4403), a token that went as a
 * subprotocol to a server that selected none. A browser tells a page neither which HTTP status
 * refused a handshake nor that no subprotocol was selected, so these are retried there.
 */
export interface StateChange {
  state: State;
  /** Failed attempts since a connection last held. */
  attempt?: number;
  /** The wait, when the state is "waiting". */
  retryIn?: number;
  code?: number;
  reason?: string;
}

/** An error that the server sent (`message`), or what went wrong here (`error`). */
export interface Fault {
  message?: Message<string>;
  error?: unknown;
}

/** The server's answer to a subscription. */
export interface Sync {
  /** The first answer, not that of a renewed subscription. */
  first: boolean;
  /** How many missed messages follow. */
  replayed: number;
  /** Nothing is lost for good. False with `missed` 0: `onGap` tells what is missing, where it is. */
  recovered: boolean;
  /** The numbering began anew, as after a restart of the server. */
  restarted: boolean;
  /** How many messages are lost for good, as far as that is known. */
  missed: number;
  /** Their bytes, where the server has said that: of the middle of a long output. */
  bytes?: number;
}

/**
 * Top-level fields of a message's data, and the values that they may have. At most 8 fields, 64
 * values in all, and 1,024 bytes as JSON; a server refuses others with "bad_message".
 */
export type Filter = Record<string, readonly (string | number | boolean | null)[]>;

/**
 * What a callback raises is reported like any error of a page, and changes nothing else.
 * `since`, `last` and `sinceTime` say what comes first: by default what comes from now on (of a process: all
 * that is kept).
 */
export interface SubscribeOptions {
  /** All that came after this number; 0 for all that is kept. */
  since?: number;
  /** The newest n messages. */
  last?: number;
  /** All that came from this time on. */
  sinceTime?: Moment;
  /** Only messages whose data has each of these fields, with one of the values. */
  filter?: Filter;
  /** Messages that are kept for a loop that is slow: the newest (1000). */
  buffer?: number;
  /** The server has answered; what was missed follows. */
  onSync?(sync: Sync): void;
  /** So many messages never came, or a loop was too slow for them; their bytes, where these are known. */
  onGap?(count: number, bytes?: number): void;
  /** This client was too slow for the server; the rest follows. */
  onLagged?(): void;
  /** The server has refused the subscription, or ended it. */
  onError?(message: Message<string>): void;
}

/** One channel of a client. `HubClient.subscribe` makes it, `close()` ends it. */
export class Subscription<Data = unknown> implements AsyncIterable<Message<Data>> {
  private constructor();
  readonly channel: string;
  /** The last message received, in channels that keep history; else 0. */
  readonly seq: number;
  /** Which numbering `seq` belongs to; "" where there is none. */
  readonly epoch: string;
  /** The server has answered. */
  readonly synced: boolean;
  /** Messages that loops were too slow for. */
  readonly dropped: number;
  /**
   * The first answer. Rejected with a HubError when the server refuses the subscription, or when
   * it is closed before. A Go hub never answers.
   */
  readonly ready: Promise<Sync>;
  /** Listen no more; loops end. */
  close(): void;
  /**
   * The messages from now on; of a subscription without a handler, the first loop gets what came
   * before it too. A loop that ends unsubscribes, unless a handler or another loop is left. It
   * fails with a HubError when the server refuses or ends the subscription.
   */
  [Symbol.asyncIterator](): AsyncGenerator<Message<Data>, void, undefined>;
}

/**
 * What a promise or a loop fails with. `code` is the server's ("forbidden", "limit" ...), or
 * "disconnected": the connection was lost before the answer, and the request may have been
 * carried out; "timeout"; "closed": by `close()` here.
 */
export class HubError extends Error {
  constructor(message: string, code: string);
  readonly code: string;
}

/** What npm `ws` and browsers have in common. */
export interface WebSocketLike {
  readonly readyState: number;
  readonly protocol: string;
  onopen: ((event: any) => any) | null;
  onmessage: ((event: any) => any) | null;
  onerror: ((event: any) => any) | null;
  onclose: ((event: any) => any) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** 0 or Infinity switches a time off, except for the backoff. */
export interface HubClientOptions {
  /** The first wait before another attempt (1000); the longest (30000); their growth (2). */
  initialBackoff?: number;
  maxBackoff?: number;
  multiplier?: number;
  /** Waits are drawn evenly from 0 up (true). */
  jitter?: boolean;
  /** How long a connection must hold before attempts count from 1 again (5000). */
  stableAfter?: number;
  /** Silence after which the server is asked (25000), and until it counts as gone (10000). */
  pingInterval?: number;
  pingTimeout?: number;
  connectTimeout?: number;
  protocols?: string | string[];
  /**
   * Who we are: a text, or a promise of one, or a function that returns a fresh one before each
   * connection.
   */
  token?: string | null | Promise<string> | (() => string | Promise<string>);
  /** How the token is sent: the first "message" is for a hub that waits for it. */
  tokenIn?: "subprotocol" | "message";
  /**
   * One connection for all tabs of the site: true where it is the same for everybody, or a text
   * that names whose it is ("user 7"). Tabs with the same URL and text share. Where a browser has
   * no SharedWorker or no locks (a page without TLS), a tab has a connection of its own.
   */
  shared?: boolean | string;
  /** npm `ws`, under a Node that has no WebSocket of its own. */
  WebSocket?: new (url: string, protocols: any) => WebSocketLike;
  /** Yields numbers in [0, 1), for tests. */
  random?: () => number;
}

/** A moment: a Date, a text that Date reads, or milliseconds since 1970. */
export type Moment = Date | string | number;

export interface RequestOptions {
  channel?: string;
  /** For a keyed channel; undefined as data deletes the key. */
  key?: string;
  /** How long an answer is waited for, the connection included (30000). */
  timeout?: number;
}

export interface PublishOptions extends Omit<RequestOptions, "channel"> {
  /** The same for each attempt of one publish, also by another client of the user; a random one. */
  idempotencyKey?: string;
}

/** Of `since`, `before`, `last` and `sinceTime` one at most; without any the oldest come. */
export interface HistoryOptions {
  /** What came after this number. */
  since?: number;
  /** The newest below this number. */
  before?: number;
  /** The newest n messages. */
  last?: number;
  /** What came from this time on. */
  sinceTime?: Moment;
  /** How many messages at most: 100, and not above 1000. */
  limit?: number;
  timeout?: number;
}

/** Kept messages of a channel, oldest first. */
export interface HistoryPage<Data = unknown> {
  channel: string;
  epoch: string;
  /** The number of the oldest message that is kept. */
  first: number;
  /** The last number given. */
  seq: number;
  messages: Message<Data>[];
  /** What was let go between the beginning that is kept and the newest messages: so many behind a number. */
  middle?: {after: number; messages: number; bytes: number};
}

/** A connection that comes back. */
export class HubClient extends EventTarget {
  /**
   * The client for a page, connecting: of `url`, else of `<meta name="ws-hub" content="/live">`,
   * else of `ws` beside this file (`/ws` for `/ws_hub.js`). It looks after the connection when the
   * network comes back, or the page is seen again.
   */
  static fromPage(options?: HubClientOptions & {url?: string}): HubClient;
  /** @param url "/ws", "https://host/ws", "wss://host/ws". */
  constructor(url: string | URL, options?: HubClientOptions);
  readonly url: string;
  readonly state: State;
  /** Failed attempts since a connection last held. */
  readonly attempt: number;
  /** Connect, and stay so until `close()`. No change when it does already. */
  connect(): void;
  /** End the connection for good. Subscriptions are kept for another `connect()`, loops end. */
  close(code?: number, reason?: string): void;
  /** Try now instead of at the end of the wait, because a user asks for it. */
  retryNow(): void;
  /**
   * Look after the connection: the network may be back, or the page is seen again. Ends a wait,
   * unless the server asked for it; asks a connected server for a sign of life, and gives it up
   * without one. The promise says whether the connection is alive.
   */
  wake(): Promise<boolean>;
  /**
   * Send a message, what it says as `data`; say whether there was a connection to send it on.
   * Fields that the protocol has not got are not read by a server: a warning on the console.
   */
  send(message: Outgoing): boolean;
  /**
   * Send a message of an application's own type, and have the data of its answer. It waits for
   * the connection, and is sent once: see HubError.
   */
  request<Answer = unknown>(type: string, data?: unknown, options?: RequestOptions): Promise<Answer>;
  /**
   * Publish to a channel, where the server allows it; kept when the server has accepted it. It is
   * sent again after a lost connection, with the same key, so that it counts once.
   */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<unknown>;
  /** Read kept messages of a channel, a page of them; it need not be subscribed. */
  history<Data = any>(channel: string, options?: HistoryOptions): Promise<HistoryPage<Data>>;
  /**
   * Have the handler called with each message of a channel, in order, each once; or go through
   * them with `for await`. Remembered across connections. One subscription a channel: another
   * one is an error, except without handler and options, which returns the existing one.
   */
  subscribe<Data = any>(
    channel: string,
    handler?: ((message: Message<Data>) => void) | null,
    options?: SubscribeOptions,
  ): Subscription<Data>;
  subscribe<Data = any>(channel: string, options: SubscribeOptions): Subscription<Data>;
  /** Listen to the client; returns what stops that. */
  on(event: "state", fn: (change: StateChange) => void): () => void;
  /** Messages of no subscribed channel: broadcasts. */
  on(event: "message", fn: (message: Message<any>) => void): () => void;
  /** Without a listener, and where nothing else handles it, a fault is a warning on the console. */
  on(event: "error", fn: (fault: Fault) => void): () => void;
  /** Events of the application, of broadcasts and of every subscribed channel. */
  on<Data = any>(
    event: string,
    fn: (data: Data, message: Message<NamedEvent<Data>>) => void,
  ): () => void;
}

/** Return `initial * multiplier ** (attempt - 1)`, at most `maximum`. */
export function calculateBackoff(
  attempt: number,
  initial?: number,
  maximum?: number,
  multiplier?: number,
): number;
/** Return a wait drawn evenly from 0 to `delay`. */
export function fullJitter(delay: number, random?: () => number): number;
/** Return the milliseconds that a Close frame's reason asks to wait; null when it does not. */
export function waitAsked(reason: string): number | null;
/** Return the messages of one text frame: a Go hub joins several with newlines. */
export function splitBatch(text: string): string[];
/** Say whether an error ends a subscription. */
export function isEnd(message: Partial<Message>): boolean;
/**
 * Return when the server has read a line of a program, or has sent another message: milliseconds
 * since 1970, with a fraction to the microsecond. NaN for a message without a time.
 */
export function readAt(message?: Pick<Message, "time" | "timestamp">): number;
/** Return a WebSocket URL: "/ws" and "https://host/ws" are understood. */
export function webSocketUrl(url: string | URL, base?: string | URL): string;
/** Return the subprotocols by which a browser, which cannot set headers, hands over a token. */
export function tokenProtocols(token: string): string[];
