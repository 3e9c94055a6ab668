/* program_log.js: the lines of a program in its log on the server's disk. Must not know the page. */

export const MOST_LINES = 10000; // in one answer of the server

/** Return `{source, lines}` as the server answers; throws what it says where it refuses. */
export async function readProgramLog(program, parameters) {
  const query = new URLSearchParams(parameters);
  const response = await fetch(`api/processes/${encodeURIComponent(program)}/log?${query}`);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** Return the message that such a line was. */
export function messageOf({line, text, stream, time}) {
  return {type: "process_output", line, data: text, stream, time};
}
