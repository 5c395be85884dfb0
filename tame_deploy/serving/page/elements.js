// What the page is made of, and what it says.

import { keyOf } from "./drawing.js";
import { milliseconds, percent } from "./words.js";

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function classRow(one, canBeShown) {
  const radio = make("input", { type: "radio", name: "class", value: one.class_id });
  radio.disabled = !canBeShown;
  const fill = make("span");
  fill.style.width = `${one.probability * 100}%`;
  const bar = make("span", { className: "bar", ariaHidden: "true" }, fill);
  const name = make("span", { className: "name", textContent: one.name });
  const share = make("span", { className: "share", textContent: percent(one.probability) });
  return make("label", { className: "class" }, radio, name, share, bar);
}

export function refreshClasses(answer, model) {
  const list = $("classes");
  // Built anew only when it differs: the focus is in there while somebody goes through it.
  if (list.answer !== answer || list.children.length !== answer.classes.length) {
    list.answer = answer;
    const hasMap = (one) => model.selectable || answer.maps.has(keyOf(one.class_id, null));
    list.replaceChildren(...answer.classes.map((one) => classRow(one, hasMap(one))));
  }
  list.querySelectorAll("input").forEach((radio) => {
    radio.checked = Number(radio.value) === answer.chosen;
  });
  $("fixed").hidden = !list.querySelector(":disabled");
}

// The likeliest other classes, to be told apart from the one that is shown.
export function refreshVersus(answer) {
  const others = answer.classes.filter((one) => one.class_id !== answer.chosen);
  const wanted = others.map((one) => new Option(one.name, one.class_id));
  const values = (options) => [...options].map((one) => one.value).join();
  const list = $("versus");
  wanted.unshift(new Option("no class (shown alone)", ""));
  // Built anew only when it differs: somebody may be going through it.
  if (values(list.options) !== values(wanted)) list.replaceChildren(...wanted);
  list.value = answer.versus ?? "";
}

export function refreshScale({ name, versus }) {
  const two = versus !== undefined;
  $("scale").classList.toggle("two", two);
  const [left, right] = $("scale").children;
  left.textContent = two ? `for ${versus}` : "matters little";
  right.textContent = two ? `for ${name}` : "much";
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
