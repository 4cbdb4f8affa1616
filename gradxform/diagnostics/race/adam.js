// The second part: Adam on w^2, every number of every step.

const adam = known.adam;
const panels = { "adam-step": ["step"], "adam-m": ["g", "m", "m_hat"], "adam-v": ["g2", "v", "v_hat"] };
const views = {};
for (const place of ["adam-curve", ...Object.keys(panels)]) views[place] = await draw(place);
const grid = new Float32Array(await bytesOf(adam.rows, 4));
const firstStop = (axis) => known.stops[axis].indexOf(adam.first[axis]);
const stopText = (axis) => (at) => plain(known.stops[axis][at]);
const ruler = {};
for (const axis of adam.axes) {
  ruler[axis] = slider(`adam-${axis}`, 0, known.stops[axis].length - 1, firstStop(axis), stopText(axis), () => arrangeAdam());
}
const clock = slider("t", 0, adam.steps, 8, String, () => showAdam());
const rows = {};

const body = byId("steps");
const scroller = byId("adam").querySelector(".scroll");
for (let t = 0; t <= adam.steps; t++) {
  const line = body.insertRow();
  for (let i = 0; i < 11; i++) line.insertCell();
}

/** 1 - b^t, without the loss of digits that the subtraction would bring. */
const gathered = (b, t) => (b === 0 ? Number(t > 0) : -Math.expm1(t * Math.log(b)));
const four = (number) => {
  const size = Math.abs(number);
  return size === 0 || (size >= 1e-3 && size < 1e5) ? number.toFixed(4) : number.toExponential(3);
};

function arrangeAdam() {
  const at = Object.fromEntries(adam.axes.map((axis) => [axis, ruler[axis].at]));
  const length = adam.steps + 1;
  const begin = placeIn(adam.axes, at) * adam.fields.length * length;
  adam.fields.forEach((name, i) => {
    rows[name] = grid.subarray(begin + i * length, begin + (i + 1) * length);
  });
  rows.g2 = rows.g.map((g) => g * g);
  const [b1, b2] = ["b1", "b2"].map((axis) => known.stops[axis][at[axis]]);
  for (let t = 0; t <= adam.steps; t++) {
    const moments = [rows.g[t], rows.m[t], rows.v[t], gathered(b1, t), gathered(b2, t), rows.m_hat[t], rows.v_hat[t], rows.step[t]];
    const before = t === 0 ? moments.map(() => "") : moments.map(four);
    const texts = [t, ...before, four(rows.w[t]), four(rows.loss[t])];
    texts.forEach((text, i) => {
      body.rows[t].cells[i].textContent = text;
    });
  }
  drawLines();
  showAdam();
}

/** The lines over the steps; their axis holds all of them and 0. */
function drawLines() {
  const counts = Float32Array.from({ length: adam.steps }, (_, i) => i + 1);
  for (const [place, names] of Object.entries(panels)) {
    const columns = Object.fromEntries(names.map((name) => [name, rows[name].subarray(1)]));
    const all = names.flatMap((name) => [...columns[name]]);
    const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
    const room = (high - low) * 0.05 || 1;
    views[place]("y").setv({ start: low - room, end: high + room });
    views[place]("rows").data = { t: counts, ...columns };
  }
}

function showAdam() {
  const t = clock.at;
  for (const place of Object.keys(panels)) views[place]("now").location = t;
  views["adam-curve"]("walked").data = { x: rows.w.subarray(0, t + 1), y: rows.loss.subarray(0, t + 1) };
  views["adam-curve"]("here").data = { x: [rows.w[t]], y: [rows.loss[t]] };
  for (const line of body.rows) line.classList.toggle("now", line.rowIndex === t + 1);
  const line = body.rows[t];
  scroller.scrollTop = line.offsetTop - scroller.clientHeight / 2;
  byId("adam-words").textContent = t ? stepWords(t) : "Before the first step: w = 5, m = 0, v = 0.";
}

function stepWords(t) {
  const [ratio, raw] = [rows.m_hat[t] / Math.sqrt(rows.v_hat[t]), rows.m[t] / Math.sqrt(rows.v[t])];
  const times = Math.abs(raw / ratio).toPrecision(3);
  return `Step ${t}: m̂ / √v̂ = ${four(ratio)}, so w moves by ${four(rows.step[t])} to ${four(rows.w[t])}. With m / √v it would move ${times} times as far.`;
}

arrangeAdam();
player(byId("adam-play"), clock, () => 8);
clock.input.addEventListener("play", showAdam);
document.documentElement.dataset.ready = "yes";
