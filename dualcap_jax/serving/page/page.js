// The page of `dualcap serve`: pictures to the server, captions and maps from it, and nothing to anyone else. What computes is
// behind backend.js: that server, or, in an exported page, this browser.

import { backend } from "./backend.js";

const get = (id) => document.getElementById(id);
const CLEAR = 2, SOME = 0.5; // nats that the picture adds to a word's log-probability

let model = null;
let shown = null; // {blob, captions, chosen, place, maps: caption and place -> map, image}
let asking = new AbortController();

const settings = () => ({
  num_beams: get("beams").value, max_length: get("length").value, prompt: get("prompt").value,
});

// What the page tells.

function tell(text, busy = false) {
  get("status").textContent = text;
  document.body.classList.toggle("busy", busy);
}

function fail(error) {
  if (error.name === "AbortError") return;
  tell("");
  if (error.status === 401) get("secret").hidden = false;
  get("error").textContent = error.message;
  get("error").hidden = false;
}

function clearError() { get("error").hidden = true; get("error").textContent = ""; }

// One picture.

async function describe(blob) {
  await begun;
  if (!model) return; // which was told
  clearError();
  if (model && blob.size > model.max_upload) {
    fail(new Error(`This picture is too large: it has ${megabytes(blob.size)}, and ${megabytes(model.max_upload)} are allowed.`));
    return;
  }
  asking.abort();
  asking = new AbortController();
  tell("Describing the picture…", true);
  try {
    const asked = { ...settings(), num_return_sequences: get("beams").value, explain: true };
    const best = await backend.caption(blob, asked, asking.signal);
    shown = { blob, captions: [best, ...best.others], chosen: 0, place: null, maps: new Map(), image: null };
    get("result").hidden = false;
    showCaption();
    showOthers();
    tell(`Caption: ${best.text}`);
    get("result").scrollIntoView({ block: "nearest" });
    shown.image = await load((await backend.explain(blob, best.text, [], asking.signal)).image);
    draw(shown.image);
  } catch (error) { fail(error); }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function showCaption() {
  const chosen = shown.captions[shown.chosen];
  shown.place = null;
  if (!model.server) {
    get("words").textContent = chosen.text;
    return;
  }
  get("word").textContent = "Choose a word to see where in the picture it comes from.";
  get("words").replaceChildren(...chosen.words.map((word, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word.text;
    button.className = kind(word);
    button.setAttribute("aria-label", `${word.text}: ${inFigures(word)}`);
    button.setAttribute("aria-pressed", "false");
    let soon;
    button.addEventListener("mouseenter", () => { soon = setTimeout(showWord, 120, place); });
    button.addEventListener("mouseleave", () => clearTimeout(soon));
    button.addEventListener("focus", () => showWord(place));
    button.addEventListener("click", () => showWord(place));
    return button;
  }));
}

const kind = (word) => (word.seen >= CLEAR ? "clear" : word.seen >= SOME ? "some" : "guess");

function inFigures(word) {
  const told = { clear: "from the picture", some: "partly from the picture", guess: "guessed from the words before" };
  const adds = word.seen >= 0 ? `makes it ${times(word.seen)} likelier` : `makes it ${times(-word.seen)} less likely`;
  return `${told[kind(word)]}; the picture ${adds}`;
}

function times(nats) {
  const factor = Math.exp(nats);
  return `${factor < 10 ? factor.toFixed(1) : Math.round(Math.min(factor, 1e6)).toLocaleString("en")} times`;
}

function showOthers() {
  get("others").replaceChildren(...shown.captions.map((each, place) => {
    const item = document.createElement("li"), button = document.createElement("button"), score = document.createElement("small");
    button.type = "button";
    button.append(each.text, score);
    score.textContent = `score ${each.score.toFixed(2)}`;
    button.setAttribute("aria-pressed", String(place === shown.chosen));
    button.addEventListener("click", () => {
      shown.chosen = place;
      for (const [i, other] of [...get("others").querySelectorAll("button")].entries()) {
        other.setAttribute("aria-pressed", String(i === place));
      }
      showCaption();
      draw(shown.image);
      tell(`Caption: ${each.text}`);
    });
    item.append(button);
    return item;
  }));
}

async function showWord(place) {
  const now = shown, { text, words } = now.captions[now.chosen];
  if (now.place === place) return;
  now.place = place;
  for (const [i, button] of [...get("words").children].entries()) button.setAttribute("aria-pressed", String(i === place));
  get("word").textContent = `“${words[place].text}”: ${inFigures(words[place])}.`;
  const key = `${place} ${text}`;
  try {
    if (!now.maps.has(key)) now.maps.set(key, load((await backend.explain(now.blob, text, [place], asking.signal)).words[place].map));
    const map = await now.maps.get(key);
    if (shown === now && now.place === place) draw(now.image, map);
  } catch (error) { now.maps.delete(key); fail(error); }
}

async function load(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

function draw(image, map = null) {
  const canvas = get("seen"), context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!image) return;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.dataset.map = map ? "shown" : "";
  if (!map) return;
  const layer = new OffscreenCanvas(canvas.width, canvas.height), over = layer.getContext("2d");
  over.drawImage(map, 0, 0, canvas.width, canvas.height);
  const pixels = over.getImageData(0, 0, canvas.width, canvas.height), values = pixels.data;
  for (let i = 0; i < values.length; i += 4) { // grey becomes how much of orange is laid over
    values[i + 3] = values[i] * 0.75;
    [values[i], values[i + 1], values[i + 2]] = [255, 120, 0];
  }
  over.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
}

// Ways to bring a picture.

for (const id of ["file", "photo"]) {
  get(id).addEventListener("change", ({ target }) => {
    if (target.files[0]) describe(target.files[0]);
    target.value = "";
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) describe(file);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); get("drop").classList.add("over"); });
document.addEventListener("dragleave", () => get("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  get("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) describe(file);
});
get("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(shown.captions[shown.chosen].text);
    tell("Copied.");
  } catch { fail(new Error("The browser does not let this page copy.")); }
});

async function showExamples() {
  const addresses = await backend.examples();
  get("examples").replaceChildren(...addresses.map((address, place) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    image.src = address;
    image.alt = `Example ${place + 1}`;
    button.append(image);
    button.addEventListener("click", async () => describe(await (await fetch(image.src)).blob()));
    return button;
  }));
}

// Live.

const live = { stream: null, text: "", timer: null, asking: null };

async function startLive() {
  await begun;
  if (!model) return;
  clearError();
  try {
    live.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    fail(new Error("The camera can't be used: it is not there, or this page may not use it."));
    return;
  }
  live.text = "";
  get("video").srcObject = live.stream;
  await get("video").play();
  showLive(true);
  get("stop").focus();
  tell("Live: the camera is on.");
  look();
}

function stopLive() {
  if (!live.stream) return;
  for (const track of live.stream.getTracks()) track.stop();
  live.stream = null;
  clearTimeout(live.timer);
  live.asking?.abort();
  globalThis.speechSynthesis?.cancel();
  showLive(false);
  get("start").focus();
  tell("Live: stopped. The camera is off.");
}

function showLive(on) {
  get("video").hidden = get("stop").hidden = get("repeat").hidden = !on;
  get("start").hidden = on;
}

async function look() {
  const video = get("video"), scale = Math.min(1, 640 / Math.max(video.videoWidth, video.videoHeight));
  const frame = new OffscreenCanvas(Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale));
  frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
  live.asking = new AbortController();
  try {
    const blob = await frame.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    const { text } = await backend.caption(blob, settings(), live.asking.signal);
    if (!live.stream) return;
    clearError();
    if (text !== live.text) say(text);
  } catch (error) { fail(error); }
  if (live.stream) live.timer = setTimeout(look, 1000 * get("every").value);
}

function say(text) {
  live.text = text;
  const aloud = get("speak").checked && "speechSynthesis" in globalThis;
  get("live-caption").setAttribute("aria-live", aloud ? "off" : "polite"); // else a screen reader says it as well
  get("live-caption").textContent = text;
  if (!aloud) return;
  speechSynthesis.cancel();
  speechSynthesis.speak(new SpeechSynthesisUtterance(text));
}

get("start").addEventListener("click", startLive);
get("stop").addEventListener("click", stopLive);
get("repeat").addEventListener("click", () => { if (live.text) say(live.text); });
get("live").addEventListener("keydown", (event) => {
  if (!live.stream || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") stopLive();
  if (event.key.toLowerCase() === "r" && live.text) say(live.text);
});
document.addEventListener("visibilitychange", () => { if (document.hidden) stopLive(); });

// At the start.

async function begin() {
  try {
    model = await backend.model();
  } catch (error) {
    if (error.status === 401 && !get("token").value) get("secret").hidden = false;
    else fail(error);
    return;
  }
  clearError();
  get("secret").hidden = true;
  for (const [id, values, usual] of [
    ["beams", model.num_beams, model.usual.num_beams], ["length", model.max_length, model.usual.max_length],
  ]) {
    get(id).replaceChildren(...values.map((value) => new Option(value, value, value === usual, value === usual)));
  }
  for (const each of document.querySelectorAll(".server")) each.hidden = !model.server;
  const { encoder, language } = model.parts, total = Object.values(model.parts).reduce((sum, part) => sum + part.parameters, 0);
  get("model").textContent = `${encoder.kind} and ${language.kind} describe pictures: ` +
    `${(total / 1e6).toFixed(1)} million parameters, trained on ${model.data}.`;
}

get("secret").addEventListener("submit", (event) => {
  event.preventDefault();
  backend.secret = get("token").value;
  begun = begin();
});
let begun = begin();
showExamples().catch(fail);
