// Draws the scene that the server sends, and tells it where the visitor scrolls and clicks. Gradio calls this with
// element, props, trigger and watch. Slices count from the feet, pixels are those of the scan.
const root = element.querySelector(".viewer");
const panels = [...root.querySelectorAll(".panel")];
const slider = root.querySelector(".slider");
const profile = root.querySelector(".profile");
const SETTLED_MS = 220; // without scrolling, before the networks are asked to look
const PATIENCE_MS = 8000; // for an answer, before the next request is sent all the same
const LINES = ["#56b4e9", "#c9c9c9"]; // Okabe and Ito's sky blue, and grey for the second network
let scene = null;
let wanted = 0; // the slice that the visitor has scrolled to
let sentAt = 0; // when the request was sent that is not answered yet; 0: none is
let settling = null;

function scrollTo(slice) {
  if (!scene) return;
  wanted = Math.max(0, Math.min(scene.zMm.length - 1, Math.round(slice)));
  slider.value = wanted;
  drawCursor();
  if (!sentAt || Date.now() - sentAt > PATIENCE_MS) request();
}

function request() {
  if (wanted === scene.slice) return;
  sentAt = Date.now();
  trigger("scroll", { slice: wanted });
}

function draw() {
  const next = props.value;
  // Answers may overtake each other.
  if (scene && next && next.serial < scene.serial) return;
  scene = next;
  root.hidden = !scene || !scene.panels;
  if (root.hidden) return;
  slider.max = scene.zMm.length - 1;
  // An answer to an older request: the visitor has gone on since.
  const isOld = sentAt && wanted !== scene.slice;
  sentAt = 0;
  if (!isOld) wanted = scene.slice;
  slider.value = wanted;
  root.dataset.panels = scene.panels.length;
  panels.forEach((panel, index) => drawPanel(panel, scene.panels[index]));
  drawReadout();
  drawProfile();
  drawBest();
  root.dataset.slice = scene.slice;
  root.dataset.overlay = scene.overlay;
  root.dataset.pending = scene.isPending;
  if (scene.point) root.dataset.point = JSON.stringify(scene.point);
  else delete root.dataset.point;
  root.dataset.encoded = scene.numEncoded;
  clearTimeout(settling);
  if (isOld) request();
  else if (scene.isPending) settling = setTimeout(() => trigger("settle", { slice: scene.slice }), SETTLED_MS);
}

function drawPanel(panel, content) {
  panel.hidden = !content;
  if (!content) return;
  const find = (name) => panel.querySelector(name);
  const [heightMm, widthMm] = scene.sizeMm;
  find(".stage").style.aspectRatio = `${widthMm} / ${heightMm}`;
  panel.style.setProperty("--aspect", widthMm / heightMm);
  find(".ct").src = scene.picture;
  const overlay = find(".overlay");
  overlay.hidden = !content.picture;
  if (content.picture) {
    overlay.src = content.picture;
    overlay.style.height = `${100 * content.extent[0]}%`;
    overlay.style.width = `${100 * content.extent[1]}%`;
  }
  find(".name").textContent = content.name;
  const place = `${scene.slice + 1} / ${scene.zMm.length}\nz ${minus(scene.zMm[scene.slice].toFixed(1))} mm`;
  find(".place").textContent = place;
  find(".window").textContent = scene.window;
  find(".busy").hidden = !scene.isPending;
  find(".ruler").style.width = `${(100 * 50) / widthMm}%`;
  find(".ruler b").textContent = "50 mm";
  const scale = content.scale;
  find(".scale").style.visibility = scale ? "visible" : "hidden";
  if (scale) {
    find(".low").textContent = scale.low;
    find(".high").textContent = scale.high;
    find(".label").textContent = scale.label;
    find(".bar").style.backgroundImage = `linear-gradient(to right, ${scale.colours.join(", ")})`;
  }
  drawMarks(find(".marks"), content);
}

function drawMarks(svg, content) {
  const [rows, columns] = scene.size;
  svg.setAttribute("viewBox", `-0.5 -0.5 ${columns} ${rows}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const point = scene.point;
  const parts = [];
  if (point && point.slice === scene.slice) {
    // A cross with an open middle: what was clicked stays visible.
    const reach = columns / 28, gap = columns / 110;
    const line = (x1, y1, x2, y2) => `<path d="M${x1} ${y1}L${x2} ${y2}" class="cross" />`;
    const { row: y, column: x } = point;
    parts.push(line(x - reach, y, x - gap, y), line(x + gap, y, x + reach, y));
    parts.push(line(x, y - reach, x, y - gap), line(x, y + gap, x, y + reach));
  }
  if (content.match) {
    parts.push(`<circle cx="${content.match.column}" cy="${content.match.row}" r="${columns / 45}" class="match" />`);
  }
  svg.innerHTML = parts.join("");
}

function drawReadout() {
  const point = scene.point;
  const field = (name, value) => `<span><em>${name}</em>${value}</span>`;
  const matches = scene.panels
    .filter((panel) => panel.match)
    .map((panel) => field(`most alike here, ${escaped(panel.name)}`, panel.match.value.toFixed(2)));
  root.querySelector(".readout").innerHTML = point
    ? field("point", `slice ${point.slice + 1}`) +
      field("position", point.position) +
      field("voxel", `${point.hu} HU`) +
      field("patch", `${point.patchHu} HU`) +
      matches.join("")
    : "<span>Click a structure to see what the network finds similar. Wheel or arrow keys scroll.</span>";
}

function drawProfile() {
  const count = scene.zMm.length;
  profile.setAttribute("viewBox", `-0.5 0 ${count} 100`);
  const values = scene.panels.flatMap((panel) => panel.profile).filter((value) => value !== null);
  const low = Math.floor(20 * Math.min(0.95, ...values)) / 20;
  const height = (value) => 96 - (92 * Math.max(0, value - low)) / Math.max(1 - low, 1e-6);
  const lines = scene.panels.map((panel, index) => {
    const known = panel.profile.map((value, slice) => [slice, value]).filter(([, value]) => value !== null);
    const dots = known.map(([slice, value]) => `M${slice} ${height(value)}h0.001`).join("");
    const path = known.map(([slice, value], i) => `${i ? "L" : "M"}${slice} ${height(value)}`).join("");
    const style = `stroke="${LINES[index]}"`;
    return `<path d="${path}" class="line" ${style} /><path d="${dots}" class="dot" ${style} />`;
  });
  const own = scene.point ? `<path d="M${scene.point.slice} 0V100" class="own" />` : "";
  profile.innerHTML = `${own}${lines.reverse().join("")}<path class="cursor" />`;
  const names = scene.panels.map(
    (panel, index) => `<b style="background:${LINES[index]}"></b>${escaped(panel.name)}`,
  );
  root.querySelector(".legend").innerHTML = scene.point
    ? `cosine of the most alike patch, ${low.toFixed(2)} to 1 &nbsp; ${names.join(" &nbsp; ")}`
    : "";
  drawCursor();
}

function drawCursor() {
  profile.querySelector(".cursor")?.setAttribute("d", `M${wanted} 0V100`);
}

function drawBest() {
  const box = root.querySelector(".best");
  const [first] = scene.panels;
  box.hidden = !scene.point;
  if (box.hidden) return;
  const jumps = first.best.map(
    ({ slice, value }) => `<button data-slice="${slice}">${slice + 1}<small>${value.toFixed(2)}</small></button>`,
  );
  const back = `<button data-slice="${scene.point.slice}">${scene.point.slice + 1}<small>point</small></button>`;
  const missing = scene.zMm.length - scene.numEncoded;
  const note = missing ? `<span class="note">${missing} slices not compared yet</span>` : "";
  box.innerHTML = `<em>Most alike slices</em>${back}${jumps.join("")}${note}`;
}

const minus = (text) => text.replace("-", "−");
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

root.addEventListener("wheel", (event) => {
  if (!event.target.closest(".stage, .strip") || event.ctrlKey) return;
  event.preventDefault();
  scrollTo(wanted - Math.sign(event.deltaY));
}, { passive: false });

root.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
  const ends = { Home: 0, End: Infinity };
  if (!scene || !(event.key in steps || event.key in ends)) return;
  event.preventDefault();
  scrollTo(event.key in steps ? wanted + steps[event.key] : Math.min(ends[event.key], scene.zMm.length - 1));
});

slider.addEventListener("input", () => scrollTo(Number(slider.value)));

profile.addEventListener("click", (event) => {
  const box = profile.getBoundingClientRect();
  scrollTo(((event.clientX - box.left) / box.width) * scene.zMm.length - 0.5);
});

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-slice]");
  if (button && button !== root) scrollTo(Number(button.dataset.slice));
  const stage = event.target.closest(".stage");
  if (!stage || !scene || wanted !== scene.slice) return;
  const box = stage.getBoundingClientRect();
  const row = ((event.clientY - box.top) / box.height) * scene.size[0] - 0.5;
  const column = ((event.clientX - box.left) / box.width) * scene.size[1] - 0.5;
  root.querySelectorAll(".busy").forEach((busy) => (busy.hidden = false));
  trigger("point", { slice: scene.slice, row, column });
});

watch("value", draw);
draw();
