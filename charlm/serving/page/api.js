// The server's API: requests, and the pieces of a streamed answer.

let key = sessionStorage.getItem("charlm-key");

export function useKey(value) {
  key = value;
  sessionStorage.setItem("charlm-key", value);
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (options.body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached. Is it still running?");
  }
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: { message: answer.statusText } }));
    throw new ApiError(answer.status, error.message);
  }
  return answer;
}

// A model's name as part of a path. It may hold a slash.
export const pathOf = (name) => encodeURIComponent(name).replaceAll("%2F", "/");

export async function get(path) {
  return (await request(path)).json();
}

export async function post(path, fields, signal) {
  return (await request(path, { method: "POST", body: JSON.stringify(fields), signal })).json();
}

// The choices of a completion, piece by piece.
export async function* stream(fields, signal) {
  const body = JSON.stringify({ ...fields, stream: true });
  const answer = await request("v1/completions", { method: "POST", body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const values = JSON.parse(data);
      if (values.error) throw new ApiError(500, values.error.message);
      yield* values.choices;
    }
  }
}
