"use strict";
// Every address is made from the page's own, so that the page also works below a path of a proxy.
const base = new URL(".", location.href).href;
const byId = (id) => document.getElementById(id);
const form = byId("try");
const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const figure = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
let addresses = []; // of pictures held in memory, to be let go

for (const place of document.querySelectorAll(".origin")) place.textContent = base;

// ---- the service's state ---------------------------------------------------------------------------------------

async function watchReadiness() {
  let text = "The service does not answer.";
  try {
    const found = await (await fetch(`${base}readyz`)).json();
    text = found.ready ? "Ready." : `Not ready: ${found.reasons.join(" ")}`;
    if (found.ready) addVariants(found.models);
  } catch { /* told by the text */ }
  if (byId("state").textContent !== text) byId("state").textContent = text; // else it would be read out again
  if (text !== "Ready.") setTimeout(watchReadiness, 2000);
}

/** Variants that no model has cannot be chosen. */
function addVariants(models) {
  const served = new Set(Object.entries(models).filter(([, runs]) => runs).map(([name]) => name.split("/").pop()));
  for (const option of form.querySelectorAll("option")) option.disabled = !served.has(option.value);
}

// ---- choosing a picture ----------------------------------------------------------------------------------------

function showPreview() {
  const [file] = form.picture.files, preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  if (file) {
    preview.src = URL.createObjectURL(file);
    preview.alt = `The chosen picture, ${file.name}`;
  }
}

form.picture.addEventListener("change", showPreview);
const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      form.picture.files = event.dataTransfer.files;
      showPreview();
    }
  });
}

// ---- asking ----------------------------------------------------------------------------------------------------

/** Sends the picture; throws what the service says is wrong, in its own words. */
async function send(path, file) {
  let response;
  try {
    response = await fetch(base + path, { method: "POST", body: file });
  } catch {
    throw new Error("The service did not answer. Is it still running?");
  }
  if (response.ok) return response;
  const problem = await response.json();
  throw new Error(`${problem.detail} ${problem.help}`);
}

async function compare() {
  const [file] = form.picture.files, task = form.task.value, sides = { a: form.a.value, b: form.b.value };
  const found = await (await send(`compare/${task}?a=${sides.a}&b=${sides.b}`, file)).json();
  const maps = {};
  if (task === "depth") {
    for (const [side, variant] of Object.entries(sides)) {
      const response = await send(`depth?format=color&variant=${variant}`, file);
      maps[side] = { range: response.headers.get("x-bireal-color-range-m"), picture: await response.blob() };
    }
  }
  show(task, found, maps);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("send");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
  button.textContent = "Comparing ...";
  byId("problem").hidden = true;
  try {
    await compare();
  } catch (error) {
    byId("answer").hidden = true;
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
  }
  button.removeAttribute("aria-disabled");
  button.textContent = "Compare";
});

// ---- showing the answer ----------------------------------------------------------------------------------------

function show(task, found, maps) {
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  byId("verdict").textContent = verdict(task, found);
  byId("cost").textContent = cost(found);
  const most = Math.max(found.a.timings_ms.inference, found.b.timings_ms.inference);
  const heaviest = Math.max(found.weights.a_bytes, found.weights.b_bytes);
  byId("sides").replaceChildren(...["a", "b"].map((side) => {
    const answer = found[side], article = byId("side").content.cloneNode(true);
    article.querySelector("h3").textContent = answer.variant;
    article.querySelector(".what").textContent = `${answer.model}, ${answer.kernel}${answer.fallback ? `: ${answer.fallback}` : ""}`;
    const body = article.querySelector(".result tbody"), costs = article.querySelector(".cost tbody");
    if (task === "classify") {
      article.querySelector(".result caption").textContent = "Classes";
      for (const item of answer.predictions) body.append(row(item.name, `${number(100 * item.probability, 1)} %`, item.probability));
    } else {
      article.querySelector(".result caption").textContent = "Depth";
      for (const name of ["min", "median", "max"]) body.append(row(name, `${number(answer[`${name}_m`], 1)} m`, 0));
      showMap(article.querySelector("figure"), answer, maps[side]);
    }
    const time = answer.timings_ms.inference, bytes = found.weights[`${side}_bytes`];
    costs.append(row("inference", `${figure(time)} ms`, time / most));
    costs.append(row("weights", `${figure(bytes / 1e6)} MB`, bytes / heaviest));
    return article;
  }));
  byId("answer").hidden = false;
  byId("verdict").focus(); // which also reads it out
}

function verdict(task, found) {
  const { a, b } = found, names = `${a.variant} and ${b.variant}`;
  if (task === "classify") {
    const [first, second] = [a, b].map((side) => side.predictions[0].name);
    return found.agree ? `${names} both say ${first}.` : `${a.variant} says ${first}, ${b.variant} says ${second}.`;
  }
  const share = `${number(100 * found.within_1_25, 1)} % of the pixels lie within a factor of 1.25`;
  return `${names} ${found.agree ? "agree" : "do not agree"}: ${share}.`;
}

function cost(found) {
  const { a, b, speedup, weights } = found;
  const fast = speedup >= 1 ? `${number(speedup, 1)} times as fast as` : `${number(1 / speedup, 1)} times as slow as`;
  const light = weights.ratio >= 1 ? `${number(weights.ratio, 1)} times smaller` : `${number(1 / weights.ratio, 1)} times larger`;
  return `In one run each, ${a.variant} was ${fast} ${b.variant}; its weights are ${light} in memory.`;
}

/** A row of figures; the bar behind it repeats the figure for the eye only. */
function row(name, value, share) {
  const line = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
  head.scope = "row";
  head.textContent = name;
  const bar = document.createElement("span"), text = document.createElement("span");
  bar.className = "bar";
  bar.ariaHidden = "true";
  bar.style.setProperty("--share", `${100 * share}%`);
  text.textContent = value;
  cell.append(bar, text);
  line.append(head, cell);
  return line;
}

function showMap(place, answer, { picture, range }) {
  const { region, variant } = answer, image = place.querySelector("img");
  image.src = URL.createObjectURL(picture);
  addresses.push(image.src);
  image.alt = `Depth map by ${variant}: bright is near, dark is far`;
  const [, near, far] = range.match(/near=([\d.]+), far=([\d.]+)/);
  place.querySelector("figcaption").textContent = `Bright is near (${number(+near, 1)} m), dark is far (${number(+far, 1)} m). `
    + `The map covers the middle ${number(region.width, 0)} x ${number(region.height, 0)} pixels of ${answer.image.width} x ${answer.image.height}.`;
  place.hidden = false;
}

watchReadiness();
