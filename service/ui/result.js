// Shows a comparison: the answers, their costs, and the accuracy from the models' cards.
import { byId, figure, make, number, reveal } from "./service.js";

const MEASURES = { top1: "Top-1 accuracy", delta1: "Points within 1.25x of the truth" };
const AGREEMENT = 0.9; // share of the pixels that must be within a factor of 1.25; see service.tasks.depth
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const median = (values) => [...values].sort((x, y) => x - y)[Math.floor(values.length / 2)];
const runs = (so) => (so.a.length === 1 ? "one run" : `median of ${so.a.length} runs`);
const seenSoFar = new Map(); // comparisons on this page, by task, models and pair of variants

/** A row of a table with bars. The bar is hidden from screen readers; the value is next to it. */
function row(name, value, share, side) {
  const fill = make("i");
  fill.style.setProperty("--share", `${100 * Math.min(Math.max(share, 0), 1)}%`);
  const bar = make("span", { class: "bar", "aria-hidden": "true" }, fill);
  return make("tr", { class: `side-${side}` }, make("th", { scope: "row" }, name), make("td", {}, bar), make("td", { class: "value" }, value));
}

const table = (caption, ...rows) => make("table", { class: "figures" }, make("caption", {}, caption), make("tbody", {}, ...rows));

function pair(caption, found, values, text) {
  const most = Math.max(values.a, values.b) || 1;
  return table(caption, ...["a", "b"].map((side) => row(found[side].variant, text(values[side]), values[side] / most, side)));
}

/** Whether one network ran twice, as when `reference` replaces a `binary` that cannot run. */
const isSame = ({ a, b }) => ["model", "version", "variant"].every((part) => a[part] === b[part]);

export function verdict(task, found) {
  const { a, b } = found, names = `${a.variant} and ${b.variant}`;
  if (isSame(found)) return `${a.variant}: the same variant twice. Differences are noise.`;
  if (task === "classify") {
    const [first, second] = [a, b].map((side) => side.predictions[0].name);
    return found.agree ? `${names} both say ${first}.` : `They differ: ${a.variant} says ${first}, ${b.variant} says ${second}.`;
  }
  const share = `${number(100 * found.within_1_25, 1)} % of the pixels lie within a factor of 1.25`;
  return `${names} ${found.agree ? "agree" : "do not agree"}: ${share}, and ${100 * AGREEMENT} % are required.`;
}

function tiles(found, so) {
  const { a, weights } = found, speedup = median(so.b) / median(so.a);
  const times = (ratio, more, less) => (ratio >= 1 ? [`${figure(ratio)}x`, more] : [`${figure(1 / ratio)}x`, less]);
  const files = weights.b_artefact_bytes / weights.a_artefact_bytes;
  const decode = [`${figure(found.a.timings_ms.decode)} ms`, "to decode the picture, once for both"];
  const shown = isSame(found) ? [decode] : [
    times(speedup, `faster with ${a.variant} (${runs(so)})`, `slower with ${a.variant} (${runs(so)})`),
    times(weights.ratio, `smaller weights in memory with ${a.variant}`, `larger weights in memory with ${a.variant}`),
    times(files, `smaller file with ${a.variant}`, `larger file with ${a.variant}`),
    decode,
  ];
  return shown.map(([value, what]) => make("li", {}, make("strong", {}, value), make("span", {}, what)));
}

function side(task, found, which) {
  const answer = found[which], other = found[which === "a" ? "b" : "a"];
  const head = make("div", { class: "name" }, make("h3", {}, answer.variant), make("span", { class: "quiet" }, `${answer.model}@${answer.version} · ${answer.kernel}`));
  const parts = [head];
  if (answer.fallback) parts.push(make("p", { class: "problem" }, answer.fallback));
  if (task === "classify") {
    const best = other.predictions[0].wnid;
    parts.push(table("Best classes", ...answer.predictions.map((item) => {
      const line = row(item.name, percent(item.probability), item.probability, which);
      if (item.wnid === best) line.querySelector("th").classList.add("same-class");
      return line;
    })));
    parts.push(make("p", { class: "quiet" }, `Bold: the first choice of ${other.variant}.`));
  } else {
    const most = Math.max(found.a.max_m, found.b.max_m);
    parts.push(table("Depth", ...["min", "median", "max"].map((name) => {
      const metres = answer[`${name}_m`];
      return row({ min: "nearest", median: "median", max: "farthest" }[name], `${number(metres, 1)} m`, metres / most, which);
    })));
    parts.push(make("p", { class: "quiet" }, `Focal length ${number(answer.focal.fx_px, 0)} px: ${answer.focal.reason}`));
  }
  return make("article", { class: `panel side-${which}` }, ...parts);
}

/** Accuracy from the models' cards, measured on the named data sets, not on the picture above. */
function accuracy(found, models) {
  const values = {}, notes = new Set();
  let measure;
  for (const which of ["a", "b"]) {
    const answer = found[which], model = models.find(({ name, version }) => name === answer.model && version === answer.version);
    const metric = model?.metrics.find(({ variant, values: measured }) => variant === answer.variant && ("top1" in measured || "delta1" in measured));
    if (!metric) return [];
    measure = "top1" in metric.values ? "top1" : "delta1";
    values[which] = metric.values[measure];
    notes.add(`${metric.dataset}, n = ${metric.n}`);
  }
  const rows = ["a", "b"].map((which) => row(found[which].variant, percent(values[which]), values[which], which));
  return [table(`${MEASURES[measure]} (card: ${[...notes].join("; ")})`, ...rows)];
}

/** Adds a comparison to those of the same task and variants on this page. */
function remember(task, found) {
  const key = [task, ...[found.a, found.b].flatMap(({ model, version, variant }) => [model, version, variant])].join(" ");
  const so = seenSoFar.get(key) ?? { agreed: 0, a: [], b: [] };
  seenSoFar.set(key, so);
  so.agreed += found.agree ? 1 : 0;
  for (const which of ["a", "b"]) so[which].push(found[which].timings_ms.inference);
  return so;
}

function tally(so) {
  const count = so.a.length;
  const text = count === 1 ? "One run says little about speed. Compare again to see medians."
    : `${count} comparisons on this page, ${so.agreed} of them in agreement. Times are medians.`;
  return `${text} Accuracy is from the models' cards and was not measured on your picture.`;
}

export function show(task, found, models) {
  for (const id of ["verdict", "said"]) byId(id).textContent = verdict(task, found);
  const so = remember(task, found);
  byId("tiles").replaceChildren(...tiles(found, so));
  byId("sides").replaceChildren(...["a", "b"].map((which) => side(task, found, which)));
  const of = (get) => ({ a: get("a"), b: get("b") }), megabytes = (bytes) => `${figure(bytes / 1e6)} MB`;
  byId("bars").replaceChildren(
    pair(`Inference, ${runs(so)}`, found, of((which) => median(so[which])), (ms) => `${figure(ms)} ms`),
    pair("Weights in memory", found, of((which) => found.weights[`${which}_bytes`]), megabytes),
    pair("File", found, of((which) => found.weights[`${which}_artefact_bytes`]), megabytes),
    ...accuracy(found, models));
  byId("tally").textContent = tally(so);
  byId("empty").hidden = true;
  byId("answer").hidden = false;
  reveal(byId("verdict"));
}
