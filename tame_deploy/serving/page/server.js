// Asking the server, and its refusals in words.

let token = "";

export function useToken(told) {
  token = told;
}

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Refusal("The server does not answer. Is it still running?", 0);
  });
  const told = await response.json().catch(() => ({}));
  if (response.ok) return told;
  throw new Refusal(inWords(response.status, told.error), response.status);
}

function inWords(status, error) {
  const said = error ? `${error[0].toUpperCase()}${error.slice(1)}.` : `It said ${status}.`;
  if (status === 503) return `The server is busy; try again in a moment. ${said}`;
  if (status === 504) return `The server took too long. ${said}`;
  if (status === 413) return `This is more than the server takes. ${said}`;
  return said;
}

export async function fetchModel(name) {
  const config = await ask(`v2/models/${encodeURIComponent(name)}/config`);
  const labels = config.parameters.labels.string_value.split("\n");
  const isMultilabel = config.parameters.task?.string_value === "multilabel";
  // Some models take no classes: they explain the same ones always.
  const port = (wanted) => config.input.find((one) => one.name === wanted);
  // Browsers show but the upper bits of 16, which may be all black.
  const deep = port("images").data_type === "TYPE_UINT16";
  const { graph } = JSON.parse(config.parameters.manifest.string_value);
  const contrast = graph.contrast === true; // older ones cannot tell two classes apart
  return { name, labels, isMultilabel, deep, contrast, selectable: port("class_ids") !== undefined };
}

// What is asked of a model: its likeliest class, or another; and not which other, if any.
export function explainQuery(by, top, classId, versus) {
  const query = new URLSearchParams({ maps: "png", top });
  if (classId !== undefined) query.set("class_id", classId);
  else if (by.selectable) query.set("top_k", 1);
  if (versus !== null) {
    const label = by.labels[versus];
    // The server takes labels for the same whose capitals and outer blanks alone differ.
    const plain = by.labels.map((one) => one.trim().toLowerCase());
    const isShared = plain.indexOf(plain[versus]) !== plain.lastIndexOf(plain[versus]);
    query.set("versus", isShared ? versus : label);
  }
  return query;
}

// Why a picture was not explained, and whether it may be the next time.
export function failureWords(error, file) {
  const words = error instanceof Refusal ? error.message : "This page failed: " + error.message;
  // What is wrong with a file stays wrong; whatever else went wrong may not.
  const again = ![400, 404, 413].includes(error.status);
  return { words: words.replace(/^Picture\b/, () => file.name), again };
}

// A folder, or a file that is gone, fails only when it is read.
export function readable(file) {
  return file.arrayBuffer().catch(() => {
    throw new Refusal(`${file.name} cannot be read from your device.`, 0);
  });
}
