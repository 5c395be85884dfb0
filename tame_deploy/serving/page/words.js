// Answers in words, also for those who cannot see the map.

const SPREAD = 0.12; // variance of a map's peaks, in widths and heights: an even map has 0.17

export function percent(share) {
  return share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`;
}

export function named(one) {
  return `${one.name} ${percent(one.probability)}`;
}

// Labels of which a picture may have several: those that are as likely as not.
function shownLabels({ task, classes }) {
  return task === "multilabel" ? classes.filter((one) => one.probability >= 0.5) : null;
}

// The likeliest classes, at most so many, and beyond them all labels that are shown.
export function listed(told, most) {
  const shown = shownLabels(told) ?? [];
  return told.classes.filter((one, place) => place < most || shown.includes(one));
}

// The answer in large letters, and what stands beside it.
export function verdict(told) {
  const labels = shownLabels(told);
  if (!labels) return [told.classes[0].name, percent(told.classes[0].probability)];
  if (!labels.length) return ["No label", "none reaches 50%"];
  const share = labels.length === 1 ? percent(labels[0].probability) : `${labels.length} labels`;
  return [labels.map((one) => one.name).join(", "), share];
}

// The same in a line.
export function summary(told) {
  const labels = shownLabels(told);
  if (!labels) return named(told.classes[0]);
  return labels.map(named).join(", ") || `no label (${named(told.classes[0])})`;
}

export function spoken(answer) {
  const { name, versus, places } = answer.maps.get(answer.drawn);
  if (versus === undefined) {
    return places[0] ? `What speaks for ${name} is ${places[0]}.` : `Nothing speaks for ${name}.`;
  }
  if (!places.some(Boolean)) return `Nothing tells ${name} and ${versus} apart.`;
  const [own, other] = places;
  const first = own
    ? `What speaks for ${name} and not for ${versus} is ${own}`
    : `Nothing speaks for ${name} and not for ${versus}`;
  return other ? `${first}; what speaks the other way, ${other}.` : `${first}.`;
}

// Says where a map is strongest, for those who cannot see it.
export function strongest(image, counts = () => true) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  let [sum, across, down, squares] = [0, 0, 0, 0];
  for (let at = 3; at < data.length; at += 4) {
    if (!counts(data[at - 3], data[at - 1], data[at])) continue;
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

// The same of both colours of a map that tells two classes apart; "" for haze alone.
export function strongestOfEach(image) {
  const seen = 50; // of 255: less covers next to nothing
  return [
    strongest(image, (red, blue, cover) => cover > seen && red > blue),
    strongest(image, (red, blue, cover) => cover > seen && blue > red),
  ];
}

function placeWords(x, y) {
  const row = ["at the top", "", "at the bottom"][Math.floor(3 * y)];
  const column = ["left", "", "right"][Math.floor(3 * x)];
  if (!row) return column ? `on the ${column}` : "in the middle";
  return column ? `${row} ${column}` : row;
}

export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}
