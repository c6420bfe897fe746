// The takes: each a prediction, its progress, then its player.

import * as api from "./api.js";
import * as fields from "./fields.js";
import * as sound from "./sound.js";

const running = new Map(); // id → a function that stops it
const list = document.querySelector("#takes-list");
const stopButton = document.querySelector("#stop");

export const stopAll = () => running.forEach((stop) => stop());

function setRunning(id, stop) {
  if (stop) running.set(id, stop);
  else running.delete(id);
  stopButton.hidden = running.size === 0;
}

function describe({ duration, seed, input_audio, continuation }) {
  const how = input_audio ? (continuation ? ", continues a sound" : ", follows a melody") : "";
  return `${duration ?? 8} s, seed ${seed}${how}`;
}

// Save a blob as a file with a readable name.
function save(blob, input, ending) {
  const words = (input.prompt || "music").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  const link = Object.assign(document.createElement("a"), { download: `${words || "music"}-${input.seed}.${ending}` });
  link.href = URL.createObjectURL(blob);
  link.click();
}

async function showResult(element, prediction, { again, onward }) {
  const find = (selector) => element.querySelector(selector);
  const { input } = prediction;
  const blob = await (await fetch(prediction.output)).blob();
  const [format, player] = [input.output_format || "wav", find("audio")];
  player.src = URL.createObjectURL(blob);
  find(".result").hidden = false;
  const buffer = await sound.decode(blob);
  const redraw = () => sound.drawWave(find(".wave"), buffer, { at: player.currentTime });
  redraw();
  sound.drawSpectrogram(find(".spectrogram"), buffer);
  player.ontimeupdate = redraw;
  find(".wave").onclick = ({ offsetX, target }) => {
    player.currentTime = (offsetX / target.clientWidth) * buffer.duration;
    player.play();
  };
  find(".again").onclick = () => again(input);
  find(".onward").onclick = () => onward(blob, input, player.currentTime || buffer.duration);
  for (const ending of ["wav", "mp3"]) {
    // In the other format the same seed makes the same music again.
    find(`.${ending}`).onclick = async ({ target }) => {
      if (ending === format) return save(blob, input, ending);
      target.disabled = true;
      try {
        const made = await api.follow(await api.create({ ...input, output_format: ending }), () => {});
        if (made.status !== "succeeded") throw new Error(made.error || made.status);
        save(await (await fetch(made.output)).blob(), input, ending);
      } catch (error) {
        find(".state").textContent = api.problemOf(error.message).sentence;
      }
      target.disabled = false;
    };
  }
}

// Show a prediction from its start to its end, above all others; the errors of one made earlier are no news.
export async function addTake(prediction, actions) {
  const element = document.querySelector("#take").content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  const { id, input } = prediction;
  find(".title").textContent = input.prompt || (input.input_audio ? "from a sound" : "no prompt");
  find(".about").textContent = describe(input);
  find(".cancel").onclick = () => api.cancel(id);
  list.prepend(element);
  setRunning(id, () => api.cancel(id));
  const isNews = !prediction.completed_at;
  try {
    const ended = await api.follow(prediction, (state) => {
      const progress = api.progressOf(state.logs);
      find("progress").value = progress?.share ?? 0;
      find(".state").textContent = progress
        ? `${progress.done} of ${progress.total} ${progress.unit === "pass" ? "passes of diffusion" : "frames"}`
        : state.status === "starting" ? "waits for a free slot" : "begins";
    });
    find(".state").textContent = { succeeded: "", canceled: "stopped" }[ended.status] ?? ended.error;
    if (ended.status === "failed") {
      const problem = api.problemOf(ended.error);
      find(".state").textContent = problem.sentence;
      find(".state").classList.add("failed");
      if (isNews) fields.showError(problem);
    }
    element.dataset.status = ended.status;
    find("progress").hidden = find(".cancel").hidden = true;
    if (ended.status === "succeeded") await showResult(element, ended, actions);
  } catch (error) {
    find(".state").textContent = `This take is lost: ${error.message}`;
    find(".state").classList.add("failed");
  } finally {
    setRunning(id, null);
  }
}
