/**
 * Types of ws_hub_log.js: `<ws-hub-log channel="process:build-42">`, and lines from output.
 * In a folder one level below ws_hub.js, as the file itself.
 */

import type {HubClient} from "../ws_hub.js";

/**
 * Attributes: `channel`; `url` of the hub (by default as `HubClient.fromPage`); `lines` that are
 * kept (5000); `times` ("clock", "elapsed", "delta"), `numbers`, `nowrap`; `problems`, a list of errors
 * and warnings; `groups`: "folded" or "open", by default as the program marks them; `source-url` and
 * `source-root`: where places in files lead to, "https://github.com/o/r/blob/main/{file}#L{line}".
 * Event "status": what a `process_status` says, as `detail`. Parts: `log`, `state`, `more`,
 * `problems`.
 */
export class WsHubLog extends HTMLElement {
  /** A client of the page, with a token say, in place of one that all logs of the page share. */
  client: HubClient | null;
  /** The attribute: "" where there is none, which the element says. */
  channel: string;
}

export interface Style {
  /** null, a number from 0 to 255, or "#rrggbb". */
  fg: number | string | null;
  bg: number | string | null;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  inverse: boolean;
  hidden: boolean;
  strike: boolean;
  /** An address with http, https or mailto that the text is a link to (OSC 8); null for none. */
  link: string | null;
}

export interface Run {
  text: string;
  /** null where nothing is set. */
  style: Style | null;
}

/** What a program writes to a terminal, as runs of styled text. A sequence may come in parts. */
export class AnsiParser {
  parse(input: string): Run[];
}

export interface Line {
  runs: Run[];
  /** Sections of GitLab's that begin or end with the line: "section_start:1764331200:build". */
  marks: string[];
  /** Characters too many for a line, left out. */
  cut: number;
  done: boolean;
  /** It stands in the place of the line before it, which was not `done`. */
  replaces: boolean;
}

/** Puts lines together from what `process_output` messages carry. */
export class LineAssembler {
  /** @param maxLine characters of a line that are kept (20000). */
  constructor(maxLine?: number);
  feed(data: string): Line[];
  /** End a line that is open: what follows begins a new one. */
  finish(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "ws-hub-log": WsHubLog;
  }
}
