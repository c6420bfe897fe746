// Replicate's API at this page's own server.

async function json(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail || `${response.status} ${response.statusText}`);
  return answer;
}

export const schema = () => json("/openapi.json");
export const health = () => json("/health-check");
export const list = async () => (await json("/v1/predictions")).results;
export const cancel = (id) => json(`/v1/predictions/${id}/cancel`, { method: "POST" });

export const create = (input) =>
  json("/v1/predictions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ input }),
  });

// Upload once, however many takes are made of it.
export async function upload(blob, name) {
  const form = new FormData();
  form.append("content", blob, name);
  return (await json("/v1/files", { method: "POST", body: form })).urls.get;
}

// The prediction once it has ended; `onState` gets it each time that it was asked for.
export async function follow(prediction, onState) {
  while (!["succeeded", "failed", "canceled"].includes(prediction.status)) {
    onState(prediction);
    await new Promise((resolve) => setTimeout(resolve, 400));
    prediction = await json(`/v1/predictions/${prediction.id}`);
  }
  onState(prediction);
  return prediction;
}

// A share from 0 to 1 by the last progress line of the logs, with its unit, if there is one.
export function progressOf(logs) {
  const lines = [...(logs || "").matchAll(/^\s*(\d+)%\s*\|.*?\|\s*(\d+)\/(\d+).*?([\d.]+)(\w+)\/s/gm)];
  const last = lines.at(-1);
  return last && { share: last[2] / last[3], done: last[2], total: last[3], unit: last[5] };
}

// {field, sentence} of the server's error: "… InputError: duration: 0 is outside its range. …"
export function problemOf(message) {
  const refused = /InputError: ([\w.]+): (.*)/s.exec(message) || /^input\.(\w+): (.*)/s.exec(message);
  return refused ? { field: refused[1], sentence: refused[2] } : { field: "", sentence: message };
}
