// Pictures in, explanations out. What came from a file or from the server (names, labels, errors)
// becomes text only, never markup.

const $ = (id) => document.getElementById(id);

const LISTED = 6; // classes in the list
const AT_ONCE = 3; // pictures on their way to the server
const SHOWN_SIDE = 1200; // the longer side, in pixels, of what is drawn on the page
const SAVED_SIDES = [512, 4096]; // and the limits of what is downloaded
const SPREAD = 0.12; // variance of a map's peaks, in widths and heights: an even map has 0.17
const DIM = "rgb(128 128 128 / 65%)"; // over what the network did not see

// A picture has one answer for each model. An answer has a map for each class that was shown.
const UNKNOWN = { state: "waiting", maps: new Map() };
const pictures = [];
const sampleFiles = new Map();
const queue = [];
let shown = null;
let model = null;
let token = "";
let locked = false; // until there is a token that the server knows
let active = 0;

// ---- The server ----

class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
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

// Asks once; after a failure, again when it is next needed.
let listing = null;
function loadModels() {
  listing ??= fetchModels().catch((error) => {
    listing = null;
    throw error;
  });
  return listing;
}

async function fetchModels() {
  const index = await ask("v2/repository/index", { method: "POST", body: '{"ready": true}' });
  if (!index.length) throw new Refusal("No model is ready.", 503);
  const models = await Promise.all(index.map(({ name }) => fetchModel(name)));
  $("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  $("model-field").hidden = models.length < 2;
  useModel(models[0]);
  return models;
}

async function fetchModel(name) {
  const config = await ask(`v2/models/${encodeURIComponent(name)}/config`);
  const labels = config.parameters.labels.string_value.split("\n");
  // Some models take no classes: they explain the same ones always.
  return { name, labels, selectable: config.input.some((port) => port.name === "class_ids") };
}

function useModel(chosen) {
  model = chosen;
  $("labels").replaceChildren(...chosen.labels.map((label) => new Option(label)));
}

// ---- Explaining ----

async function requestExplanation(picture, by, classId) {
  const query = new URLSearchParams({ maps: "png", top: Math.min(LISTED, by.labels.length) });
  if (classId !== undefined) query.set("class_id", classId);
  else if (by.selectable) query.set("top_k", 1);
  const body = await readable(picture.file);
  const started = performance.now();
  const told = await ask(`v2/models/${encodeURIComponent(by.name)}/explain?${query}`, {
    method: "POST",
    body,
  });
  return { ...told, trip: performance.now() - started };
}

// A folder, or a file that is gone, fails only when it is read.
function readable(file) {
  return file.arrayBuffer().catch(() => {
    throw new Refusal(`${file.name} cannot be read from your device.`, 0);
  });
}

async function keepMaps(answer, told) {
  for (const one of told.explained) {
    const image = await decoded(`data:image/png;base64,${one.map_png}`);
    const timing = { trip: told.trip, ...told.timing_ms };
    answer.maps.set(one.class_id, { image, timing, place: strongest(image) });
    if (!answer.classes.some((known) => known.class_id === one.class_id)) answer.classes.push(one);
  }
}

async function decoded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

function enqueue(picture) {
  if (!queue.includes(picture)) queue.push(picture);
  advance();
}

function advance() {
  while (!locked && active < AT_ONCE && queue.length) {
    active += 1;
    explain(queue.shift()).finally(() => {
      active -= 1;
      advance();
    });
  }
}

async function explain(picture) {
  let by = null;
  try {
    await loadModels();
    by = model;
    if (picture.answers.has(by.name)) return;
    picture.answers.set(by.name, UNKNOWN); // nobody else needs to ask
    const told = await requestExplanation(picture, by);
    const answer = { state: "done", told, classes: [...told.classes], maps: new Map() };
    await keepMaps(answer, told);
    const likeliest = told.classes[0].class_id;
    const first = answer.maps.has(likeliest) ? likeliest : told.explained[0].class_id;
    answer.chosen = answer.drawn = first;
    picture.answers.set(by.name, answer);
    announce(`${picture.file.name}: ${named(told.classes[0])}. ${spoken(answer)}`);
  } catch (error) {
    fail(picture, by, error);
  }
  refresh(picture);
}

function fail(picture, by, error) {
  picture.answers.delete(by?.name);
  if (error.status === 401) {
    queue.push(picture);
    askForToken();
    return;
  }
  const words = (error instanceof Refusal ? error.message : "This page failed: " + error.message)
    .replace(/^Picture\b/, () => picture.file.name);
  // What is wrong with a file stays wrong; whatever else went wrong may not.
  const again = ![400, 404, 413].includes(error.status);
  // Without a model there is nobody to file it under; it is shown until one is there.
  picture.answers.set(by?.name, { state: "failed", words, again, maps: new Map() });
  announce(words);
}

function answerOf(picture) {
  return picture.answers.get(model?.name) ?? UNKNOWN;
}

async function chooseClass(classId) {
  const picture = shown;
  const answer = answerOf(picture);
  const by = model;
  answer.chosen = classId;
  if (!answer.maps.has(classId)) {
    refresh(picture);
    try {
      await keepMaps(answer, await requestExplanation(picture, by, classId));
    } catch (error) {
      if (answer.chosen === classId) answer.chosen = answer.drawn;
      report(error, () => chooseClass(classId));
    }
  }
  // Somebody quick may have chosen another one since.
  if (answer.chosen === classId) {
    answer.drawn = classId;
    announce(spoken(answer));
  }
  refresh(picture);
}

// ---- Words ----

function percent(share) {
  return share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`;
}

function named(one) {
  return `${one.name} ${percent(one.probability)}`;
}

function spoken(answer) {
  const { name } = answer.classes.find((one) => one.class_id === answer.drawn);
  const { place } = answer.maps.get(answer.drawn);
  return place ? `What speaks for ${name} is ${place}.` : `Nothing speaks for ${name}.`;
}

// Says where a map is strongest, for those who cannot see it.
function strongest(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  let [sum, across, down, squares] = [0, 0, 0, 0];
  for (let at = 3; at < data.length; at += 4) {
    const weight = (data[at] / 255) ** 4; // the peaks decide, not the haze around them
    const cell = (at - 3) / 4;
    const x = ((cell % image.width) + 0.5) / image.width;
    const y = (Math.floor(cell / image.width) + 0.5) / image.height;
    sum += weight;
    across += weight * x;
    down += weight * y;
    squares += weight * (x * x + y * y);
  }
  if (sum < 1e-6) return "";
  const [x, y] = [across / sum, down / sum];
  const isWide = squares / sum - x * x - y * y > SPREAD;
  return isWide ? "spread all over" : `mostly ${placeWords(x, y)}`;
}

function placeWords(x, y) {
  const row = ["at the top", "", "at the bottom"][Math.floor(3 * y)];
  const column = ["left", "", "right"][Math.floor(3 * x)];
  if (!row) return column ? `on the ${column}` : "in the middle";
  return column ? `${row} ${column}` : row;
}

function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

function announce(words) {
  $("status").textContent = words;
}

function notify(words, retry = null) {
  $("notice-text").textContent = words;
  $("notice-retry").hidden = !retry;
  $("notice-retry").onclick = () => {
    $("notice").hidden = true;
    retry();
  };
  $("notice").hidden = false;
}

function report(error, retry) {
  if (error.status === 401) askForToken();
  else notify(error.message, retry);
}

// ---- Drawing ----

function draw() {
  const answer = answerOf(shown);
  const [width, height] = sizeOf(shown, answer);
  const scale = SHOWN_SIDE / Math.max(width, height);
  paint($("picture"), shown, answer, scale);
}

function sizeOf(picture, answer) {
  if (answer.told) return answer.told.picture_size;
  const { image } = picture;
  return image?.naturalWidth ? [image.naturalWidth, image.naturalHeight] : [4, 3];
}

function paint(canvas, picture, answer, scale) {
  const [width, height] = sizeOf(picture, answer);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  // From here on, lengths are in the picture's own pixels.
  context.scale(canvas.width / width, canvas.height / height);
  if (picture.image) context.drawImage(picture.image, 0, 0, width, height);
  if (!answer.told) return;
  const [left, top, right, bottom] = answer.told.visible_box;
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, right - left, bottom - top);
  context.fillStyle = DIM;
  context.fill("evenodd");
  context.globalAlpha = $("strength").value / 100;
  const { image } = answer.maps.get(answer.drawn);
  context.drawImage(image, left, top, right - left, bottom - top);
}

async function download() {
  const picture = shown;
  const answer = answerOf(picture);
  const side = Math.max(...answer.told.picture_size);
  const [least, most] = SAVED_SIDES;
  const canvas = document.createElement("canvas");
  paint(canvas, picture, answer, Math.min(Math.max(side, least), most) / side);
  const blob = await new Promise((done) => canvas.toBlob(done));
  const link = document.createElement("a");
  const { name } = answer.classes.find((one) => one.class_id === answer.drawn);
  link.href = URL.createObjectURL(blob);
  link.download = `${picture.file.name.replace(/\.\w+$/, "")}-${name}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- Showing ----

function refresh(picture) {
  refreshThumbnail(picture);
  if (picture === shown) refreshResult();
}

function refreshResult() {
  $("result").hidden = !shown;
  $("strip").hidden = pictures.length < 2;
  if (!shown) return;
  const answer = answerOf(shown);
  const isDone = answer.state === "done";
  const isBusy = answer.state === "waiting" || answer.chosen !== answer.drawn;
  $("frame").setAttribute("aria-busy", isBusy);
  $("blank").hidden = answer.state !== "failed" || shown.image !== null;
  $("picture").hidden = !$("blank").hidden;
  $("findings").hidden = $("download").hidden = !isDone;
  $("failure").hidden = answer.state !== "failed";
  $("note").hidden = !answer.told?.speed_only;
  $("other").hidden = !model?.selectable || model.labels.length <= LISTED;
  $("failure-text").textContent = answer.words ?? "";
  $("retry").hidden = !answer.again;
  refreshVerdict(answer);
  refreshCaption(answer);
  if (isDone) {
    refreshClasses(answer);
    refreshTiming(answer.maps.get(answer.drawn).timing);
  }
  draw();
}

function refreshVerdict(answer) {
  const likeliest = answer.told?.classes[0];
  const pending = answer.state === "failed" ? "Not explained" : "Explaining…";
  $("verdict").textContent = likeliest?.name ?? pending;
  $("verdict-share").textContent = likeliest ? percent(likeliest.probability) : "";
}

function refreshCaption(answer) {
  const { name } = shown.file;
  const [width, height] = sizeOf(shown, answer);
  const blind = shown.image === null && answer.told;
  $("file-name").textContent = name;
  $("file-size").textContent = shown.image || answer.told ? `${width} × ${height}` : "";
  $("spoken").textContent = answer.told
    ? spoken(answer) + (blind ? " Your browser cannot show this kind of file; the map can be." : "")
    : "";
  const found = answer.told?.classes.slice(0, 3).map(named).join(", ") ?? "not explained";
  $("picture").setAttribute("aria-label", `${name}: ${found}. ${$("spoken").textContent}`.trim());
}

function refreshClasses(answer) {
  const list = $("classes");
  // Built anew only when it differs: the focus is in there while somebody goes through it.
  if (list.answer !== answer || list.children.length !== answer.classes.length) {
    list.answer = answer;
    list.replaceChildren(...answer.classes.map((one) => classRow(one, answer)));
  }
  list.querySelectorAll("input").forEach((radio) => {
    radio.checked = Number(radio.value) === answer.chosen;
  });
  $("fixed").hidden = !list.querySelector(":disabled");
}

function classRow(one, answer) {
  const radio = make("input", { type: "radio", name: "class", value: one.class_id });
  radio.disabled = !model.selectable && !answer.maps.has(one.class_id);
  const fill = make("span");
  fill.style.width = `${one.probability * 100}%`;
  const bar = make("span", { className: "bar", ariaHidden: "true" }, fill);
  const name = make("span", { className: "name", textContent: one.name });
  const share = make("span", { className: "share", textContent: percent(one.probability) });
  return make("label", { className: "class" }, radio, name, share, bar);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function refreshTiming(timing) {
  for (const stage of ["trip", "decode", "queue", "infer"]) {
    $(`ms-${stage}`).textContent = milliseconds(timing[stage]);
  }
}

function refreshThumbnail(picture) {
  const answer = answerOf(picture);
  const words = answer.told ? named(answer.told.classes[0]) : answer.words ?? "waiting";
  picture.button.className = answer.state;
  picture.button.title = `${picture.file.name}: ${words}`;
  picture.button.ariaLabel = picture.button.title;
  picture.button.setAttribute("aria-current", picture === shown);
}

function show(picture) {
  shown = picture;
  pictures.forEach(refreshThumbnail);
  refreshResult();
  if (!picture) return;
  picture.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (answerOf(picture) === UNKNOWN) enqueue(picture);
}

// ---- Pictures in and out ----

function addFiles(files) {
  $("notice").hidden = true;
  const added = [...files].map(addPicture);
  if (!added.length) return;
  show(added[0]);
  added.forEach(enqueue);
  $("stage").scrollIntoView({ block: "nearest" });
}

function addPicture(file) {
  const url = URL.createObjectURL(file);
  const button = make("button", { type: "button" }, make("img", { src: url, alt: "" }));
  const picture = { file, url, button, image: undefined, answers: new Map() };
  picture.item = make("li", {}, button);
  button.onclick = () => show(picture);
  pictures.push(picture);
  $("strip").append(picture.item);
  decoded(url)
    .catch(() => null) // the server reads kinds of files that browsers do not
    .then((image) => {
      picture.image = image;
      button.firstChild.hidden = !image; // else some browsers draw a broken one
      refresh(picture);
    });
  return picture;
}

function removePicture(picture) {
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  if (queue.includes(picture)) queue.splice(queue.indexOf(picture), 1);
  picture.item.remove();
  URL.revokeObjectURL(picture.url);
  show(pictures[place] ?? pictures[place - 1] ?? null);
  announce(`${picture.file.name} is removed.`);
  if (!shown) $("files").focus();
}

async function addSample(name) {
  const known = pictures.find((picture) => picture.file === sampleFiles.get(name));
  if (known) {
    show(known);
    $("stage").scrollIntoView({ block: "nearest" });
    return;
  }
  try {
    const response = await fetch(samplePath(name));
    if (!response.ok) throw new Error();
    sampleFiles.set(name, new File([await response.blob()], name, { type: "image/png" }));
  } catch {
    notify("The sample cannot be fetched. Is the server still running?", () => addSample(name));
    return;
  }
  addFiles([sampleFiles.get(name)]);
}

function samplePath(name) {
  return `samples/${encodeURIComponent(name)}`;
}

async function offerSamples() {
  const { samples } = await ask("page.json");
  $("samples").replaceChildren(...samples.map(sampleItem));
  $("samples-field").hidden = !samples.length;
}

function sampleItem(name) {
  const title = name.replace(/\.\w+$/, "");
  const image = make("img", { src: samplePath(name), alt: "", draggable: false });
  const button = make("button", { type: "button", title, ariaLabel: `Sample ${title}` }, image);
  button.onclick = () => addSample(name);
  return make("li", {}, button);
}

// ---- The token ----

function askForToken() {
  if (token) $("access-why").textContent = "The server does not know this token; try another.";
  locked = true;
  token = "";
  $("access").hidden = false;
  $("token").focus();
}

async function useToken(event) {
  event.preventDefault();
  token = $("token").value.trim();
  try {
    // Headers hold nothing else; the server would know no such token anyway.
    if (!/^[\x21-\x7e]+$/.test(token)) throw new Refusal("", 401);
    await ask("v2");
  } catch (error) {
    report(error);
    return;
  }
  $("token").value = "";
  $("access").hidden = true;
  locked = false;
  start();
  advance();
}

// ---- Hands on the page ----

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

window.addEventListener("dragover", (event) => {
  event.preventDefault(); // else the browser leaves the page for the file
  $("veil").hidden = !carriesFiles(event);
});
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("veil").hidden = true;
});
window.addEventListener("drop", (event) => {
  event.preventDefault();
  $("veil").hidden = true;
  if (carriesFiles(event)) addFiles(event.dataTransfer.files);
  else notify("Only files can be dropped here. Save the picture first, or copy and paste it.");
});
document.addEventListener("paste", (event) => addFiles(event.clipboardData?.files ?? []));

$("files").onchange = () => {
  addFiles($("files").files);
  $("files").value = ""; // so that the same file can be chosen again
};
$("classes").onchange = (event) => chooseClass(Number(event.target.value));
$("strength").oninput = () => {
  $("strength").ariaValueText = $("strength-value").textContent = `${$("strength").value}%`;
  draw();
};
$("other").onsubmit = (event) => {
  event.preventDefault();
  const wanted = $("other-class").value.trim();
  const named = model.labels.findIndex((label) => label.toLowerCase() === wanted.toLowerCase());
  const classId = named < 0 && /^\d+$/.test(wanted) ? Number(wanted) : named;
  if (classId in model.labels) chooseClass(classId);
  else notify(`This model has no class “${wanted}”.`);
};
$("model").onchange = async () => {
  const models = await loadModels();
  useModel(models.find(({ name }) => name === $("model").value));
  show(shown); // before the others, in the queue
  pictures.forEach(enqueue);
};
$("download").onclick = download;
$("remove").onclick = () => removePicture(shown);
$("retry").onclick = () => {
  shown.answers.delete(model?.name);
  enqueue(shown);
  refresh(shown);
};
$("notice-close").onclick = () => ($("notice").hidden = true);
$("access").onsubmit = useToken;

function start() {
  loadModels().then(
    () => shown && show(shown),
    (error) => report(error, start),
  );
}

offerSamples().catch(() => {}); // without samples, the page does as well
start();
