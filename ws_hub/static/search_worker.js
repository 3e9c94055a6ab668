/* search_worker.js: looks for a regular expression, in a thread of its own, which the page ends
 * when an expression takes for ever.
 *
 * In: `{source, flags}`, then `{job, chunks: [bytes or text, ...]}` for the lines that match, or
 * `{job, texts}` for where in them. Out: `{ready}` for the first, then `{job, found}`.
 */

const decoder = new TextDecoder("utf-8", {ignoreBOM: true});
const MOST = 100; // places in a text

let pattern = null; // finds one place
let patterns = null; // finds all

function matching(chunk) {
  const rows = (typeof chunk === "string" ? chunk : decoder.decode(chunk)).split("\n");
  return Uint32Array.from(rows.flatMap((text, index) => (pattern.test(text) ? [index] : [])));
}

function places(text) {
  const found = [];
  for (const match of text.matchAll(patterns)) {
    if (match[0]) found.push([match.index, match.index + match[0].length]);
    if (found.length === MOST) break;
  }
  return found;
}

onmessage = ({data}) => {
  if (data.source !== undefined) {
    pattern = new RegExp(data.source, data.flags);
    patterns = new RegExp(data.source, `${data.flags}g`);
    postMessage({ready: true});
  } else {
    postMessage({job: data.job, found: data.chunks ? data.chunks.map(matching) : data.texts.map(places)});
  }
};
