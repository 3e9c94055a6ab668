/* json_fields.js: a line that is a JSON object, as lines that a person reads.
 *
 *   const start = jsonStart('12:01:03 {"level": "warn", "user": {"id": 12345678901234567890}}'); // 9
 *   [...fieldsOf(text, start)];
 *   // [{depth: 0, key: "level", kind: "string", value: "warn"},
 *   //  {depth: 0, key: "user", kind: "", value: ""},
 *   //  {depth: 1, key: "id", kind: "number", value: "12345678901234567890"}]
 *
 * The text is read token by token and nothing is rounded, reordered or left out, as a parser would
 * do; it may be cut off. Takes time in proportion to what is read of the text, whatever its depth.
 * Must not know the DOM.
 */

const MAX_START = 300; // characters in front of the object
const MAX_DEPTH = 40; // what is nested more deeply is shown as it is
const SHORT = 72; // characters of an array or object that is shown in one line
const TOKEN = /\s*(?:([{}[\],:])|("[^"\\]*(?:\\.[^"\\]*)*")|(-?\d[\d.eE+-]*|true|false|null))/y;
const UNFINISHED = /\s*("[^"\\]*(?:\\.[^"\\]*)*\\?$)/y; // a string that is cut off
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f]/g; // but for tab and newline

/** Return where the JSON object begins that a line ends with; -1 for none. `cut`: the line goes on. */
export function jsonStart(text, cut = 0) {
  const start = text.indexOf("{");
  if (start < 0 || start > MAX_START) return -1;
  if (cut) return start === 0 && /^\{\s*"/.test(text) ? 0 : -1;
  if (!text.trimEnd().endsWith("}")) return -1;
  try {
    return Object.keys(JSON.parse(text.slice(start))).length ? start : -1;
  } catch {
    return -1;
  }
}

/**
 * Yield the fields from a place on, in order: `{depth, key, kind, value}`. `key` is a name, or a
 * number in an array; `kind` is "string", "number", "word", "json" for what is shown as it is, or ""
 * for a field whose own fields follow. A string is what it means, not how it is written; of one that
 * is cut off it is how that is written.
 */
export function* fieldsOf(text, start) {
  const open = []; // of each array or object: the number of the next item, or null
  let key = null;
  let at = start;
  for (;;) {
    const token = next(text, at);
    if (!token) return;
    at = token.end;
    const around = open.length ? open[open.length - 1] : undefined;
    if (token.kind === "mark") {
      if (token.text === "}" || token.text === "]") {
        open.pop();
        if (!open.length) return;
      } else if (token.text === "{" || token.text === "[") {
        const own = around === undefined ? null : key ?? open[open.length - 1]++;
        const end = own === null ? 0 : wholeEnd(text, token, open.length);
        key = null;
        if (end) {
          at = end;
          yield {depth: open.length - 1, key: own, kind: "json", value: text.slice(token.start, end)};
        } else {
          if (own !== null) yield {depth: open.length - 1, key: own, kind: "", value: ""};
          open.push(token.text === "[" ? 0 : null);
        }
      }
    } else if (around === null && key === null) key = token.value;
    else {
      yield {depth: open.length - 1, key: key ?? open[open.length - 1]++, kind: token.kind, value: token.value};
      key = null;
    }
  }
}

/** Where something ends that is shown as it is: what is short, and what is too deep; 0 for others. */
function wholeEnd(text, first, depth) {
  const most = depth > MAX_DEPTH ? Infinity : first.start + SHORT;
  let open = 0;
  for (let token = first; token && token.end <= most; token = next(text, token.end)) {
    if (token.kind !== "mark") continue;
    if ("{[".includes(token.text)) open += 1;
    else if ("}]".includes(token.text) && --open === 0) return token.end;
  }
  return depth > MAX_DEPTH ? text.length : 0;
}

function next(text, at) {
  TOKEN.lastIndex = at;
  const match = TOKEN.exec(text);
  if (!match) {
    UNFINISHED.lastIndex = at;
    const rest = UNFINISHED.exec(text);
    return rest && {kind: "string", value: rest[1].slice(1), start: at, end: text.length};
  }
  const [whole, mark, string, plain] = match;
  const end = at + whole.length;
  if (mark) return {kind: "mark", text: mark, start: end - 1, end};
  if (string) return {kind: "string", value: meant(string), start: end - string.length, end};
  return {kind: /^[-\d]/.test(plain) ? "number" : "word", value: plain, start: end - plain.length, end};
}

function meant(string) {
  try {
    return JSON.parse(string);
  } catch {
    return string.slice(1, -1);
  }
}

/** Return a text with signs for control characters. */
export function withSigns(text) {
  return text.replace(CONTROLS, (each) => String.fromCharCode(each === "\x7f" ? 0x2421 : 0x2400 + each.charCodeAt(0)));
}
