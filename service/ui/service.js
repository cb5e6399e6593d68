// Requests to the service. All URLs are relative to the page, so that it also works under a path prefix of a proxy.
export const base = new URL(".", location.href).href;
export const byId = (id) => document.getElementById(id);
export const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
export const figure = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

/** Creates an element with attributes and children. Values are set, never parsed as HTML. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Scrolls to what has just appeared, unless it is in view. The focus stays where the next choice is made. */
export function reveal(element) {
  const { top, bottom } = element.getBoundingClientRect();
  if (top >= 0 && bottom <= innerHeight) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: still ? "instant" : "smooth" });
}

/** Writes the query of a request, without the options that are not set. */
export const query = (options) => `?${new URLSearchParams(Object.entries(options).filter(([, value]) => value))}`;

/** Whether a body is a file that cannot be read, which `fetch` reports like a lost connection. Of one that is gone, a part is empty. */
async function isLost(body) {
  if (!(body instanceof Blob)) return false;
  try {
    return (await body.slice(0, 1).arrayBuffer()).byteLength === 0;
  } catch {
    return true;
  }
}

/** Sends a request. Throws an error with the service's own message if it fails. */
export async function ask(path, options = {}) {
  const key = byId("key").value;
  const headers = { ...options.headers, ...(key ? { "x-api-key": key } : {}) };
  let response;
  try {
    response = await fetch(base + path, { ...options, headers });
  } catch {
    if (await isLost(options.body)) {
      throw Object.assign(new Error("The picture cannot be read. Has it been changed, moved or deleted, or is it a folder? Choose it again."), { lost: true });
    }
    throw new Error("The service did not answer. Is it still running?");
  }
  if (response.ok) return response;
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = null;
  }
  if (typeof problem?.detail !== "string") {
    throw new Error(`The service answered with status ${response.status} and no message. Is there a proxy in between?`);
  }
  if (response.status === 401) byId("key-row").hidden = false;
  const error = new Error(`${problem.detail} ${problem.help ?? ""}`.trim());
  error.status = response.status;
  throw error;
}

export const send = (path, body, type) => ask(path, { method: "POST", body, headers: type ? { "content-type": type } : {} });
