// The page: a form, the sound to start from, and the takes.

import * as api from "./api.js";
import * as fields from "./fields.js";
import * as sound from "./sound.js";
import { addTake, stopAll } from "./takes.js";

const $ = (selector) => document.querySelector(selector);
// Prompts with seeds that please, of the embedded checkpoint.
const EXAMPLES = {
  "bright electro with drums, bass and arp, 120 BPM in A minor": 3,
  "aggressive techno with kick, hats, bass and arp, 140 BPM in E minor": 7,
  "bright synthwave with kick, snare, arp and pad, 110 BPM in C major": 5,
  "dark electro with kick, hats and bass, 120 BPM in A minor": 5,
};

// The sound to start from: {blob, name, buffer, start, end, url}; url once it is uploaded.
let source = null;

function showSource() {
  const { buffer, start, end } = source;
  sound.drawWave($("#source-wave"), buffer, { start, end });
  sound.drawEdges($("#source-wave"), buffer, { start, end });
  fields.set("continuation_start", start);
  fields.set("continuation_end", end < buffer.duration ? end : "");
}

export async function useSource(blob, name, window = {}) {
  fields.clearErrors();
  let buffer;
  try {
    buffer = await sound.decode(blob);
  } catch {
    return fields.showError({ field: "input_audio", sentence: `${name} is not audio that this browser can play.` });
  }
  source = { blob, name, buffer, start: 0, end: buffer.duration, ...window };
  $("#source-name").textContent = `${name}, ${buffer.duration.toFixed(1)} s`;
  $("#source-player").src = URL.createObjectURL(blob);
  $("#loaded").hidden = false;
  $("#drop").hidden = true;
  showSource();
}

function removeSource() {
  source = null;
  $("#loaded").hidden = true;
  $("#drop").hidden = false;
  $("#file").value = "";
  fields.set("continuation_start", 0);
  fields.set("continuation_end", "");
}

// Drag the edge of the window that is nearer; whole seconds, as the inputs are.
function dragWindow(event) {
  if (!source || !(event.buttons & 1)) return;
  const box = event.currentTarget.getBoundingClientRect();
  const at = Math.round(((event.clientX - box.left) / box.width) * source.buffer.duration);
  const isStart = Math.abs(at - source.start) < Math.abs(at - source.end);
  if (isStart) source.start = Math.max(0, Math.min(at, Math.ceil(source.end) - 1));
  else source.end = Math.min(source.buffer.duration, Math.max(at, source.start + 1));
  showSource();
}

async function submit(event) {
  event.preventDefault();
  fields.clearErrors();
  const problem = fields.firstProblem();
  if (problem) return fields.showError(problem);
  const input = fields.inputs();
  try {
    if (source) {
      source.url ??= await api.upload(source.blob, source.name);
      input.input_audio = source.url;
      input.continuation = $("[name=mode]:checked").value === "continue";
    } else {
      delete input.continuation_start;
      delete input.continuation_end;
    }
    const n = Number($("#takes").value) || 1;
    const first = input.seed ?? Math.floor(Math.random() * 2 ** 31);
    const seeds = Array.from({ length: n }, (_, i) => (first + i) % 2 ** 32);
    const made = await Promise.all(seeds.map((seed) => api.create({ ...input, seed })));
    for (const prediction of made) addTake(prediction, { again, onward });
  } catch (error) {
    fields.showError(api.problemOf(error.message));
  }
}

// Fill the form with a take's inputs.
function again(input) {
  for (const [name, value] of Object.entries(input)) if (name !== "input_audio") fields.set(name, value);
  if (input.input_audio === undefined) removeSource();
  $("#takes").value = 1;
  $("#prompt").focus();
}

// Make a take the sound to start from, up to a second of it, with as much again to come.
async function onward(blob, input, at) {
  const end = Math.max(1, Math.round(at));
  await useSource(blob, `take ${input.seed}.${input.output_format || "wav"}`, { start: 0, end });
  $("[name=mode][value=continue]").checked = true;
  fields.set("prompt", input.prompt);
  fields.set("duration", end + 8);
  fields.set("seed", "");
  $("#prompt").focus();
}

async function toggleRecording() {
  const button = $("#record");
  if (button.recorder) {
    const blob = await button.recorder.stop();
    button.recorder = null;
    button.textContent = "record";
    button.classList.remove("on");
    return useSource(blob, "recording.webm");
  }
  try {
    button.recorder = await sound.record();
    button.textContent = "stop recording";
    button.classList.add("on");
  } catch {
    fields.showError({ field: "input_audio", sentence: "This browser allows no recording here." });
  }
}

async function watchServer() {
  for (;;) {
    const { status } = await api.health().catch(() => ({}));
    $("#server").textContent = { READY: "ready", BUSY: "busy: new takes wait", STARTING: "the model is loading …" }[status]
      || (status ? `the server reports ${status}` : "the server does not answer");
    await new Promise((resolve) => setTimeout(resolve, status === "READY" ? 10000 : 1000));
  }
}

for (const [prompt, seed] of Object.entries(EXAMPLES)) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: prompt });
  button.onclick = () => {
    fields.set("prompt", prompt);
    fields.set("seed", seed);
  };
  $("#examples").append(button);
}
$("#form").addEventListener("submit", submit);
$("#choose").onclick = () => $("#file").click();
$("#file").onchange = ({ target }) => target.files[0] && useSource(target.files[0], target.files[0].name);
$("#remove").onclick = removeSource;
$("#record").onclick = toggleRecording;
$("#stop").onclick = stopAll;
for (const kind of ["pointerdown", "pointermove"]) $("#source-wave").addEventListener(kind, dragWindow);
$("#source-wave").addEventListener("pointerdown", (event) => event.target.setPointerCapture(event.pointerId));
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("#source").addEventListener(kind, (event) => {
    event.preventDefault();
    $("#drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) useSource(file, file.name);
  });
}
for (const name of ["continuation_start", "continuation_end"]) {
  $("#form").addEventListener("change", ({ target }) => {
    if (target.name !== name || !source) return;
    const value = target.value === "" ? source.buffer.duration : Number(target.value);
    source[name === "continuation_start" ? "start" : "end"] = value;
    sound.drawWave($("#source-wave"), source.buffer, source);
    sound.drawEdges($("#source-wave"), source.buffer, source);
  });
}
watchServer();
fields.build(await api.schema());
for (const prediction of (await api.list()).slice(0, 12).reverse()) addTake(prediction, { again, onward });
document.body.dataset.ready = "true";
