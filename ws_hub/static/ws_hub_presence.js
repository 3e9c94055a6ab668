/* ws_hub_presence.js: who is there, of a channel with presence.
 *
 *   import {presence} from "./ws_hub_presence.js";
 *   const room = presence(hub.subscribe("room:1", show), ({members}) => { ... });
 *
 * The answer to a subscription brings a list, each message after it the changes since. A list
 * stays while there is no connection, and the next answer is compared with it: others, and we,
 * are not seen to leave and come back.
 */

/** Keep `subscription.members`; say what has changed. Before its answer has come. */
export function presence(subscription, onChange) {
  if (typeof subscription?._give !== "function") {
    throw new TypeError(`presence() takes a subscription, not ${String(subscription)}`);
  }
  if (onChange !== undefined && typeof onChange !== "function") {
    throw new TypeError(`presence(): ${String(onChange)} is no function`);
  }
  if ("members" in subscription) throw new Error(`${subscription.channel} has its presence already`);
  if (subscription._live) throw new Error("presence() comes right after subscribe()");
  // The client is the same file's: it has no hooks, for they would cost pages without presence.
  const accepted = subscription._accepted.bind(subscription);
  const give = subscription._give.bind(subscription);
  let entries = null; // connection → what is told of it; null before a list, and without one
  Object.assign(subscription, {members: [], users: 0, connections: 0});

  const take = (data) => {
    const before = new Map(subscription.members?.map((each) => [key(each), each]));
    if (Number.isInteger(data?.users)) {
      entries = Array.isArray(data.members) ? byConnection(data.members) : null;
      Object.assign(subscription, {users: data.users, connections: data.connections});
    } else if (entries) { // joins first: who changes connections does not go
      for (const [id, each] of byConnection(data?.join)) entries.set(id, each);
      for (const id of byConnection(data?.leave).keys()) entries.delete(id);
    } else {
      return;
    }
    subscription.members = entries && grouped(entries.values());
    if (entries) {
      subscription.users = subscription.members.length;
      subscription.connections = entries.size;
    }
    const after = new Map(subscription.members?.map((each) => [key(each), each]));
    const without = (some, others) => [...some].flatMap(([id, each]) => (others.has(id) ? [] : [each]));
    const {members, users, connections} = subscription;
    const change = {members, users, connections};
    change.joined = without(after, before);
    change.left = entries ? without(before, after) : [];
    try {
      onChange?.(change);
    } catch (error) { // as any callback of a client
      (globalThis.reportError ?? console.error)(error);
    }
  };

  subscription._accepted = (answer) => {
    accepted(answer);
    if (answer.presence) take(answer.presence);
    else if (!subscription._client.options.shared) { // there the worker tells of it afterwards
      console.warn(`ws_hub: ${subscription.channel} has no presence: its ChannelRule needs presence=True`);
    }
  };
  subscription._give = (message) => {
    if (message.type === "presence") take(message.data);
    else give(message);
  };
  return subscription;
}

function byConnection(list) {
  const entries = Array.isArray(list) ? list : [];
  return new Map(entries.map((each) => [each.connection, each]));
}

/** One member for each user; each connection without a user is one of its own. */
function grouped(entries) {
  const members = new Map();
  for (const {user, connection, info = null} of entries) {
    const id = key({user, connections: new Map([[connection]])});
    if (!members.has(id)) members.set(id, {user, connections: new Map(), info: null});
    const member = members.get(id);
    member.connections.set(connection, info);
    member.info = info ?? member.info;
  }
  return [...members.values()];
}

function key({user, connections}) {
  return user === null ? `c${[...connections.keys()][0]}` : `u${user}`;
}
