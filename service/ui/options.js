// The choices of a comparison: which of them this service has, and which belong to the task.
import { ask, byId, make } from "./service.js";

const form = byId("try");
let served = null; // the variants that some model can run; null while unknown
let models = []; // as of /models

/** Disables the variants that no model can run and, on each side, that of the other side: it would be compared with itself. */
function keepApart() {
  for (const [own, other] of [["a", "b"], ["b", "a"]]) {
    for (const option of form[own].options) {
      option.disabled = (served !== null && !served.has(option.value)) || option.value === form[other].value;
    }
  }
}

/** Takes in which variants can run, as /readyz says it. */
export function offerVariants(readiness) {
  served = new Set(Object.entries(readiness).filter(([, runs]) => runs).map(([name]) => name.split("/").pop()));
  keepApart();
}

/** Shows what belongs to the task: its models, if there are several, and the focal length. */
export function fitTask() {
  const task = form.task.value;
  const fitting = models.filter((model) => model.task === task && model.precision === "binary");
  const entries = fitting.map(({ name, version, default: usual }) => [usual ? "" : `${name}@${version}`, `${name}@${version}${usual ? " (default)" : ""}`]);
  const chosen = form.model.value;
  if (String(entries) !== String([...form.model.options].map(({ value, text }) => [value, text]))) { // an open list would close
    form.model.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
    form.model.value = entries.some(([value]) => value === chosen) ? chosen : "";
    if (form.model.selectedIndex < 0) form.model.selectedIndex = 0;
  }
  byId("model-row").hidden = form.model.disabled = entries.length < 2;
  byId("fx-row").hidden = form.fx.disabled = task !== "depth"; // a disabled field is not checked
  keepApart();
}

export function offerModels(found) {
  models = found;
  fitTask();
}

/** Asks the service for its models. Without the key there is no choice among them; comparing says what is wrong. */
export async function findModels() {
  try {
    offerModels((await (await ask("models")).json()).models);
  } catch { /* see above */ }
}

/** What is chosen besides the picture. */
export const options = () => ({
  task: form.task.value,
  a: form.a.value,
  b: form.b.value,
  model: form.model.disabled ? "" : form.model.value,
  fx: form.fx.disabled ? "" : form.fx.value,
});
