// The pictures that the server brings along.

import { $, make } from "./elements.js";
import { ask } from "./server.js";

const files = new Map();

function samplePath(name) {
  return `samples/${encodeURIComponent(name)}`;
}

// The same file each time; it throws where the server does not answer.
export async function sampleFile(name) {
  if (!files.has(name)) {
    const response = await fetch(samplePath(name));
    if (!response.ok) throw new Error(response.statusText);
    files.set(name, new File([await response.blob()], name, { type: "image/png" }));
  }
  return files.get(name);
}

// `choose` is told the name of the one that is picked.
export async function offerSamples(choose) {
  const { samples } = await ask("page.json");
  $("samples").replaceChildren(...samples.map((name) => sampleItem(name, choose)));
  $("samples-field").hidden = !samples.length;
}

function sampleItem(name, choose) {
  const title = name.replace(/\.\w+$/, "");
  const image = make("img", { src: samplePath(name), alt: "", draggable: false });
  const button = make("button", { type: "button", title, ariaLabel: `Sample ${title}` }, image);
  button.onclick = () => choose(name);
  return make("li", {}, button);
}
