// Captions by the server that the page comes from.

class Refused extends Error {
  constructor(status, detail) { super(inWords(status, detail)); this.status = status; }
}

function inWords(status, detail) {
  switch (status) {
    case 401: return "This server asks for a secret, and this is not it.";
    case 413: return `This picture is too large: ${detail}.`;
    case 415: return `This is not a picture that can be read: ${detail}.`;
    case 429: case 503: return `The server is busy: ${detail}.`;
    default: return `The server could not do that: ${detail}.`;
  }
}

async function ask(path, options = {}) {
  const headers = backend.secret ? { Authorization: `Bearer ${backend.secret}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server can't be reached. Is it running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told.detail ?? `status ${answer.status}`);
  return told;
}

function form(values) {
  const body = new FormData();
  for (const [name, value] of Object.entries(values)) for (const each of [value].flat()) body.append(name, each);
  return { method: "POST", body };
}

export const backend = {
  secret: "",
  model: async () => ({ ...await ask("v1/model"), server: true }),
  examples: () => ask("examples"),
  caption: async (image, settings, signal) => {
    const { captions: [best] } = await ask("v1/caption", { ...form({ images: image, ...settings }), signal });
    return best;
  },
  explain: (image, caption, words, signal) =>
    ask("v1/explain", { ...form({ image, caption, words: words.length ? words : "" }), signal }),
};
