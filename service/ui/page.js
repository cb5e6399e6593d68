// The page: choosing a picture, asking for the comparison, and what the service's state is.
import { ask, base, byId, send } from "./service.js";
import { offerFeedback, showExperiments } from "./experiments.js";
import { readNpy, showMaps } from "./maps.js";
import { show } from "./result.js";

const form = byId("try"), button = byId("send"), drop = byId("drop"), preview = byId("preview");
let chosen = null; // a File, or a Blob of one of our drawings

for (const place of document.querySelectorAll(".origin")) place.textContent = base;

// ---- the service's state ---------------------------------------------------------------------------------------

async function watchReadiness() {
  let text = "The service does not answer.", ready = false;
  try {
    const found = await (await fetch(`${base}readyz`)).json();
    ready = found.ready;
    text = ready ? "Ready" : `Not ready: ${found.reasons.join(" ")}`;
    if (ready) offerVariants(found.models);
  } catch { /* told by the text */ }
  const state = byId("state");
  state.classList.toggle("ready", ready);
  if (state.textContent !== text) state.textContent = text; // else it would be read out again
  setTimeout(watchReadiness, ready ? 15000 : 2000);
}

/** Variants that no model has cannot be chosen. */
function offerVariants(models) {
  const served = new Set(Object.entries(models).filter(([, runs]) => runs).map(([name]) => name.split("/").pop()));
  for (const option of form.querySelectorAll("option")) option.disabled = !served.has(option.value);
}

// ---- choosing a picture ----------------------------------------------------------------------------------------

function choose(file, name) {
  chosen = file;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `The chosen picture: ${name}`;
  preview.hidden = false;
  for (const sample of document.querySelectorAll(".sample")) sample.setAttribute("aria-pressed", String(sample.dataset.sample === name));
}

form.picture.addEventListener("change", () => {
  const [file] = form.picture.files;
  if (file) choose(file, file.name);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      form.picture.files = event.dataTransfer.files;
      choose(form.picture.files[0], form.picture.files[0].name);
      compare();
    }
  });
}
for (const sample of document.querySelectorAll(".sample")) {
  sample.setAttribute("aria-pressed", "false");
  sample.addEventListener("click", async () => {
    const name = sample.dataset.sample;
    form.picture.value = "";
    form.task.value = sample.dataset.task;
    try {
      choose(await (await ask(`ui/sample-${name}.jpg`)).blob(), name);
    } catch (error) {
      return tellProblem(error.message);
    }
    await compare();
  });
}

// ---- asking ----------------------------------------------------------------------------------------------------

function tellProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (text) byId("answer").hidden = true;
}

async function askBoth() {
  const file = chosen, task = form.task.value, sides = { a: form.a.value, b: form.b.value };
  const found = await (await send(`compare/${task}?a=${sides.a}&b=${sides.b}`, file)).json();
  const { models } = await (await ask("models")).json();
  const maps = {};
  if (task === "depth") {
    for (const [side, variant] of Object.entries(sides)) {
      maps[side] = readNpy(await (await send(`depth?format=npy&variant=${variant}`, file)).arrayBuffer());
    }
  }
  byId("maps").hidden = true;
  if (task === "depth") await showMaps(byId("maps"), file, found, maps);
  offerFeedback(task, found, file);
  show(task, found, models);
}

async function compare() {
  if (button.getAttribute("aria-disabled") === "true") return;
  if (!chosen) return tellProblem("Choose a picture first, or one of the drawings.");
  button.setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
  button.textContent = "Comparing ...";
  tellProblem("");
  try {
    await askBoth();
  } catch (error) {
    tellProblem(error.message);
  }
  button.removeAttribute("aria-disabled");
  button.textContent = "Compare";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});

watchReadiness();
showExperiments();
