// Waveforms, spectrograms and recordings. Knows nothing of predictions.

let context;
export const decode = async (blob) => {
  context ??= new AudioContext();
  return context.decodeAudioData(await blob.arrayBuffer());
};

function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const height = Number(canvas.getAttribute("data-height") || canvas.height);
  canvas.setAttribute("data-height", height);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  return canvas.getContext("2d");
}

// Peaks of the first channel; outside of the window [start, end] in seconds, faint. `at` is the playhead.
export function drawWave(canvas, buffer, { start = 0, end = buffer.duration, at = null } = {}) {
  const draw = fit(canvas);
  const { width, height } = canvas;
  const samples = buffer.getChannelData(0);
  const style = getComputedStyle(document.documentElement);
  const [accent, line] = ["--accent", "--line"].map((name) => style.getPropertyValue(name));
  for (let x = 0; x < width; x++) {
    const [from, to] = [x, x + 1].map((column) => Math.floor((column / width) * samples.length));
    let peak = 0;
    for (let i = from; i < to; i += 1 + ((to - from) >> 8)) peak = Math.max(peak, Math.abs(samples[i]));
    const seconds = (x / width) * buffer.duration;
    draw.fillStyle = seconds >= start && seconds <= end ? accent : line;
    const bar = Math.max(1, peak * height * 0.95);
    draw.fillRect(x, (height - bar) / 2, 1, bar);
  }
  draw.fillStyle = style.getPropertyValue("--text");
  if (at !== null) draw.fillRect((at / buffer.duration) * width, 0, 2, height);
}

// The edges of a window, for dragging.
export function drawEdges(canvas, buffer, { start, end }) {
  const draw = canvas.getContext("2d");
  draw.fillStyle = "#fff";
  for (const edge of [start, end]) {
    const x = Math.min(canvas.width - 3, (edge / buffer.duration) * canvas.width);
    draw.fillRect(x, 0, 3, canvas.height);
  }
}

// In place, of real and imaginary parts whose length is a power of two.
function transform(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j], imaginary[i], imaginary[j]] = [real[j], real[i], imaginary[j], imaginary[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [cos, sin] = [Math.cos((-2 * Math.PI * k) / size), Math.sin((-2 * Math.PI * k) / size)];
      for (let a = k; a < n; a += size) {
        const b = a + size / 2;
        const [re, im] = [real[b] * cos - imaginary[b] * sin, real[b] * sin + imaginary[b] * cos];
        [real[b], imaginary[b]] = [real[a] - re, imaginary[a] - im];
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
}

// Decibels over time, low frequencies at the bottom, on a logarithmic scale from 60 Hz.
export function drawSpectrogram(canvas, buffer) {
  const draw = fit(canvas);
  const { width, height } = canvas;
  const [samples, n] = [buffer.getChannelData(0), 1024];
  const image = draw.createImageData(width, height);
  const rows = Array.from({ length: height }, (_, y) => {
    const hertz = 60 * (buffer.sampleRate / 2 / 60) ** (1 - y / height);
    return Math.min(n / 2 - 1, Math.round((hertz / buffer.sampleRate) * n));
  });
  for (let x = 0; x < width; x++) {
    const first = Math.floor((x / width) * Math.max(0, samples.length - n));
    const [real, imaginary] = [new Float32Array(n), new Float32Array(n)];
    for (let i = 0; i < n; i++) real[i] = (samples[first + i] || 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n));
    transform(real, imaginary);
    for (let y = 0; y < height; y++) {
      const decibels = 20 * Math.log10(Math.hypot(real[rows[y]], imaginary[rows[y]]) + 1e-6);
      const level = Math.min(1, Math.max(0, (decibels + 50) / 90));
      const pixel = 4 * (y * width + x);
      image.data.set([255 * Math.min(1, 1.6 * level), 220 * level ** 1.6, 150 * level ** 3 + 30, 255], pixel);
    }
  }
  draw.putImageData(image, 0, 0);
}

// A recorder whose `stop` gives what the microphone heard.
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.start();
  return {
    stop: () =>
      new Promise((resolve) => {
        recorder.onstop = () => {
          stream.getTracks().forEach((track) => track.stop());
          resolve(new Blob(parts, { type: recorder.mimeType }));
        };
        recorder.stop();
      }),
  };
}
