/** Types of ws_hub_state.js. It needs a client of ws_hub.js, and no other file. */

import type {HubClient, Message, Subscription, SubscribeOptions} from "./ws_hub.js";

/** Subscribes to a keyed channel, and keeps the newest message of each key, over reconnects. */
export class KeyedState<Data = any> {
  /**
   * `onChange` is called after each change with all values and the key that has changed; without
   * a key when all are gone, because the server has begun a new state, which follows.
   */
  constructor(
    client: HubClient,
    channel: string,
    onChange?: ((values: ReadonlyMap<string, Message<Data>>, key?: string) => void) | null,
    options?: SubscribeOptions,
  );
  readonly values: ReadonlyMap<string, Message<Data>>;
  readonly subscription: Subscription<Data>;
  /** Unsubscribe. The values stay as they are. */
  close(): void;
}
