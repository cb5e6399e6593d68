// What experiments on live traffic found, in the service's words; and telling it what a picture really shows.
import { ask, byId, make, number, send } from "./service.js";

const MODES = {
  split: "each subject is answered by one arm",
  shadow: "the candidate runs behind the answers",
  paired: "both arms run on the same pictures",
};
const AGAIN_MS = [1000, 4000]; // after a label
let known = null; // whether this service has experiments and feedback; null before it has told

function card(found) {
  const [baseline, candidate] = found.arms, lines = found.verdict?.sentences ?? [];
  const state = found.state === "running" ? "running" : found.state;
  return make("article", { class: "panel experiment" },
    make("h3", {}, `${found.name} (${state})`),
    make("p", { class: "summary" }, found.verdict?.summary ?? found.problem ?? "It cannot run."),
    make("ul", {}, ...lines.map((line) => make("li", {}, line))),
    make("p", { class: "quiet" }, `${found.description ? `${found.description} ` : ""}${found.task}: is ${candidate.name} good enough in place of ${baseline.name}? `
      + `In mode ${found.mode}, ${MODES[found.mode]}; up to ${number(100 * found.margin, 1)} points of accuracy may be lost.`
      + `${found.problem && found.verdict ? ` ${found.problem}` : ""}`));
}

export async function showExperiments() {
  const place = byId("experiment-list");
  try {
    const { experiments } = await (await ask("experiments")).json();
    known = true;
    place.replaceChildren(...(experiments.length ? experiments.map(card)
      : [make("p", { class: "empty" }, "No experiment is declared. One that compares binary with full on live traffic is a few lines in a file: see the setting experiments_file.")]));
  } catch (error) {
    if (error.status === 404) known = false;
    byId("experiments").hidden = error.status === 404;
    place.replaceChildren(make("p", { class: "empty" }, error.message));
  }
}

/** Asks again where the service has not told yet: without its key, it does not. */
export async function knowExperiments() {
  if (known === null) await showExperiments();
}

/** Buttons that say what the picture shows; sends nothing until one of them is pressed. */
export function offerFeedback(task, found, file) {
  const place = byId("judge");
  place.hidden = !known || task !== "classify";
  if (place.hidden) return;
  const names = [...new Set(["a", "b"].flatMap((side) => found[side].predictions.map(({ name }) => name)))];
  const said = make("p", { role: "status" });
  let busy = false;
  const tell = async (label) => {
    if (busy || !label.trim()) return;
    busy = true;
    said.textContent = "Sending ...";
    try {
      // Answers, not comparisons, carry tokens; without a variant the answer is part of a running experiment.
      const answer = await (await send("classify", file)).json();
      const told = await (await send("feedback", JSON.stringify({ token: answer.feedback_token, label: label.trim() }), "application/json")).json();
      said.textContent = `${told.status === "stored" ? "Thank you, it is stored" : "This was stored before"}: ${told.variant} was ${told.correct ? "right" : "wrong"}.`;
      await showExperiments();
      // In a pair the other arm may still be running: it counts with the label when it is done.
      for (const wait of AGAIN_MS) setTimeout(showExperiments, wait);
    } catch (error) {
      said.textContent = error.message;
    }
    busy = false;
  };
  const buttons = names.map((name) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => tell(name));
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
    make("p", { class: "quiet" }, "Counts in the accuracy of live traffic. The label is kept, the picture is not."));
}
