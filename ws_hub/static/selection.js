/* selection.js: what a reader has selected in a log of which only some rows are in the document.
 *
 * The rows in which a selection begins and ends stay in the document (`pins`), so that the
 * browser goes on with it, whatever is scrolled; what is copied is read from the lines.
 */

/** The selection in one log; `onChange()` is called when it may need other rows. */
export class LogSelection {
  constructor(rows, store, onChange) {
    this.pins = []; // ids of the rows in which it begins and ends
    this._rows = rows;
    this._store = store;
    this._onChange = onChange;
    this._closed = new AbortController();
    document.addEventListener("selectionchange", () => this._changed(), {signal: this._closed.signal});
  }

  close() {
    this._closed.abort();
  }

  /** Select from a row to another one, which must be in the document. */
  set(first, last) {
    const [from, to] = [first, last].map((row) => row.querySelector(".text"));
    getSelection().setBaseAndExtent(from, 0, to, to.childNodes.length);
  }

  /** The selected text; null where the log has no selection, or it reaches beyond the log. */
  text() {
    const range = this._range();
    if (range && within(range, ".fields")) return null; // the browser knows it all
    const ends = range && [
      this._place(range.startContainer, range.startOffset),
      this._place(range.endContainer, range.endOffset),
    ];
    if (!ends?.[0] || !ends[1]) return null;
    const [from, to] = ends;
    const parts = [];
    for (const {id, text} of this._store.all(from.id, to.id)) {
      const end = id === to.id ? to.offset : text.length;
      parts.push(text.slice(id === from.id ? from.offset : 0, end));
    }
    return parts.join("\n");
  }

  _changed() {
    const range = this._range();
    const pins = [];
    if (range) {
      for (const node of [range.startContainer, range.endContainer]) {
        const row = this._rowOf(node);
        if (row) pins.push(row.rowId);
      }
    }
    if (String(pins) === String(this.pins)) return;
    this.pins = pins;
    this._onChange();
  }

  /** The selection as a range within this tree; null for none. */
  _range() {
    const root = this._rows.getRootNode();
    const selection = root.getSelection?.() ?? getSelection();
    const composed = root instanceof ShadowRoot && selection.getComposedRanges?.({shadowRoots: [root]})[0];
    const range = composed || (selection.rangeCount ? selection.getRangeAt(0) : null);
    if (!range || (range.startContainer === range.endContainer && range.startOffset === range.endOffset)) return null;
    return range;
  }

  _rowOf(node) {
    const element = node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
    const row = element?.closest(".row");
    return row && this._rows.contains(row) ? row : null;
  }

  /** `{id, offset}` of a place in the document: the row, and how many characters before it. */
  _place(node, offset) {
    const row = this._rowOf(node);
    if (!row) return null;
    const text = row.querySelector(".text");
    const before = document.createRange();
    before.selectNodeContents(text);
    const side = before.comparePoint(node, offset);
    if (side < 0) return {id: row.rowId, offset: 0};
    if (side === 0) before.setEnd(node, offset);
    return {id: row.rowId, offset: before.toString().length};
  }
}

/** Whether a range is in one element that a selector names. */
function within({startContainer, endContainer}, selector) {
  const [first, last] = [startContainer, endContainer].map((node) => {
    return (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement)?.closest(selector);
  });
  return Boolean(first) && first === last;
}
