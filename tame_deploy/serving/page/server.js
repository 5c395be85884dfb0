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
  return { name, labels, isMultilabel, deep, selectable: port("class_ids") !== undefined };
}

// A folder, or a file that is gone, fails only when it is read.
export function readable(file) {
  return file.arrayBuffer().catch(() => {
    throw new Refusal(`${file.name} cannot be read from your device.`, 0);
  });
}
