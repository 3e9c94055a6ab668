/* times.js: times as a log shows them. Must not know the page. */

/** Return microseconds since 1970 of an RFC 3339 text; null for what is none. */
export function microseconds(timestamp) {
  const milliseconds = Date.parse(timestamp ?? "");
  if (Number.isNaN(milliseconds)) return null;
  const digits = /\.[0-9]{3}([0-9]{1,3})/.exec(timestamp); // those that a Date leaves out
  return milliseconds * 1000 + (digits ? Number(digits[1].padEnd(3, "0")) : 0);
}

/** Return the local clock time, "12:01:03.123"; "" for null. */
export function clockText(time) {
  if (time === null) return "";
  const moment = new Date(time / 1000);
  const two = (value) => String(value).padStart(2, "0");
  const clock = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":");
  return `${clock}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}
