/* log_style.js: how the lines of a log look, in a page or in a shadow tree.
 *
 * A constructed style sheet, which a content security policy without 'unsafe-inline' allows. The
 * theme is that of `color-scheme`; the sixteen colours of a terminal are chosen so that each can
 * be read (4.5:1) on the theme's ground.
 */

const STYLE = `
.log, .problems {
  --mono: ui-monospace, "SF Mono", SFMono-Regular, "Cascadia Mono", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif;
  --line: 19px;
  --ground: light-dark(#ffffff, #101216);
  --ink: light-dark(#1c2127, #d7dce2);
  --soft: light-dark(#59626d, #98a2ae);
  --faint: light-dark(#8a939e, #6a7480);
  --press: light-dark(#e9edf2, #262c34);
  --good: light-dark(#187a3d, #56d364);
  --bad: light-dark(#c4262e, #ff7b72);
  --warn: light-dark(#8a5d00, #e3b341);
  --hit: light-dark(#fff7d6, #2b2713);
  --hit-now: light-dark(#ffe48a, #5a4a10);
  --mark: light-dark(#ffd54d, #b98a00);
  --linked: light-dark(#e4edfc, #16263c);
  --c0: light-dark(#1f2328, #848d97);
  --c1: light-dark(#c4262e, #ff7b72);
  --c2: light-dark(#187a3d, #56d364);
  --c3: light-dark(#8a5d00, #e3b341);
  --c4: light-dark(#1a5fd0, #6cb0ff);
  --c5: light-dark(#9a35b5, #d2a8ff);
  --c6: light-dark(#0c6f82, #56d4dd);
  --c7: light-dark(#626b76, #c3cad2);
  --c8: light-dark(#59626d, #8b949e);
  --c9: light-dark(#cf222e, #ffa198);
  --c10: light-dark(#16793a, #7ee787);
  --c11: light-dark(#845c00, #f2cc60);
  --c12: light-dark(#1a66d9, #a5d6ff);
  --c13: light-dark(#a33bbf, #e2c5ff);
  --c14: light-dark(#0a7086, #96e6ee);
  --c15: light-dark(#24292f, #ffffff);
}

.log {
  --digits: 3ch;
  --gutter: calc(var(--digits) + 26px);
  overflow: auto;
  overflow-anchor: none;
  background: var(--ground);
  color: var(--ink);
  font: 12.5px/var(--line) var(--mono);
  font-variant-ligatures: none;
  tab-size: 8;
  overscroll-behavior: contain;
  scrollbar-color: var(--faint) transparent;
  text-align: start;
}

.log.times { --gutter: calc(12ch + 26px); }
.log, .log *, .log ::before { box-sizing: border-box; }

.lines { position: relative; min-width: 100%; overflow-y: clip; }
.rows { position: absolute; width: max-content; min-width: 100%; }
.wrap .rows { width: 100%; }
.probe { position: absolute; width: 100%; padding: 0 14px 0 var(--gutter); visibility: hidden; overflow: hidden; }
.strip { position: sticky; inset: 0 0 auto; height: 0; z-index: 1; color: var(--c1); }
.strip[hidden] { display: none; }
.strip canvas { position: absolute; inset: 0 0 auto auto; pointer-events: none; }

.row {
  position: relative;
  min-height: var(--line);
  padding: 0 14px 0 var(--gutter);
  white-space: pre;
}

.wrap .row { white-space: pre-wrap; overflow-wrap: anywhere; }

.status-row {
  position: sticky;
  inset-block-end: 0;
  padding: 2px 14px 2px var(--gutter);
  border-block-start: 1px solid var(--faint);
  background: var(--ground);
  white-space: pre;
}

.status-row[hidden] { display: none; }

/* Where a selection begins or ends: in the document, but out of view. */
.pinned { position: absolute; inset: 0 auto auto; height: 0; min-height: 0; overflow: hidden; opacity: 0; }

.text { display: inline; }

/* In CSS, not in the text: neither copied nor found. */
.gutter {
  position: sticky;
  left: 0;
  display: inline-block;
  width: calc(var(--gutter) - 12px);
  margin-left: calc(-1 * var(--gutter));
  margin-right: 12px;
  padding-right: 6px;
  background: var(--ground);
  color: var(--faint);
  text-align: right;
  text-decoration: none;
  user-select: none;
}

.gutter::before { content: attr(data-n); }
.gutter[href]:hover::before { text-decoration: underline; }

/* Not in the line where lines wrap, or a long word would begin below its number. */
.wrap .gutter { position: absolute; margin-left: 0; }

.times .gutter::before { content: attr(data-t); }
.row:hover { background: color-mix(in srgb, var(--press) 45%, transparent); }
.row:hover .gutter { color: var(--soft); }

.stderr .gutter { padding-right: 4px; border-right: 2px solid color-mix(in srgb, var(--bad) 70%, var(--ground)); }
.wrap .stderr .gutter { height: 100%; }

/* For those who hear the page; neither copied nor found. */
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; user-select: none; }

.note { color: var(--soft); font-family: var(--sans); font-size: 12px; }
.note .gutter::before { content: "" !important; }
.note .text > span::before { content: "— "; }
.note .text > span::after { content: " —"; }
.note .ok { color: var(--good); font-weight: 600; }
.note .failed { color: var(--bad); font-weight: 600; }
.note .gap { color: var(--warn); }
.load { margin: 0 6px; padding: 0 8px; border: 1px solid currentColor; border-radius: 4px; background: none; color: var(--c4); font: inherit; line-height: 16px; cursor: pointer; }
.load:disabled { cursor: default; }

.hit, .hit:hover { background: var(--hit); }
.hit .gutter { background: linear-gradient(to right, var(--mark) 3px, var(--hit) 3px); }
.current, .current:hover { background: var(--hit-now); }
.current .gutter { background: linear-gradient(to right, var(--bad) 3px, var(--hit-now) 3px); color: var(--ink); }
.linked, .linked:hover { background: var(--linked); }
.linked .gutter { background: linear-gradient(to right, var(--c4) 3px, var(--linked) 3px); color: var(--ink); }
::highlight(found) { background-color: var(--mark); color: #14161a; }

.says-warning .gutter { color: var(--warn); }
.says-error .gutter { color: var(--bad); }
/* Groups: in the gap between a line's number and its text. */
.fold, .unfold {
  position: relative;
  width: 12px;
  height: var(--line);
  margin: 0 0 0 -12px;
  padding: 0;
  border: 0;
  background: none;
  color: var(--soft);
  font: inherit;
  text-align: center;
  vertical-align: bottom;
  cursor: pointer;
  user-select: none;
}

.fold::before, .unfold::before { content: "\\25BE"; }
.fold[aria-expanded="false"]::before, .unfold[aria-expanded="false"]::before { content: "\\25B8"; }
.fold::after, .unfold::after { content: ""; position: absolute; inset: 0 -4px; } /* what can be pressed is larger */
.fold:hover, .unfold:hover { color: var(--ink); }
.fold:focus-visible, .unfold:focus-visible { outline: 2px solid var(--c4); outline-offset: -1px; }
@media (pointer: coarse) { .fold::after, .unfold::after { inset: -6px -14px; } }
.group .text { font-weight: 600; }
.group.muted .text { font-weight: 400; color: var(--soft); }
.group.failed .fold { color: var(--bad); }
.folded { color: var(--soft); font: 11px/1 var(--sans); user-select: none; }
.folded:not(:empty)::before { content: "\\A0\\A0"; }

/* The fields of a JSON line, below it; the line itself is in one row then. */
.unfolded { padding-block-end: 6px; } /* a margin would not be of the row's height */
.unfolded .text { display: inline-block; max-width: calc(100% - 4px); overflow: hidden; white-space: pre; text-overflow: ellipsis; vertical-align: top; color: var(--soft); }
.fields {
  width: fit-content;
  max-width: min(100%, 110ch);
  margin: 2px 0 0;
  padding: 3px 12px;
  border-inline-start: 2px solid var(--c4);
  white-space: pre-wrap;
  overflow-wrap: anywhere;
}

.field { --indent: calc(2ch * var(--depth)); padding-inline-start: calc(var(--indent) + 2ch); text-indent: -2ch; }
.field .key, .field .value { unicode-bidi: isolate; } /* or a key from right to left changes places */
.field .key { color: var(--c4); }
.field .item, .field .rest, .fields > .rest { color: var(--soft); }
.field .number { color: var(--c5); }
.field .word { color: var(--c6); }
.fields .load { text-indent: 0; }

/* Lines that are commands to a CI system, and links. */
.command { color: var(--faint); font-weight: 400; }
.told-error { color: var(--bad); }
.told-warning { color: var(--warn); }
.told-notice { color: var(--c4); }
.told-debug { color: var(--soft); }
a.out { color: inherit; text-decoration: underline; text-decoration-thickness: from-font; text-underline-offset: 2px; }
a.out:hover { color: var(--c4); }
a.out:focus-visible { outline: 2px solid var(--c4); }

/* The list of errors and warnings. */
.problems {
  flex: none;
  background: var(--ground);
  color: var(--ink);
  border-block-end: 1px solid var(--press);
  font: 12px/1.5 var(--sans);
}

.problems[hidden], .problems p:empty { display: none; }
.problems summary { padding: 4px 14px; cursor: pointer; }
.problems summary:focus-visible, .problems button:focus-visible { outline: 2px solid var(--c4); outline-offset: -2px; }
.problems summary .level + .level { margin-inline-start: 12px; }
.problems ol { max-block-size: 30vh; margin: 0; padding: 0 0 6px; overflow: auto; list-style: none; overscroll-behavior: contain; }
.problems li { display: flex; align-items: baseline; gap: 10px; padding: 0 14px; }
.problems li:hover { background: var(--press); }
.problems li button {
  flex: 1;
  min-width: 0;
  padding: 2px 0;
  border: 0;
  background: none;
  color: inherit;
  font: inherit;
  text-align: start;
  overflow-wrap: anywhere;
  cursor: pointer;
}

.problems .place { font: 11.5px/1.5 var(--mono); color: var(--soft); overflow-wrap: anywhere; }
.problems p { margin: 0; padding: 0 14px 6px; color: var(--soft); }
.level { font-weight: 600; }
.level.error { color: var(--bad); }
.level.warning { color: var(--warn); }
.level.notice { color: var(--c4); }
@media (max-width: 720px) {
  .problems li { flex-direction: column; gap: 0; }
  .problems li button { padding: 6px 0 2px; }
  .problems summary { padding: 8px 14px; }
}

.cut { color: var(--warn); font-style: italic; }
.when { color: var(--faint); }
.type { color: var(--c4); font-weight: 600; }
.type.bad { color: var(--bad); }
.type.warn { color: var(--warn); }
.json { color: var(--ink); }

.bold { font-weight: 700; }
.dim { opacity: 0.72; }
.italic { font-style: italic; }
.underline { text-decoration: underline; }
.strike { text-decoration: line-through; }
.underline.strike { text-decoration: underline line-through; }
.hidden { visibility: hidden; }

/* The colour of text: the theme's. */
.fg-0 { color: var(--c0); } .fg-1 { color: var(--c1); } .fg-2 { color: var(--c2); } .fg-3 { color: var(--c3); }
.fg-4 { color: var(--c4); } .fg-5 { color: var(--c5); } .fg-6 { color: var(--c6); } .fg-7 { color: var(--c7); }
.fg-8 { color: var(--c8); } .fg-9 { color: var(--c9); } .fg-10 { color: var(--c10); } .fg-11 { color: var(--c11); }
.fg-12 { color: var(--c12); } .fg-13 { color: var(--c13); } .fg-14 { color: var(--c14); } .fg-15 { color: var(--c15); }
.fg-ground { color: var(--ground); } .fg-ink { color: var(--ink); }

/* Inverse: the same colours as ground. */
.inv-0 { background: var(--c0); } .inv-1 { background: var(--c1); } .inv-2 { background: var(--c2); } .inv-3 { background: var(--c3); }
.inv-4 { background: var(--c4); } .inv-5 { background: var(--c5); } .inv-6 { background: var(--c6); } .inv-7 { background: var(--c7); }
.inv-8 { background: var(--c8); } .inv-9 { background: var(--c9); } .inv-10 { background: var(--c10); } .inv-11 { background: var(--c11); }
.inv-12 { background: var(--c12); } .inv-13 { background: var(--c13); } .inv-14 { background: var(--c14); } .inv-15 { background: var(--c15); }
.inv-ink { background: var(--ink); } .inv-ground { background: var(--ground); }

/* A ground that the program chose: a terminal's colours, in both themes, and text to match. */
.bg-0 { background: #16181c; color: #fff; } .bg-1 { background: #d0343b; color: #fff; } .bg-2 { background: #298a46; color: #fff; }
.bg-3 { background: #d7a500; color: #14161a; } .bg-4 { background: #1f5fd0; color: #fff; } .bg-5 { background: #9a35b5; color: #fff; }
.bg-6 { background: #0c7285; color: #fff; } .bg-7 { background: #d0d4d9; color: #14161a; } .bg-8 { background: #59626d; color: #fff; }
.bg-9 { background: #f0635e; color: #14161a; } .bg-10 { background: #4cc266; color: #14161a; } .bg-11 { background: #f7d64a; color: #14161a; }
.bg-12 { background: #5a9bff; color: #14161a; } .bg-13 { background: #d783e8; color: #14161a; } .bg-14 { background: #4fd3e0; color: #14161a; }
.bg-15 { background: #ffffff; color: #14161a; }
.raw-0 { color: #000; } .raw-1 { color: #c4262e; } .raw-2 { color: #22753a; } .raw-3 { color: #d7a500; }
.raw-4 { color: #1f5fd0; } .raw-5 { color: #9a35b5; } .raw-6 { color: #0c7285; } .raw-7 { color: #d0d4d9; }
.raw-8 { color: #59626d; } .raw-9 { color: #f0635e; } .raw-10 { color: #4cc266; } .raw-11 { color: #f7d64a; }
.raw-12 { color: #5a9bff; } .raw-13 { color: #d783e8; } .raw-14 { color: #4fd3e0; } .raw-15 { color: #fff; }
`;

const logStyle = new CSSStyleSheet(); // of every log of this page
logStyle.replaceSync(STYLE);

/** Have the page or the shadow tree that an element is in style its logs; nothing for one in neither. */
export function addLogStyle(element) {
  const {adoptedStyleSheets: sheets} = element.getRootNode();
  if (sheets && !sheets.includes(logStyle)) sheets.push(logStyle);
}
