/* links.js: which links a log may have, and where its text names an address or a place in a file.
 *
 *   safeLink("https://example.com/a")        // the address, as the browser reads it
 *   safeLink("javascript:alert(1)")          // ""
 *   findLinks("see https://example.com.")    // [{start: 4, end: 23, href: "https://example.com/"}]
 *   findPlaces("at src/a.c:12:3")            // [{start: 3, end: 15, file: "src/a.c", line: 12, column: 3}]
 *
 * Each takes time in proportion to the length of the text. Must not know the DOM.
 */

const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const MAX_URL = 2083;
const MAX_LINKS = 50; // of one line
const MAX_PATH = 400;

/* Begins with letters of its own, and ends where no address goes on: one pass. */
const ADDRESS = /\b(?:https?:\/\/|mailto:)[^\s<>"'`\\^{|}\x00-\x1f\x7f-\x9f\u2000-\u200f\u2028-\u202f\u2066-\u2069]+/gi;
/* What ends a path that has a line: ".c:12", ".py:12:3". */
const LINE_OF = /\.([A-Za-z][A-Za-z0-9]{0,9}):(\d{1,9})(?::(\d{1,9}))?(?![\w.])/g;
const PATH = /[\w@%+~.\/\\-]/;

/** Return an address that a page may link to, as the browser reads it; "" for any other. */
export function safeLink(address) {
  if (address.length > MAX_URL) return "";
  let url;
  try {
    url = new URL(address);
  } catch {
    return "";
  }
  // A name and a password in front of the host make it look like another host.
  if (!SCHEMES.has(url.protocol) || url.username || url.password) return "";
  if (url.protocol !== "mailto:" && !url.host) return "";
  return url.href;
}

/** Return what to show of a link before it is followed: its host first. */
export function linkTitle(href) {
  const url = new URL(href);
  return url.protocol === "mailto:" ? `Write to ${url.pathname}` : `${url.host} · ${href}`;
}

/** Say whether a text looks like an address of another host than it leads to. */
export function deceives(text, href) {
  const [found] = findLinks(text);
  return Boolean(found) && new URL(found.href).host !== new URL(href).host;
}

/** Return the addresses in a text: `{start, end, href}`, in order. */
export function findLinks(text) {
  const found = [];
  if (!text.includes(":")) return found;
  for (const match of text.matchAll(ADDRESS)) {
    if (found.length === MAX_LINKS) break;
    const whole = match[0].length > MAX_URL ? "" : withoutEnd(match[0]);
    const href = whole && safeLink(whole);
    if (href) found.push({start: match.index, end: match.index + whole.length, href});
  }
  return found;
}

/** Leave out what ends the sentence, and a bracket that was opened before the address. */
function withoutEnd(address) {
  let end = address.length;
  const open = {")": "(", "]": "["};
  const surplus = {};
  for (const [close, opening] of Object.entries(open)) {
    surplus[close] = address.split(close).length - address.split(opening).length;
  }
  for (; end > 0; end--) {
    const last = address[end - 1];
    if (last in open) {
      if (surplus[last] <= 0) break;
      surplus[last] -= 1;
    } else if (!".,;:!?*_".includes(last)) {
      break;
    }
  }
  return address.slice(0, end);
}

/** Return the places in files that a text names: `{start, end, file, line, column}`, in order. */
export function findPlaces(text) {
  const found = [];
  if (!text.includes(":")) return found;
  let free = 0; // what is before belongs to the place before
  for (const match of text.matchAll(LINE_OF)) {
    if (found.length === MAX_LINKS) break;
    const least = Math.max(free, match.index - MAX_PATH);
    let start = match.index;
    while (start > least && PATH.test(text[start - 1])) start -= 1;
    const drive = /^(?:.*\W)?[A-Za-z]:$/s.test(text.slice(Math.max(least, start - 3), start)) && /[\\/]/.test(text[start]);
    if (drive) start -= 2;
    free = match.index + match[0].length;
    const fileEnd = match.index + 1 + match[1].length;
    if (start === match.index || (!drive && text[start - 1] === ":")) continue; // no name, or an address
    found.push({
      start,
      end: free,
      file: text.slice(start, fileEnd),
      line: Number(match[2]),
      column: match[3] ? Number(match[3]) : 0,
    });
  }
  return found;
}

/**
 * Makes addresses of places in files.
 *
 *   const source = new Source("https://github.com/o/r/blob/main/{file}#L{line}", "/home/ci/r");
 *   source.href("src/a.c", 12)  // "https://github.com/o/r/blob/main/src/a.c#L12"
 *
 * The template is an http or https address with `{file}` behind its host, and `{line}` and
 * `{column}` where they are wanted. `root` is the folder of the files: paths that begin with it are
 * shortened, other absolute ones have no address.
 */
export class Source {
  /** Throws a TypeError for a template that is none. */
  constructor(template, root = "") {
    const [one, other] = ["a", "b"].map((name) => safeLink(fill(template, name, 1, 1)));
    if (!template.includes("{file}") || !one || new URL(one).protocol === "mailto:" || origin(one) !== origin(other)) {
      throw new TypeError(`"${template}" is no http or https address with {file} behind its host`);
    }
    this._template = template;
    this._origin = origin(one);
    this._root = root && `${forward(root).replace(/\/+$/, "")}/`;
  }

  /** Return the address of a line; "" where there is none. */
  href(file, line, column = 0) {
    let path = forward(file);
    if (this._root && path.startsWith(this._root)) path = path.slice(this._root.length);
    if (/^(?:[A-Za-z]:)?\//.test(path)) return "";
    const parts = path.split("/").filter((part) => part !== "." && part !== "");
    if (!parts.length || parts.includes("..")) return "";
    const href = safeLink(fill(this._template, parts.map(encodeURIComponent).join("/"), line || 1, column || 1));
    return href && origin(href) === this._origin ? href : "";
  }
}

function origin(href) {
  return href && new URL(href).origin;
}

function forward(path) {
  return path.replaceAll("\\", "/");
}

function fill(template, file, line, column) {
  const values = {"{file}": file, "{line}": String(line), "{column}": String(column)};
  return template.replace(/\{(?:file|line|column)\}/g, (name) => values[name]);
}
