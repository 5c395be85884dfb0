// Pictures in, explanations out. What came from a file or from the server (names, labels, errors)
// becomes text only, never markup.

import { decoded, keepMaps, keyOf, paint, save, sizeOf } from "./drawing.js";
import { takeDrops } from "./drops.js";
import { $, announce, make, notify } from "./elements.js";
import { refreshClasses, refreshScale, refreshTiming, refreshVersus } from "./elements.js";
import { offerSamples, sampleFile } from "./samples.js";
import { ask, explainQuery, failureWords, fetchModel } from "./server.js";
import { readable, Refusal, useToken } from "./server.js";
import { listed, named, spoken, summary, verdict } from "./words.js";

const LISTED = 6; // classes in the list
const AT_ONCE = 3; // pictures on their way to the server
const SHOWN_SIDE = 1200; // the longer side, in pixels, of what is drawn on the page
const SAVED_SIDES = [512, 4096]; // and the limits of what is downloaded

// A picture has one answer for each model. An answer has a map for each class that was shown, alone
// or told apart from another; it says which was chosen, and which of its maps is drawn.
const UNKNOWN = { state: "waiting", maps: new Map() };
const pictures = [];
const queue = [];
let shown = null;
let model = null;
let token = ""; // what was given last
let locked = false; // until there is a token that the server knows
let active = 0;

// ---- The server ----

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

function useModel(chosen) {
  model = chosen;
  $("labels").replaceChildren(...chosen.labels.map((label) => new Option(label)));
}

// ---- Explaining ----

async function requestExplanation(picture, by, classId, versus = null) {
  const top = by.isMultilabel ? by.labels.length : Math.min(LISTED, by.labels.length);
  const query = explainQuery(by, top, classId, versus);
  await picture.decoding;
  if (classId === undefined && (by.deep || !picture.image)) query.set("picture", true);
  const body = await readable(picture.file);
  const started = performance.now();
  const told = await ask(`v2/models/${encodeURIComponent(by.name)}/explain?${query}`, {
    method: "POST",
    body,
  });
  return { ...told, trip: performance.now() - started };
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
    const answer = { state: "done", told, classes: listed(told, LISTED), maps: new Map() };
    await keepMaps(answer, told);
    if (told.picture_png) answer.image = await decoded(`data:image/png;base64,${told.picture_png}`);
    const likeliest = told.classes[0].class_id;
    const hasMap = answer.maps.has(keyOf(likeliest, null));
    answer.chosen = hasMap ? likeliest : told.explained[0].class_id;
    answer.versus = null;
    answer.drawn = keyOf(answer.chosen, null);
    picture.answers.set(by.name, answer);
    announce(`${picture.file.name}: ${summary(told)}. ${spoken(answer)}`);
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
  const told = failureWords(error, picture.file);
  // Without a model there is nobody to file it under; it is shown until one is there.
  picture.answers.set(by?.name, { state: "failed", ...told, maps: new Map() });
  announce(told.words);
}

function answerOf(picture) {
  return picture.answers.get(model?.name) ?? UNKNOWN;
}

function isChosen(answer, key) {
  return keyOf(answer.chosen, answer.versus) === key;
}

// Shows what speaks for a class; and not for another, if that is not null.
async function choose(classId, versus) {
  const picture = shown;
  const answer = answerOf(picture);
  const by = model;
  const before = answer.maps.get(answer.drawn);
  const key = keyOf(classId, versus);
  Object.assign(answer, { chosen: classId, versus });
  if (!answer.maps.has(key)) {
    refresh(picture);
    try {
      await keepMaps(answer, await requestExplanation(picture, by, classId, versus));
    } catch (error) {
      if (isChosen(answer, key)) Object.assign(answer, before.asked);
      report(error, () => choose(classId, versus));
    }
  }
  // Somebody quick may have chosen another one since.
  if (isChosen(answer, key)) {
    answer.drawn = key;
    announce(spoken(answer));
  }
  refresh(picture);
}

function chooseClass(classId) {
  const { versus } = answerOf(shown);
  return choose(classId, versus === classId ? null : versus); // nothing is told from itself
}

// ---- Words ----

function report(error, retry) {
  if (error.status === 401) askForToken();
  else notify(error.message, retry);
}

// ---- Drawing ----

function strength() {
  return $("strength").value / 100;
}

function draw() {
  const answer = answerOf(shown);
  const [width, height] = sizeOf(shown, answer);
  const scale = SHOWN_SIDE / Math.max(width, height);
  paint($("picture"), shown, answer, scale, strength());
}

async function download() {
  const picture = shown;
  const answer = answerOf(picture);
  const side = Math.max(...answer.told.picture_size);
  const [least, most] = SAVED_SIDES;
  const canvas = document.createElement("canvas");
  paint(canvas, picture, answer, Math.min(Math.max(side, least), most) / side, strength());
  const { name, versus } = answer.maps.get(answer.drawn);
  const what = versus === undefined ? name : `${name}-not-${versus}`;
  await save(canvas, `${picture.file.name.replace(/\.\w+$/, "")}-${what}.png`);
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
  const isBusy = answer.state === "waiting" || !isChosen(answer, answer.drawn);
  $("frame").setAttribute("aria-busy", isBusy);
  $("blank").hidden = answer.state !== "failed" || shown.image !== null;
  $("picture").hidden = !$("blank").hidden;
  $("findings").hidden = $("download").hidden = !isDone;
  $("failure").hidden = answer.state !== "failed";
  $("note").hidden = !answer.told?.speed_only;
  $("other").hidden = !model?.selectable || model.labels.length <= LISTED;
  $("versus-field").hidden = !model?.contrast;
  $("failure-text").textContent = answer.words ?? "";
  $("retry").hidden = !answer.again;
  refreshVerdict(answer);
  refreshCaption(answer);
  if (isDone) {
    refreshClasses(answer, model);
    refreshVersus(answer);
    refreshTiming(answer.maps.get(answer.drawn).timing);
    refreshScale(answer.maps.get(answer.drawn));
  }
  draw();
}

function refreshVerdict(answer) {
  const pending = answer.state === "failed" ? "Not explained" : "Explaining…";
  const [words, share] = answer.told ? verdict(answer.told) : [pending, ""];
  $("verdict").textContent = words;
  $("verdict-share").textContent = share;
}

function refreshCaption(answer) {
  const { name } = shown.file;
  const [width, height] = sizeOf(shown, answer);
  const blind = shown.image === null && answer.told && !answer.image;
  $("file-name").textContent = name;
  $("file-size").textContent = shown.image || answer.told ? `${width} × ${height}` : "";
  $("spoken").textContent = answer.told
    ? spoken(answer) + (blind ? " Your browser cannot show this kind of file; the map can be." : "")
    : "";
  const found = answer.told?.classes.slice(0, 3).map(named).join(", ") ?? "not explained";
  $("picture").setAttribute("aria-label", `${name}: ${found}. ${$("spoken").textContent}`.trim());
}

function refreshThumbnail(picture) {
  const answer = answerOf(picture);
  const words = answer.told ? summary(answer.told) : answer.words ?? "waiting";
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
  picture.decoding = decoded(url)
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
  let file = null;
  try {
    file = await sampleFile(name);
  } catch {
    notify("The sample cannot be fetched. Is the server still running?", () => addSample(name));
    return;
  }
  const known = pictures.find((picture) => picture.file === file);
  if (!known) return addFiles([file]);
  show(known);
  $("stage").scrollIntoView({ block: "nearest" });
}

// ---- The token ----

function askForToken() {
  if (token) $("access-why").textContent = "The server does not know this token; try another.";
  locked = true;
  token = "";
  useToken(token);
  $("access").hidden = false;
  $("token").focus();
}

async function tryToken(event) {
  event.preventDefault();
  token = $("token").value.trim();
  useToken(token);
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

takeDrops(addFiles);
$("files").onchange = () => {
  addFiles($("files").files);
  $("files").value = ""; // so that the same file can be chosen again
};
$("classes").onchange = (event) => chooseClass(Number(event.target.value));
$("versus").onchange = ({ target }) =>
  choose(answerOf(shown).chosen, target.value === "" ? null : Number(target.value));
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
$("access").onsubmit = tryToken;

function start() {
  loadModels().then(
    () => shown && show(shown),
    (error) => report(error, start),
  );
}

offerSamples(addSample).catch(() => {}); // without samples, the page does as well
start();
