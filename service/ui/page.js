// The page: the service's state, the choice of a picture, and the request for the comparison.
import { ask, base, byId, send } from "./service.js";
import { knowExperiments, offerFeedback, showExperiments } from "./experiments.js";
import { readNpy, showMaps } from "./maps.js";
import { show } from "./result.js";

const form = byId("try"), button = byId("send"), drop = byId("drop"), preview = byId("preview");
let chosen = null; // a File, or a Blob of one of our drawings
let choices = 0; // number of choices so far, so that a drawing that loads late does not replace a later choice
let running = null; // the comparison in progress
let next = false; // whether another comparison was requested meanwhile

for (const place of document.querySelectorAll(".origin")) place.textContent = base;

// ---- the service's state ---------------------------------------------------------------------------------------

async function watchReadiness() {
  let text = "The service does not answer.", ready = false;
  try {
    const found = await (await fetch(`${base}readyz`)).json();
    ready = found.ready;
    text = ready ? "Ready" : `Not ready: ${found.reasons.join(" ")}`;
    if (ready) offerVariants(found.models);
  } catch { /* `text` says so */ }
  const state = byId("state");
  state.classList.toggle("ready", ready);
  if (state.textContent !== text) state.textContent = text; // otherwise, screen readers would announce it again
  setTimeout(watchReadiness, ready ? 15000 : 2000);
}

/** Disables the variants that no model can run. */
function offerVariants(models) {
  const served = new Set(Object.entries(models).filter(([, runs]) => runs).map(([name]) => name.split("/").pop()));
  for (const option of form.querySelectorAll("option")) option.disabled = !served.has(option.value);
}

// ---- choosing a picture ----------------------------------------------------------------------------------------

/** Shows a picture and removes the previous answer, so that a label cannot be given to a picture that is not shown. */
function choose(file, name) {
  chosen = file;
  choices += 1;
  tellProblem("");
  byId("answer").hidden = true;
  if (!running) byId("said").textContent = "";
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
    choices += 1;
    const choice = choices;
    try {
      const picture = await (await ask(`ui/sample-${name}.jpg`)).blob();
      if (choice !== choices) return;
      choose(picture, name);
    } catch (error) {
      return tellProblem(error.message);
    }
    await compare();
  });
}

// ---- comparing -------------------------------------------------------------------------------------------------

function tellProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
  if (text) byId("answer").hidden = true;
}

const asked = () => ({ file: chosen, task: form.task.value, a: form.a.value, b: form.b.value });
const same = (one, other) => Object.keys(one).every((name) => one[name] === other[name]);

async function askBoth({ file, task, a, b }) {
  const found = await (await send(`compare/${task}?a=${a}&b=${b}`, file)).json();
  const { models } = await (await ask("models")).json();
  const maps = {};
  if (task === "depth") {
    for (const [side, variant] of Object.entries({ a, b })) {
      maps[side] = readNpy(await (await send(`depth?format=npy&variant=${variant}`, file)).arrayBuffer());
    }
  }
  await knowExperiments();
  byId("maps").hidden = true;
  if (task === "depth") await showMaps(byId("maps"), file, found, maps);
  if (file !== chosen) return; // another picture has been chosen meanwhile
  offerFeedback(task, found, file);
  show(task, found, models);
}

async function compare() {
  if (running) {
    next = !same(running, asked());
    return;
  }
  if (!chosen) return tellProblem("Choose a picture first, or one of the drawings.");
  button.setAttribute("aria-disabled", "true"); // not `disabled`, which would remove the focus
  button.textContent = byId("said").textContent = "Comparing ...";
  do {
    next = false;
    running = asked();
    tellProblem("");
    try {
      await askBoth(running);
    } catch (error) {
      if (running.file === chosen) tellProblem(error.message);
    }
  } while (next);
  running = null;
  if (byId("answer").hidden) byId("said").textContent = ""; // problems have a separate element
  button.removeAttribute("aria-disabled");
  button.textContent = "Compare";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  compare();
});

byId("key").addEventListener("change", showExperiments);
watchReadiness();
showExperiments();
