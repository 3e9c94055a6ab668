/** Types of ws_hub_presence.js: who is there, of a channel with presence. */

import type {Subscription} from "./ws_hub.js";

/** One user, however many connections (tabs) that user has; or a connection without a user. */
export interface Member<Info = any> {
  user: string | null;
  /** The info of each connection by its id, null for none, the oldest first. */
  connections: Map<string, Info | null>;
  /** That of the newest connection that has any. */
  info: Info | null;
}

export interface PresenceState<Info = any> {
  /** null where the server tells numbers alone: by its rule, or because there are too many. */
  members: Member<Info>[] | null;
  users: number;
  connections: number;
}

/** `joined` and `left` are empty when an info or a number alone has changed. */
export interface PresenceChange<Info = any> extends PresenceState<Info> {
  joined: Member<Info>[];
  left: Member<Info>[];
}

/**
 * Keep `members`, `users` and `connections` of a subscription, and have the function called with
 * each change. Call it right after `subscribe`, once. Its handler and loops get no message of the
 * type "presence" then.
 */
export function presence<Data = any, Info = any>(
  subscription: Subscription<Data>,
  onChange?: (change: PresenceChange<Info>) => void,
): Subscription<Data> & PresenceState<Info>;
