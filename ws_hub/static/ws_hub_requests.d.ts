/** Types of ws_hub_requests.js. It needs a client of ws_hub.js, and no other file. */

import type {HubClient, Outgoing} from "./ws_hub.js";

/**
 * Answer what the server asks this client (`hub.ask`). What `answer` returns, or its promise, is
 * the answer; a HubError that it throws reaches the server, any other error does as `internal`,
 * without its text, and is reported like any error of a page. Returns what stops it; without an
 * answer the server waits in vain.
 */
export function answerAsks<Data = any>(
  client: HubClient,
  answer: (data: Data) => unknown,
): () => void;

export interface SendBufferOptions {
  /** Messages that are kept (100). */
  size?: number;
  /** What a further one does: it is refused, or drops the oldest, or is dropped itself. */
  overflow?: "refuse" | "oldest" | "newest";
}

/**
 * Sends messages of a client, and keeps them while there is no connection. They are sent in
 * order on the next one, behind the subscriptions, each once. `client.close()` drops them.
 */
export class SendBuffer {
  constructor(client: HubClient, options?: SendBufferOptions);
  /** Messages that wait for a connection. */
  readonly waiting: number;
  /** Messages that were dropped because so many waited. */
  readonly dropped: number;
  /** Send a message, or keep it as it is now; say whether it was sent or kept. */
  send(message: Outgoing): boolean;
  /** Drop what waits. */
  clear(): void;
}
