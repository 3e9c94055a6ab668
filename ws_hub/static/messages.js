/* messages.js: what stands on the page for a message that is not a program's output.
 *
 * Must not know the page or the connection: messages in, lines of runs out (see log.js).
 */

import {AnsiParser} from "./ansi.js";
import {clockText, microseconds} from "./times.js";

const MAX_JSON = 20000;

/** Return "4.2 s", "1 min 12 s", "2 h 5 min". */
export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return "12 kB", "1.5 MB", "340 MB". */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(bytes, 1)) / 3)));
  const value = bytes / 1000 ** step;
  return `${step > 1 && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

/** Return "1.2 s CPU · 40 MB" of what a program uses or has used; "" for nothing known. */
export function usageText(usage) {
  const {cpuSeconds, memoryBytes, peakBytes} = usage ?? {};
  const parts = [
    Number.isFinite(cpuSeconds) && `${duration(cpuSeconds * 1000)} CPU`,
    Number.isFinite(memoryBytes) ? size(memoryBytes) : Number.isFinite(peakBytes) && `${size(peakBytes)} at most`,
  ];
  return parts.filter(Boolean).join(" · ");
}

/** Return "1 line", "1,234 lines". */
export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Return "812 bytes", "1.2 kB", "206 MB". */
export function sizeText(bytes) {
  if (bytes < 1000) return counted(bytes, "byte");
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), 4);
  const value = bytes / 1000 ** power;
  return `${value < 10 ? Math.floor(value * 10) / 10 : Math.floor(value)} ${["kB", "MB", "GB", "TB"][power - 1]}`;
}

const LIMITS = {timeout: " at its timeout", idle_timeout: " after its idle timeout"};

/**
 * Return `{state, text, detail}` of a `process_status`: state is "running", "ok", "failed",
 * "unknown" (it is over, and nobody knows how) or "other", text what a reader calls it. The
 * status decides: a Go hub sends an `exitCode` with each.
 */
export function describeStatus(data) {
  const {status, exitCode, signal, error, reason} = data !== null && typeof data === "object" ? data : {};
  const detail = String(error ?? "");
  if (status === "failed" || status === "lost") {
    return {state: "failed", text: exitCode ? `${status} ${exitCode}` : status, detail};
  }
  if (status === "exited") {
    const limit = LIMITS[reason] ?? "";
    if (signal) return {state: "failed", text: `killed by ${signal}${limit}`, detail: ""};
    if (typeof exitCode !== "number") return {state: "unknown", text: "exited, code unknown", detail};
    const text = exitCode < 0 ? `killed by signal ${-exitCode}` : `exited ${exitCode}${limit}`;
    return {state: exitCode === 0 ? "ok" : "failed", text, detail: ""};
  }
  if (status === "running") return {state: "running", text: "running", detail: ""};
  return {state: "other", text: typeof status === "string" ? status : "unknown", detail: ""};
}

const named = (text, name) => ({text, style: {name}});

/** Return the lines for an event, an error, or an application's own message: time, type, what. */
export function describeMessage(message) {
  const {type, data} = message;
  const time = microseconds(message.timestamp);
  const clock = clockText(time);
  const event = data !== null && typeof data === "object" ? data : {};
  const head = clock ? [named(clock, "when"), named(" ", "when")] : [];
  if (type === "event" && event.event === "log" && typeof event.data?.message === "string") {
    return logRecord(head, time, event.data);
  }
  if (type === "event" && typeof event.event === "string") {
    const value = event.data === undefined || event.data === null ? "" : asJson(event.data);
    return [{kind: "event", time, runs: [...head, named(event.event, "type"), named(` ${value}`, "json")]}];
  }
  const value = data === undefined ? "" : asJson(data);
  return [{kind: "event", time, runs: [...head, named(String(type), `type ${type === "error" ? "bad" : ""}`.trim()), named(` ${value}`, "json")]}];
}

function logRecord(head, time, record) {
  const level = String(record.level ?? "INFO");
  const bad = /^(ERROR|CRITICAL|FATAL)$/.test(level) ? "bad" : /^WARN/.test(level) ? "warn" : "";
  const lines = [record.message, record.exception, record.stack].filter((each) => typeof each === "string").join("\n").split("\n");
  return lines.map((text, index) => ({
    kind: "event",
    time,
    runs: index
      ? new AnsiParser().parse(text)
      : [...head, named(level, `type ${bad}`.trim()), named(` ${record.name ?? ""} `, "when"), ...new AnsiParser().parse(text)],
  }));
}

function asJson(value) {
  const text = JSON.stringify(value);
  return text.length > MAX_JSON ? `${text.slice(0, MAX_JSON)} …` : text;
}
