// Files that are dropped on the page or pasted into it.

import { $, notify } from "./elements.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

export function takeDrops(addFiles) {
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
}
