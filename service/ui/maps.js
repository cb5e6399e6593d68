// Depth maps as pictures: both on one scale with a divider between them, and a map of their differences.
import { figure, make, number, query, send } from "./service.js";

const DEPTH = [[12, 8, 38], [64, 18, 107], [140, 41, 129], [214, 71, 104], [251, 135, 97], [254, 238, 190]];
const ERROR = [[24, 28, 34], [60, 50, 90], [170, 50, 70], [250, 170, 60], [255, 250, 210]];
const SEEN_PX = 1600; // most pixels across the drawn picture: phones leave a canvas of many millions of pixels empty
const ERROR_MAX = 0.5; // relative difference at the bright end of the scale

/** Reads a float32 array [height, width] from a .npy file. */
export function readNpy(buffer) {
  const view = new DataView(buffer), length = view.getUint16(8, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, 10, length));
  const [, height, width] = header.match(/'shape': \((\d+), (\d+)\)/);
  if (!header.includes("'<f4'")) throw new Error("The service sent the depth map in an unexpected format.");
  return { width: +width, height: +height, metres: new Float32Array(buffer.slice(10 + length)) };
}

/** Returns the colour at position 0 .. 1 of a palette, by linear interpolation. */
function colour(palette, at) {
  const place = Math.min(Math.max(at, 0), 1) * (palette.length - 1), low = Math.min(Math.floor(place), palette.length - 2);
  return palette[low].map((from, channel) => from + (palette[low + 1][channel] - from) * (place - low));
}

function paint(width, height, palette, valueAt, label) {
  const canvas = make("canvas", { width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const table = Array.from({ length: 256 }, (_, step) => colour(palette, step / 255));
  for (let pixel = 0; pixel < width * height; pixel++) {
    const [red, green, blue] = table[Math.round(255 * Math.min(Math.max(valueAt(pixel), 0), 1))];
    image.data.set([red, green, blue, 255], 4 * pixel);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Creates a colour bar with labels at its ends; `ticks` are [position 0 .. 1, text, minor] below it. */
function scale(palette, left, right, ticks = []) {
  const canvas = paint(256, 1, palette, (pixel) => pixel / 255, `Scale: from ${left} to ${right}`);
  const below = make("div", ticks.length ? { class: "ticks" } : {}, ...ticks.map(([at, text, minor]) => {
    const tick = make("span", minor ? { class: "minor" } : {}, text);
    tick.style.setProperty("--at", `${100 * at}%`);
    return tick;
  }));
  return make("div", { class: "scale" }, left, make("div", {}, canvas, below), right);
}

/** Picks round depths for ticks that do not overlap; minor ticks would overlap on a narrow screen. */
function depthTicks(near, far) {
  const ticks = [];
  for (const mantissas of [[1], [2, 5], [3, 4, 6, 8], [1.2, 1.5, 2.5, 7]]) {
    for (let decade = Math.floor(Math.log10(near)); decade <= Math.log10(far); decade++) {
      for (const mantissa of mantissas) {
        const metres = mantissa * 10 ** decade, at = (1 / near - 1 / metres) / (1 / near - 1 / far);
        if (at > 0.03 && at < 0.97 && ticks.every(([other]) => Math.abs(other - at) > 0.11)) {
          const minor = ticks.some(([other, , less]) => !less && Math.abs(other - at) < 0.28);
          ticks.push([at, `${figure(metres)} m`, minor]);
        }
      }
    }
  }
  return ticks.sort(([first], [second]) => first - second);
}

const FILES = [["ply", "Points (.ply)", "ply"], ["png16", "16-bit PNG", "png"], ["npy", "NumPy (.npy)", "npy"], ["color", "Colours (.png)", "png"]];

/** Creates buttons that download a variant's map as a file. Links cannot be used because they do not send the key. */
function downloads({ file, model, fx }, name, readout) {
  const buttons = FILES.map(([format, text, suffix]) => {
    const button = make("button", { type: "button", "aria-label": `Save the depth by ${name} as ${text}` }, text);
    button.addEventListener("click", async () => {
      try {
        const blob = await (await send(`depth${query({ format, variant: name, model, fx })}`, file)).blob();
        const link = make("a", { href: URL.createObjectURL(blob), download: `depth-${name}${format === "png16" ? ".png16" : ""}.${suffix}` });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      } catch (error) {
        readout.textContent = error.message;
      }
    });
    return button;
  });
  return make("div", { class: "labels" }, make("span", {}, `Save ${name}:`), ...buttons);
}

/** Draws the part of the picture that the map covers, on white as the networks see transparent pixels. */
async function seen(file, { left, top, width, height }) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, SEEN_PX / width), [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(scale * side)));
  const canvas = make("canvas", { width: columns, height: rows, role: "img", "aria-label": "The part of the picture that both networks saw" });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, columns, rows);
  context.drawImage(bitmap, left, top, width, height, 0, 0, columns, rows);
  bitmap.close();
  return canvas;
}

/**
 * Lets a pointer or the arrow keys choose a pixel of a map: `choose` gets its column and row, and whether a key chose it.
 */
function explore(area, width, height, name, choose) {
  const mark = make("div", { class: "mark", "aria-hidden": "true" });
  const at = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
  const move = (x, y, byKey) => {
    [at.x, at.y] = [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
    mark.style.setProperty("--x", `${(100 * (at.x + 0.5)) / width}%`);
    mark.style.setProperty("--y", `${(100 * (at.y + 0.5)) / height}%`);
    area.classList.toggle("keyed", byKey);
    choose(at.x, at.y, byKey);
  };
  area.append(mark);
  // The role makes screen readers pass the arrow keys on.
  for (const [key, value] of Object.entries({ tabindex: 0, role: "application", "aria-label": `${name}. Arrow keys read it; with Shift, pixel by pixel.` })) area.setAttribute(key, value);
  const point = (event) => {
    const box = area.getBoundingClientRect();
    move(Math.floor((width * (event.clientX - box.left)) / box.width), Math.floor((height * (event.clientY - box.top)) / box.height), false);
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point); // a finger that taps does not move
  area.addEventListener("keydown", (event) => {
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (right === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault(); // the page would scroll
    const step = event.shiftKey ? 1 : Math.ceil(width / 40);
    move(at.x + step * right, at.y + step * down, true);
  });
}

/** Fills `place` with the picture, the maps and the error map. `found` is the comparison, `maps` the two maps. */
export async function showMaps(place, wanted, found, maps) {
  const { a, b } = maps, names = { a: found.a.variant, b: found.b.variant }, { width, height } = a;
  const sorted = Float32Array.from([...a.metres, ...b.metres]).sort();
  const near = sorted[Math.floor(0.01 * sorted.length)], far = sorted[Math.floor(0.99 * sorted.length)];
  // The scale is linear in 1 / depth, like disparity; bright is near.
  const bright = (metres) => (1 / metres - 1 / far) / (1 / near - 1 / far || 1);
  const relative = (pixel) => Math.abs(a.metres[pixel] - b.metres[pixel]) / b.metres[pixel];

  const stack = make("div", { class: "stack" },
    paint(width, height, DEPTH, (pixel) => bright(a.metres[pixel]), `Depth by ${names.a}: bright is near, dark is far`),
    paint(width, height, DEPTH, (pixel) => bright(b.metres[pixel]), `Depth by ${names.b}: bright is near, dark is far`),
    make("div", { class: "cut", "aria-hidden": "true" }));
  const input = make("input", { type: "range", min: 0, max: 100, value: 50, id: "divider", "aria-label": `Divider: ${names.a} to its left, ${names.b} to its right` });
  const cut = () => {
    stack.style.setProperty("--cut", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${names.a}`);
  };
  input.addEventListener("input", cut);
  cut();
  const readout = make("p", { class: "readout quiet" }, "Point at a map to read its depth, or focus it and use the arrow keys.");
  const spoken = make("p", { class: "unseen", role: "status" }); // not with the pointer, which would never stop talking
  const errors = make("div", { class: "stack" }, paint(width, height, ERROR, (pixel) => relative(pixel) / ERROR_MAX,
    `Where they differ: ${number(100 * found.abs_rel, 1)} % on average`));
  const read = (x, y, byKey) => {
    const pixel = y * width + x;
    readout.textContent = `Here: ${names.a} ${number(a.metres[pixel], 1)} m, ${names.b} ${number(b.metres[pixel], 1)} m, ${number(100 * relative(pixel), 0)} % apart.`;
    if (byKey) spoken.textContent = readout.textContent;
  };
  explore(stack, width, height, `Depth by ${names.a} and ${names.b}`, read);
  explore(errors, width, height, "Their differences", read);
  const { region } = found.a, image = found.image;
  place.replaceChildren(
    make("h3", {}, "Depth maps"),
    make("figure", {}, make("div", { class: "stack" }, await seen(wanted.file, region)),
      make("figcaption", {}, `What both networks saw: ${number(region.width, 0)} x ${number(region.height, 0)} of the picture's ${image.width} x ${image.height} pixels.`)),
    make("figure", {}, stack, make("div", { class: "slider" }, names.a, input, names.b),
      scale([...DEPTH].reverse(), `${figure(near)} m`, `${figure(far)} m`, depthTicks(near, far)),
      make("figcaption", {}, "Both depth maps on the same scale; bright is near.")),
    make("figure", {}, errors, scale(ERROR, "0 %", `${100 * ERROR_MAX} % and more`),
      make("figcaption", {}, `Where they differ: |${names.a} - ${names.b}| / ${names.b}, ${number(100 * found.abs_rel, 1)} % on average. This is not the error against ground truth.`)),
    readout, spoken,
    ...[...new Set(Object.values(names))].map((name) => downloads(wanted, name, readout)));
  place.hidden = false;
}
