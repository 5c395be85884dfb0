// Maps, and a picture under its map on a canvas.

import { strongest, strongestOfEach } from "./words.js";

// A map is kept under its class, or under both where two are told apart.
export function keyOf(classId, versus) {
  return versus === null ? `${classId}` : `${classId} not ${versus}`;
}

const DIM = "rgb(128 128 128 / 65%)"; // over what the network did not see

export function sizeOf(picture, answer) {
  if (answer.told) return answer.told.picture_size;
  const { image } = picture;
  return image?.naturalWidth ? [image.naturalWidth, image.naturalHeight] : [4, 3];
}

export function paint(canvas, picture, answer, scale, strength) {
  const [width, height] = sizeOf(picture, answer);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  // From here on, lengths are in the picture's own pixels.
  context.scale(canvas.width / width, canvas.height / height);
  const image = answer.image ?? picture.image; // as the server shows it, where browsers do not
  if (image) context.drawImage(image, 0, 0, width, height);
  if (!answer.told) return;
  const [left, top, right, bottom] = answer.told.visible_box;
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(left, top, right - left, bottom - top);
  context.fillStyle = DIM;
  context.fill("evenodd");
  context.globalAlpha = strength;
  context.drawImage(answer.maps.get(answer.drawn).image, left, top, right - left, bottom - top);
}

export async function keepMaps(answer, told) {
  for (const one of told.explained) {
    const image = await decoded(`data:image/png;base64,${one.map_png}`);
    const timing = { trip: told.trip, ...told.timing_ms };
    const versus = one.versus?.class_id ?? null;
    const places = versus === null ? [strongest(image)] : strongestOfEach(image);
    const asked = { chosen: one.class_id, versus };
    const found = { image, timing, places, asked, name: one.name, versus: one.versus?.name };
    answer.maps.set(keyOf(one.class_id, versus), found);
    if (!answer.classes.some((known) => known.class_id === one.class_id)) answer.classes.push(one);
  }
}

export async function save(canvas, name) {
  const blob = await new Promise((done) => canvas.toBlob(done));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function decoded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
