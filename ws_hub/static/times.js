/* times.js: times as a log shows them. Must not know the page. */

const last = {timestamp: "", found: null}; // many lines have the same one

/** Return microseconds since 1970 of an RFC 3339 text; null for what is none. */
export function microseconds(timestamp) {
  if (timestamp !== last.timestamp) Object.assign(last, {timestamp, found: parsed(timestamp)});
  return last.found;
}

function parsed(timestamp) {
  const milliseconds = Date.parse(timestamp ?? "");
  if (Number.isNaN(milliseconds)) return null;
  const digits = /\.[0-9]{3}([0-9]{1,3})/.exec(timestamp); // those that a Date leaves out
  return milliseconds * 1000 + (digits ? Number(digits[1].padEnd(3, "0")) : 0);
}

/** Return when the server has read a line, or sent another message: microseconds; null for unknown. */
export function timeOf({time, timestamp}) {
  return Number.isSafeInteger(time) ? time : microseconds(timestamp);
}

/** Return a time in microseconds as "0:01:02.003". */
export function elapsedText(passed) {
  const [sign, thousandths] = [passed < 0 ? "-" : "", Math.abs(Math.round(passed / 1000))];
  const seconds = Math.floor(thousandths / 1000);
  const two = (value) => String(value % 60).padStart(2, "0");
  const clock = `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60))}:${two(seconds)}`;
  return `${sign}${clock}.${String(thousandths % 1000).padStart(3, "0")}`;
}

/** Return the time between two lines, in microseconds, as "+0.250". */
export function deltaText(passed) {
  const seconds = (Math.round(passed / 1000) / 1000).toFixed(3);
  return seconds.startsWith("-") && Number(seconds) ? seconds : `+${seconds.replace("-", "")}`;
}

/** Return the local clock time, "12:01:03.123"; "" for null. */
export function clockText(time) {
  if (time === null) return "";
  const moment = new Date(time / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const clock = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":");
  return `${clock}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}
