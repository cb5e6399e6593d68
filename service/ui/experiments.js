// The results of experiments on live traffic, and feedback on what a picture really shows.
import { ask, byId, make, number, query, send } from "./service.js";

const MODES = {
  split: "each subject always gets the same arm",
  shadow: "the candidate runs in the background, after the answer",
  paired: "both arms run on the same pictures",
};
const AGAIN_MS = [1000, 4000]; // when to refresh the results after a label
let known = null; // whether this service has experiments and feedback; null while unknown

function card(found) {
  const [baseline, candidate] = found.arms, lines = found.verdict?.sentences ?? [];
  return make("article", { class: "panel experiment" },
    make("h3", {}, `${found.name} (${found.state})`),
    make("p", { class: "summary" }, found.verdict?.summary ?? found.problem ?? "This experiment cannot run."),
    make("ul", {}, ...lines.map((line) => make("li", {}, line))),
    make("p", { class: "quiet" }, `${found.description ? `${found.description} ` : ""}Task ${found.task}: is ${candidate.name} good enough to replace ${baseline.name}? `
      + `Mode ${found.mode}: ${MODES[found.mode]}. Accepted loss of accuracy: ${number(100 * found.margin, 1)} points.`
      + `${found.problem && found.verdict ? ` ${found.problem}` : ""}`));
}

export async function showExperiments() {
  const place = byId("experiment-list");
  try {
    const { experiments } = await (await ask("experiments")).json();
    known = true;
    place.replaceChildren(...(experiments.length ? experiments.map(card)
      : [make("p", { class: "empty" }, "No experiment is declared. To compare binary with full on live traffic, add a few lines to a file: see the setting experiments_file.")]));
  } catch (error) {
    if (error.status === 404) known = false;
    byId("experiments").hidden = error.status === 404;
    place.replaceChildren(make("p", { class: "empty" }, error.message));
  }
}

/** Loads the experiments if that has not succeeded yet, for example because the key was missing. */
export async function knowExperiments() {
  if (known === null) await showExperiments();
}

/**
 * Shows buttons to label the picture. Nothing is sent until one of them is pressed. The drawings get none: their labels
 * would count as accuracy on live traffic, and alert somebody.
 */
export function offerFeedback({ task, file, model, drawn }, found) {
  const place = byId("judge");
  place.hidden = !known || task !== "classify" || drawn;
  if (place.hidden) return;
  const classes = new Map(["a", "b"].flatMap((side) => found[side].predictions.map(({ wnid, name }) => [wnid, name])));
  const names = [...classes.values()], isShared = (name) => names.indexOf(name) !== names.lastIndexOf(name); // ImageNet has two cranes
  const said = make("p", { role: "status" });
  let busy = false;
  const tell = async (label) => {
    if (busy || !label.trim()) return;
    busy = true;
    said.textContent = "Sending ...";
    try {
      // Only answers, not comparisons, have tokens. Requests without a variant take part in a running experiment.
      const answer = await (await send(`classify${query({ model })}`, file)).json();
      const told = await (await send("feedback", JSON.stringify({ token: answer.feedback_token, label: label.trim() }), "application/json")).json();
      said.textContent = `${told.status === "stored" ? "Thank you, your label is stored" : "This label was stored before"}: ${told.variant} was ${told.correct ? "right" : "wrong"}.`;
      await showExperiments();
      // The other arm may still be running; the label counts for it when it is done.
      for (const wait of AGAIN_MS) setTimeout(showExperiments, wait);
    } catch (error) {
      said.textContent = error.message;
    }
    busy = false;
  };
  const buttons = [...classes].map(([wnid, name]) => {
    const button = make("button", { type: "button" }, isShared(name) ? `${name} (${wnid})` : name);
    button.addEventListener("click", () => tell(wnid));
    return button;
  });
  const other = make("input", { type: "text", id: "other", maxlength: 200 }), form = make("form", { class: "other" },
    make("label", { for: "other" }, "Another class"), other, make("button", {}, "Send"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tell(other.value);
  });
  place.replaceChildren(make("h3", {}, "Who is right? Tell the service what the picture shows"),
    make("div", { class: "labels" }, ...buttons), form, said,
    make("p", { class: "quiet" }, "Your label counts towards the accuracy on live traffic. The label is stored, the picture is not."));
}
