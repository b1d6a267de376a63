// Captions by this browser alone: onnxruntime runs the network, the search is here. No picture leaves the device.

import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain static server does not send
ort.env.logLevel = "error";

const read = async (name) => {
  const answer = await fetch(new URL(`./model/${name}`, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is missing here (status ${answer.status}): copy the whole folder.`);
  return answer;
};
const manifest = read("manifest.json").then((answer) => answer.json());
let loaded;

async function load() {
  const network = {};
  for (const part of ["encoder", "language", "merger"]) {
    network[part] = await ort.InferenceSession.create(await (await read(`${part}.onnx`)).arrayBuffer());
  }
  const { model: { vocab } } = await (await read("tokenizer.json")).json();
  const pieces = [];
  for (const [piece, id] of Object.entries(vocab)) pieces[id] = piece;
  return { ...await manifest, network, pieces };
}

function whole() {
  loaded ??= load().catch((error) => { loaded = undefined; throw error; });
  return loaded;
}

async function run(session, tensors) {
  const feeds = Object.fromEntries(session.inputNames.map((name, i) => [name, tensors[i]]));
  const found = await session.run(feeds);
  return session.outputNames.map((name) => found[name]);
}

const tensor = (type, data, shape) => new ort.Tensor(type, data, shape);

// What the network sees of a picture: its middle, resized as Pillow does.

async function prepare(blob, { size, resize, interpolation }) {
  let picture;
  try {
    picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("This is not a picture that this browser can read.");
  }
  const { width, height } = picture, context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height), pixels = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) pixels[j++] = data[i + c];
  const longer = Math.floor(resize * Math.max(width, height) / Math.min(width, height));
  const [newWidth, newHeight] = width <= height ? [resize, longer] : [longer, resize];
  if (width === size && height === size && newWidth === size && newHeight === size) return pixels;
  const across = width / newWidth, down = height / newHeight;
  const left = halfToEven((newWidth - size) / 2), top = halfToEven((newHeight - size) / 2);
  const columns = weights(width, size, left * across, Math.min((left + size) * across, width), interpolation);
  const rows = weights(height, size, top * down, Math.min((top + size) * down, height), interpolation);
  const narrow = new Uint8Array(size * height * 3), square = new Uint8Array(size * size * 3);
  for (let y = 0; y < height; y++) blend(pixels, y * width * 3, 3, narrow, y * size * 3, 3, columns);
  for (let x = 0; x < size; x++) blend(narrow, x * 3, size * 3, square, x * 3, size * 3, rows);
  return square;
}

function halfToEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, y = Math.abs(x);
    if (y < 1) return ((a + 2) * y - (a + 3)) * y * y + 1;
    return y < 2 ? (((y - 5) * y + 8) * y - 4) * a : 0;
  }],
};

// For each place of the result: the first place of the source that it blends, and how much of each from there on.
function weights(from, to, start, end, interpolation) {
  const [reach, filter] = FILTERS[interpolation], scale = (end - start) / to, wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = start + (place + 0.5) * scale, first = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach * wide + 0.5));
    const each = Array.from({ length: last - first }, (_, i) => filter((i + first - centre + 0.5) / wide));
    const sum = each.reduce((a, b) => a + b, 0);
    return [first, each.map((weight) => weight / sum)];
  });
}

function blend(source, at, step, target, to, stride, each) {
  for (const [place, [first, shares]] of each.entries()) {
    for (let c = 0; c < 3; c++) {
      let sum = 0.5;
      for (let i = 0; i < shares.length; i++) sum += shares[i] * source[at + (first + i) * step + c];
      target[to + place * stride + c] = Math.max(0, Math.min(255, Math.floor(sum)));
    }
  }
}

// The search, as transformers' `generate` has it, for one picture.

async function search(model, image, { beams, longest }) {
  const { network, start, end_id: end, search: { length_penalty: penalty, early_stopping, ...bans } } = model;
  const [layers, length, width] = model.cache, early = beams > 1 ? early_stopping : true;
  const repeated = image.map(({ data, dims: [, ...shape] }) => {
    const all = new Float32Array(data.length * beams);
    for (let beam = 0; beam < beams; beam++) all.set(data, beam * data.length);
    return tensor("float32", all, [beams, ...shape]);
  });
  let state = model.state.map((shape) => zeros([beams, ...shape]));
  let keys = zeros([layers, beams, length, width]), values = zeros([layers, beams, length, width]);

  async function step(tokens, position) {
    const place = tensor("int32", Int32Array.of(position), []);
    const fed = [tensor("int32", Int32Array.from(tokens), [beams]), place, keys, values];
    const [hidden, newKeys, newValues] = await run(network.language, fed);
    for (const [cache, fresh] of [[keys, newKeys], [values, newValues]]) {
      for (let row = 0; row < layers * beams; row++) {
        cache.data.set(fresh.data.subarray(row * width, (row + 1) * width), (row * length + position) * width);
      }
    }
    const [logits, ...after] = await run(network.merger, [hidden, place, ...repeated, ...state]);
    state = after;
    return logSoftmax(logits.data, beams);
  }

  let logProbs;
  for (const [position, token] of start.entries()) logProbs = await step(Array(beams).fill(token), position);
  let live = Array(beams).fill(start), totals = [0, ...Array(beams - 1).fill(-1e9)], finished = [];
  for (;;) {
    for (const [row, tokens] of live.entries()) {
      const banned = repeating(tokens, bans.no_repeat_ngram_size);
      if (tokens.length < bans.min_length) banned.push(end);
      for (const token of banned) logProbs[row * (logProbs.length / beams) + token] = -Infinity;
    }
    if (beams === 1) logProbs = logSoftmax(logProbs, 1);
    const vocabulary = logProbs.length / beams, best = largest(logProbs, totals, vocabulary, 2 * beams);
    const made = live[0].length + 1, generated = made - start.length;
    for (const each of best) {
      each.tokens = [...live[each.row], each.token];
      each.ends = each.token === end || made >= longest;
    }
    for (const { ends, tokens, total } of best.slice(0, beams)) {
      if (ends) finished.push({ tokens, score: total / generated ** penalty, log_prob: total });
    }
    finished = finished.sort((a, b) => b.score - a.score).slice(0, beams);
    const on = [...best.filter((each) => !each.ends), ...best.filter((each) => each.ends)].slice(0, beams);
    live = on.map((each) => each.tokens);
    totals = on.map((each) => each.total - (each.ends ? 1e9 : 0));
    const full = finished.length === beams, most = early === "never" && penalty > 0 ? longest - start.length : generated;
    const over = full && (early === true || totals[0] / most ** penalty <= finished.at(-1).score);
    if (over || made >= longest) return finished;
    const rows = on.map((each) => each.row);
    [keys, values] = [keys, values].map((cache) => taken(cache, 1, rows));
    state = state.map((each) => taken(each, 0, rows));
    logProbs = await step(on.map((each) => each.token), made - 1);
  }
}

// What would make a run of so many tokens occur twice; nothing where it is 0.
function repeating(tokens, size) {
  if (size < 1 || tokens.length < size) return [];
  const last = tokens.slice(tokens.length - size + 1), found = [];
  for (let i = 0; i + size <= tokens.length; i++) {
    if (last.every((token, j) => tokens[i + j] === token)) found.push(tokens[i + size - 1]);
  }
  return found;
}

const zeros = (shape) => tensor("float32", new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);

// Rows of an axis, in another order.
function taken(source, axis, rows) {
  const size = source.dims.slice(axis + 1).reduce((a, b) => a * b, 1), found = zeros([...source.dims]);
  const outer = source.data.length / size / rows.length;
  for (let group = 0; group < outer; group++) {
    for (const [to, from] of rows.entries()) {
      const at = (group * rows.length + from) * size;
      found.data.set(source.data.subarray(at, at + size), (group * rows.length + to) * size);
    }
  }
  return found;
}

function logSoftmax(logits, rows) {
  const size = logits.length / rows, found = new Float32Array(logits.length);
  for (let row = 0; row < rows; row++) {
    const own = logits.subarray(row * size, (row + 1) * size);
    let most = -Infinity, sum = 0;
    for (const value of own) most = Math.max(most, value);
    for (const value of own) sum += Math.exp(value - most);
    const normalizer = most + Math.log(sum);
    for (let i = 0; i < size; i++) found[row * size + i] = own[i] - normalizer;
  }
  return found;
}

// The candidates of the highest totals, the first of equals first.
function largest(logProbs, totals, vocabulary, count) {
  const best = [];
  for (let i = 0; i < logProbs.length; i++) {
    const row = Math.floor(i / vocabulary), total = Math.fround(totals[row] + logProbs[i]);
    if (best.length === count && total <= best.at(-1).total) continue;
    let place = best.length;
    while (place && best[place - 1].total < total) place--;
    best.splice(place, 0, { row, token: i % vocabulary, total });
    if (best.length > count) best.pop();
  }
  return best;
}

// Token ids to text: each character of a piece stands for a byte.

const BYTES = new Map();
{
  const plain = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  for (let byte = 0, next = 256; byte < 256; byte++) BYTES.set(String.fromCharCode(plain(byte) ? byte : next++), byte);
}

function text({ pieces, end_id: end }, ids) {
  const characters = [...ids.slice(1).filter((id) => id !== end).map((id) => pieces[id]).join("")];
  return new TextDecoder().decode(Uint8Array.from(characters, (each) => BYTES.get(each))).trim();
}

// What the page asks for.

export const backend = {
  model: async () => ({ ...(await manifest).about, server: false }),
  examples: async () => (await manifest).about.examples,
  caption: async (image, settings, signal) => {
    const model = await whole(), { size } = model.image;
    const pixels = await prepare(image, model.image);
    const seen = await run(model.network.encoder, [tensor("uint8", pixels, [1, size, size, 3])]);
    const found = await search(model, seen, { beams: +settings.num_beams, longest: +settings.max_length });
    signal?.throwIfAborted();
    const told = found.map(({ tokens, ...scores }) => ({ text: text(model, tokens), words: [], ...scores }));
    return { ...told[0], others: told.slice(1, settings.num_return_sequences ?? 1) };
  },
  explain: async (image) => {
    const { image: asked } = await manifest, { size } = asked, pixels = await prepare(image, asked);
    const canvas = new OffscreenCanvas(size, size), context = canvas.getContext("2d"), drawn = context.createImageData(size, size);
    for (let i = 0, j = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : pixels[j++];
    context.putImageData(drawn, 0, 0);
    const blob = await canvas.convertToBlob();
    return { image: await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.readAsDataURL(blob);
    }) };
  },
};

navigator.serviceWorker?.register("service-worker.js"); // from the second visit on, no network is needed
