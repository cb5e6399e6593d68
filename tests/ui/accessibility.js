// What tests/ui asks of the page as it stands, run in the browser.
({
// The contrast of every visible text with what lies behind it, by WCAG 2's formula: [ratio, text] each.
contrasts: () => {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (element) => { for (let at = element; at; at = at.parentElement) {
    const c = parse(getComputedStyle(at).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("option, [aria-disabled], .skip")) continue;
    const style = getComputedStyle(element), pair = [light(parse(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    found.push([ratio, element.tagName + " " + element.textContent.trim().slice(0, 40)]);
  }
  return found;
},

// Controls without a name, pictures without a text, ids used twice, headings that leave out a level.
faults: () => {
  const found = [], seen = new Set();
  const name = (e) => (e.getAttribute("aria-label") || (e.labels && [...e.labels].map((l) => l.textContent).join(" ")) || e.textContent || "").trim();
  for (const e of document.querySelectorAll("button, a, input, select")) if (e.checkVisibility() && !name(e)) found.push("no name: " + e.outerHTML);
  for (const e of document.querySelectorAll("img")) if (e.checkVisibility() && !e.hasAttribute("alt")) found.push("no alt: " + e.outerHTML);
  for (const e of document.querySelectorAll("canvas")) if (!e.closest("[aria-hidden]") && !name(e)) found.push("no name: canvas");
  for (const e of document.querySelectorAll("[id]")) { if (seen.has(e.id)) found.push("twice: " + e.id); seen.add(e.id); }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]"))
    for (const id of (e.getAttribute("aria-labelledby") || e.getAttribute("aria-describedby") || e.htmlFor).split(" "))
      if (!document.getElementById(id)) found.push("points nowhere: " + id);
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) if (e.checkVisibility()) {
    const own = +e.tagName[1]; if (own > level + 1) found.push("heading leaves out a level: " + e.textContent); level = own; }
  for (const e of document.querySelectorAll("table")) if (e.checkVisibility() && !e.querySelector("th[scope]")) found.push("table without headers");
  return found;
},
})
