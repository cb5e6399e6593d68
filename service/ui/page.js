// The page: the service's state, the choice of a picture, and the request for the comparison.
import { ask, base, byId, query, reveal, send } from "./service.js";
import { knowExperiments, offerFeedback, showExperiments } from "./experiments.js";
import { readNpy, showMaps } from "./maps.js";
import { findModels, fitTask, offerModels, offerVariants, options } from "./options.js";
import { show } from "./result.js";

const form = byId("try"), button = byId("send"), drop = byId("drop"), preview = byId("preview");
const ANSWER_MS = 10000; // within which the service says whether it is ready; a lost connection would say nothing for minutes
let chosen = null; // a File, or a Blob of one of our drawings
let drawn = false; // whether it is one of our drawings
let choices = 0; // number of choices so far, so that a drawing that loads late does not replace a later choice
let running = null; // the comparison in progress
let next = false; // whether another comparison was requested meanwhile

for (const place of document.querySelectorAll(".origin")) place.textContent = base;

// ---- the service's state ---------------------------------------------------------------------------------------

async function watchReadiness() {
  let text = "The service does not answer.", ready = false;
  try {
    const found = await (await fetch(`${base}readyz`, { signal: AbortSignal.timeout(ANSWER_MS) })).json();
    ready = found.ready;
    text = ready ? "Ready" : `Not ready: ${found.reasons.join(" ")}`;
    if (ready) offerVariants(found.models);
  } catch { /* `text` says so */ }
  const state = byId("state");
  if (ready && !state.classList.contains("ready")) findModels();
  state.classList.toggle("ready", ready);
  if (state.textContent !== text) state.textContent = text; // otherwise, screen readers would announce it again
  setTimeout(watchReadiness, ready ? 15000 : 2000);
}

// ---- choosing a picture ----------------------------------------------------------------------------------------

/** Removes the answer: it belongs to a picture or to options that are not shown any more, and so do its labels. */
function withdraw() {
  tellProblem("");
  byId("answer").hidden = true;
  if (running) return;
  byId("said").textContent = "";
  if (chosen) tellEmpty("Not compared yet with these choices. Press Compare.");
}

/** Shows a picture. */
function choose(file, name, isDrawing = false) {
  chosen = file;
  drawn = isDrawing;
  choices += 1;
  withdraw();
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
// Anywhere on the page: beside the field, the browser would leave the page to open the picture.
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return; // text may be dragged into a field
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
    fitTask();
    choices += 1;
    const choice = choices;
    try {
      const picture = await (await ask(`ui/sample-${name}.jpg`)).blob();
      if (choice !== choices) return;
      choose(picture, name, true);
    } catch (error) {
      return tellProblem(error.message);
    }
    await compare();
  });
}

form.addEventListener("input", (event) => {
  if (!["task", "a", "b", "model", "fx"].includes(event.target.name)) return;
  fitTask();
  withdraw();
});

// ---- comparing -------------------------------------------------------------------------------------------------

function tellProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (!text) return;
  byId("answer").hidden = true;
  reveal(byId("problem"));
}

function tellEmpty(text) {
  byId("empty").textContent = text;
  byId("empty").hidden = false;
}

const asked = () => ({ file: chosen, drawn, ...options() });
const same = (one, other) => Object.keys(one).every((name) => one[name] === other[name]);

async function askBoth(wanted) {
  const { file, task, a, b, model, fx } = wanted;
  const found = await (await send(`compare/${task}${query({ a, b, model, fx })}`, file)).json();
  const { models } = await (await ask("models")).json();
  const maps = {};
  if (task === "depth") {
    for (const [side, variant] of Object.entries({ a, b })) {
      maps[side] = readNpy(await (await send(`depth${query({ format: "npy", variant, model, fx })}`, file)).arrayBuffer());
    }
  }
  await knowExperiments();
  byId("maps").hidden = true;
  if (task === "depth") await showMaps(byId("maps"), wanted, found, maps);
  offerModels(models);
  if (!same(wanted, asked())) return; // something else has been chosen meanwhile
  offerFeedback(wanted, found);
  show(task, found, models);
}

async function compare() {
  if (chosen && !form.reportValidity()) return;
  if (running) {
    next = !same(running, asked());
    return;
  }
  if (!chosen) return tellProblem("Choose a picture first, or one of the drawings.");
  byId("empty").hidden = true;
  button.setAttribute("aria-disabled", "true"); // not `disabled`, which would remove the focus
  button.textContent = byId("said").textContent = "Comparing ...";
  do {
    next = false;
    running = asked();
    tellProblem("");
    try {
      await askBoth(running);
    } catch (error) {
      if (!same(running, asked())) continue;
      tellProblem(error.message);
      if (error.lost) form.picture.value = ""; // to choose the same file again would be no change
    }
  } while (next);
  running = null;
  if (byId("answer").hidden && byId("problem").hidden) withdraw(); // what is chosen now has not been compared
  else if (byId("answer").hidden) byId("said").textContent = ""; // problems have a separate element
  button.removeAttribute("aria-disabled");
  button.textContent = "Compare";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});

byId("key").addEventListener("change", showExperiments);
byId("key").addEventListener("change", findModels);
addEventListener("pageshow", () => { // browsers restore the choices: after a reload, and with the picture after "back"
  fitTask();
  const [file] = form.picture.files;
  if (file && !chosen) choose(file, file.name);
});
fitTask();
watchReadiness();
showExperiments();
