// The pictures that the server brings along.

import { $, make } from "./elements.js";
import { ask } from "./server.js";

export function samplePath(name) {
  return `samples/${encodeURIComponent(name)}`;
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
