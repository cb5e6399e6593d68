"use strict";
const base = new URL(".", location.href).href;
for (const place of document.querySelectorAll(".origin")) place.textContent = base;
document.getElementById("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target.elements, answer = document.getElementById("answer");
  const colour = form.task.value === "depth" ? "&format=color" : "";
  answer.textContent = "...";
  let shown;
  try {
    const response = await fetch(`${base}${form.task.value}?variant=${form.variant.value}${colour}`,
                                 { method: "POST", body: form.picture.files[0] });
    if ((response.headers.get("content-type") || "").startsWith("image/")) {
      shown = document.createElement("img");
      shown.alt = "Depth map: bright is near, dark is far. " + response.headers.get("x-bireal-depth-m");
      shown.src = URL.createObjectURL(await response.blob());
    } else {
      shown = document.createElement("pre");
      shown.textContent = JSON.stringify(await response.json(), null, 2);
    }
  } catch (error) {
    shown = document.createElement("p");
    shown.textContent = `The service did not answer: ${error.message}`;
  }
  answer.replaceChildren(shown);
});
