// What the page is made of, and what it says.

import { milliseconds, percent } from "./words.js";

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function classRow(one, canBeShown) {
  const radio = make("input", { type: "radio", name: "class", value: one.class_id });
  radio.disabled = !canBeShown;
  const fill = make("span");
  fill.style.width = `${one.probability * 100}%`;
  const bar = make("span", { className: "bar", ariaHidden: "true" }, fill);
  const name = make("span", { className: "name", textContent: one.name });
  const share = make("span", { className: "share", textContent: percent(one.probability) });
  return make("label", { className: "class" }, radio, name, share, bar);
}

export function refreshTiming(timing) {
  for (const stage of ["trip", "decode", "queue", "infer"]) {
    $(`ms-${stage}`).textContent = milliseconds(timing[stage]);
  }
}

export function announce(words) {
  $("status").textContent = words;
}

export function notify(words, retry = null) {
  $("notice-text").textContent = words;
  $("notice-retry").hidden = !retry;
  $("notice-retry").onclick = () => {
    $("notice").hidden = true;
    retry();
  };
  $("notice").hidden = false;
}
