/* anchors.js: links in the text of a log, as elements of a page.
 *
 * Each leads out of the page without telling where it comes from, and its title has the host.
 */

import {deceives, findLinks, findPlaces, linkTitle} from "./links.js";

/** Return an element for a link that a program has made (OSC 8), null where its text deceives. */
export function programLink(text, href) {
  return deceives(text, href) ? null : anchor(href);
}

/** Make links of the addresses in an element's text, and of places in files if there is a source. */
export function addLinks(element, source = null) {
  if (!element.textContent.includes(":")) return;
  for (const node of textNodes(element)) if (!node.parentElement.closest("a")) split(node, linksIn(node.data, source));
}

/** Return the text nodes in an element, in order. */
export function textNodes(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  return nodes;
}

/** Return an element that leads to a place in a file, null where there is no address of it. */
export function placeLink(source, file, line, column) {
  const href = source?.href(file, line, column);
  return href ? anchor(href) : null;
}

function linksIn(text, source) {
  const found = findLinks(text);
  if (!source) return found;
  const isFree = ({start, end}) => found.every((link) => end <= link.start || start >= link.end);
  const places = findPlaces(text).filter(isFree).map((place) => ({...place, href: source.href(place.file, place.line, place.column)}));
  return [...found, ...places.filter((place) => place.href)].sort((one, other) => one.start - other.start);
}

function split(node, links) {
  for (const {start, end, href} of links.toReversed()) {
    const own = node.splitText(start);
    own.splitText(end - start);
    const link = anchor(href);
    own.replaceWith(link);
    link.append(own);
  }
}

function anchor(href) {
  const link = document.createElement("a");
  link.href = href;
  link.title = linkTitle(href);
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  link.className = "out";
  return link;
}
