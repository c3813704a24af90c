// The picture with its boxes. `element` is the component, `props.value` what stage.py makes. Texts become text nodes,
// never markup. Boxes and points are in pixels of the picture, whatever its size on the screen.
const find = (name) => element.querySelector(".stage-" + name);
const empty = find("empty"), tools = find("tools"), button = find("draw"), hint = find("hint");
const frame = find("frame"), image = find("image"), layer = find("layer");
const HINTS = {
  look: "Click a box to see why it is there.",
  draw: "Drag from corner to corner, or click two corners. Escape ends it.",
};
let drawing = false, corner = null, pressed = null, ended = 0;

function place(node, box) {
  const [x0, y0, x1, y1] = box, { width, height } = props.value;
  node.style.left = (100 * x0) / width + "%";
  node.style.top = (100 * y0) / height + "%";
  node.style.width = (100 * (x1 - x0)) / width + "%";
  node.style.height = (100 * (y1 - y0)) / height + "%";
}

function boxOf(box, kind) {
  const node = document.createElement("div");
  node.className = kind;
  place(node, box);
  layer.append(node);
  return node;
}

function show() {
  const value = props.value;
  empty.hidden = Boolean(value);
  tools.hidden = frame.hidden = !value;
  layer.replaceChildren();
  if (!value) return image.removeAttribute("src");
  if (image.getAttribute("src") !== value.picture) image.setAttribute("src", value.picture);
  image.alt = value.alt;
  frame.style.setProperty("--aspect", value.width / value.height);
  // The surest ones last, on top.
  for (const found of [...value.boxes].reverse()) {
    const isPicked = found.row === value.picked;
    const node = boxOf(found.box, isPicked ? "found picked" : "found");
    node.dataset.row = found.row;
    node.style.borderColor = found.fill;
    const tag = document.createElement("span");
    tag.textContent = found.label;
    tag.style.background = found.fill;
    tag.style.color = found.text;
    tag.classList.toggle("inside", found.box[1] < 0.06 * value.height);
    tag.classList.toggle("leftward", found.box[0] + found.box[2] > 1.2 * value.width); // it would be cut off
    node.append(tag);
  }
  layer.classList.toggle("has-picked", value.picked !== null && value.picked !== undefined);
  if (value.drawn) boxOf(value.drawn, "own");
}

function setDrawing(on) {
  drawing = on;
  corner = pressed = null;
  layer.querySelector(".now")?.remove();
  button.setAttribute("aria-pressed", String(on));
  frame.classList.toggle("drawing", on);
  hint.textContent = on ? HINTS.draw : HINTS.look;
}

function pointOf(event) {
  const area = frame.getBoundingClientRect(), { width, height } = props.value;
  const within = (at, size) => Math.min(Math.max(at, 0), 1) * size;
  return [within((event.clientX - area.left) / area.width, width), within((event.clientY - area.top) / area.height, height)];
}

function between(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}

function sketch(box) {
  const node = layer.querySelector(".now") || boxOf(box, "own now");
  place(node, box);
}

frame.addEventListener("pointerdown", (event) => {
  if (!drawing || event.button !== 0) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  pressed = { at: pointOf(event), x: event.clientX, y: event.clientY };
});
frame.addEventListener("pointermove", (event) => {
  const from = pressed?.at || corner;
  if (drawing && from) sketch(between(from, pointOf(event)));
});
frame.addEventListener("pointerup", (event) => {
  if (!drawing || !pressed) return;
  const at = pointOf(event);
  const moved = Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 6;
  const from = moved ? pressed.at : corner;
  pressed = null;
  if (!from) {
    corner = at;
    return sketch([...at, ...at]);
  }
  const corners = between(from, at).map((number) => number.toFixed(1)).join(", ");
  setDrawing(false);
  ended = Date.now();
  trigger("draw", { corners });
});
frame.addEventListener("click", (event) => {
  if (drawing || Date.now() - ended < 300) return; // or it is the click that comes with the end of a drag
  const [x, y] = pointOf(event);
  trigger("pick", { x, y });
});
button.addEventListener("click", () => setDrawing(!drawing));
element.addEventListener("keydown", (event) => event.key === "Escape" && setDrawing(false));
watch("value", show);
show();
