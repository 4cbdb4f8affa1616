// The first part: seven methods on a landscape.

const methods = known.methods.map((method) => ({ ...method, shown: true }));
const picture = await draw("race-paths");
const losses = await draw("race-losses");
let land = null;

function choice(number) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "landscape", value: number, checked: number === 0 });
  input.addEventListener("change", () => enter(number));
  label.append(input, ` ${known.landscapes[number].name}`);
  byId("landscape").append(label);
}

/** A row of the table: who, at which rate, how far above the lowest loss. */
function row(method) {
  const line = document.createElement("tr");
  line.innerHTML =
    '<td><label><input type="checkbox" checked> <span class="sign" aria-hidden="true"></span> <span class="name"></span></label>' +
    '<code></code></td><td class="number"></td><td class="number"></td>';
  const sign = line.querySelector(".sign");
  sign.textContent = method.sign;
  sign.style.color = method.color;
  line.querySelector(".name").textContent = method.name;
  const box = line.querySelector("input");
  box.addEventListener("change", () => {
    method.shown = box.checked;
    line.classList.toggle("off", !box.checked);
    show();
  });
  const [, rate, loss] = line.querySelectorAll("td");
  Object.assign(method, { call: line.querySelector("code"), pattern: method.call, rate, loss });
  byId("methods").append(line);
  const note = document.createElement("li");
  note.textContent = `${method.name}: ${method.pattern}. ${method.note}`;
  byId("notes").append(note);
}

const rates = known.stops.rate;
const same = () => document.querySelector("input[name=rates]:checked").value === "same";
const clamp = (place) => Math.max(0, Math.min(rates.length - 1, place));

/** How far the rates are from the best ones, in words: three stops are a decade, in the steps 1, 2, 5. */
function factor(stops) {
  if (!stops) return "best";
  const times = [1, 2, 5][Math.abs(stops) % 3] * 10 ** Math.floor(Math.abs(stops) / 3);
  return stops > 0 ? `about ${times} × best` : `about best / ${times}`;
}

const frame = slider("frame", 0, known.steps, 0, String, () => show());
const rate = slider("rate", -6, 6, 0, (at) => (same() ? plain(rates[at]) : factor(at)), () => arrange());
const b1 = slider("b1", 0, known.stops.b1.length - 1, known.stops.b1.indexOf(known.first.b1), (at) => plain(known.stops.b1[at]), () => arrange());
const b2 = slider("b2", 0, known.stops.b2.length - 1, known.stops.b2.indexOf(known.first.b2), (at) => plain(known.stops.b2[at]), () => arrange());

for (const radio of document.querySelectorAll("input[name=rates]")) {
  radio.addEventListener("change", () => {
    Object.assign(rate.input, same() ? { min: 0, max: rates.length - 1 } : { min: -6, max: 6 });
    rate.at = same() ? rates.indexOf(0.01) : 0;
    arrange();
  });
}

/** All numbers of a landscape: for each method its paths one after another, x, y and loss a row each. */
async function unpack(landscape) {
  const { absent, decade, steps } = known;
  const length = steps + 1;
  const unit = landscape.area.map(([low, high]) => (high - low) / 65534);
  const values = [
    (q) => landscape.area[0][0] + (q + 32767) * unit[0],
    (q) => landscape.area[1][0] + (q + 32767) * unit[1],
    (q) => 10 ** (q / decade),
  ];
  landscape.numbers = await Promise.all(
    landscape.paths.map(async (text) => {
      const words = new Int16Array(await bytesOf(text, 2));
      const numbers = new Float32Array(words.length);
      for (let begin = 0; begin < words.length; begin += length) {
        const value = values[(begin / length) % 3];
        for (let i = begin; i < begin + length; i++) {
          if (i > begin) words[i] += words[i - 1]; // 16 bits, so that it wraps around as the differences did
          numbers[i] = words[i] === absent ? NaN : value(words[i]);
        }
      }
      return numbers;
    }),
  );
  delete landscape.paths;
}

async function enter(number) {
  const next = known.landscapes[number];
  if (!next.numbers) await unpack(next);
  land = next;
  byId("about").textContent = land.about;
  const [[left, right], [bottom, top]] = land.box;
  picture("x").setv({ start: left, end: right });
  picture("y").setv({ start: bottom, end: top });
  picture("picture").aspect_ratio = (right - left) / (top - bottom);
  known.landscapes.forEach((_, i) => {
    picture(`contours-${i}`).visible = i === number;
  });
  const ends = [land.start, land.minimum];
  picture("ends").data = { x: ends.map((p) => p[0]), y: ends.map((p) => p[1]), marker: ["circle", "star"] };
  arrange();
}

/** Finds the path of each method for where the sliders stand. */
function arrange() {
  const length = known.steps + 1;
  const at = { b1: b1.at, b2: b2.at };
  let [lowest, highest] = [1, 1e-3];
  methods.forEach((method, i) => {
    at.rate = clamp(same() ? rate.at : land.best[i] + rate.at);
    const begin = placeIn(method.axes, at) * 3 * length;
    const rows = [0, 1, 2].map((r) => land.numbers[i].subarray(begin + r * length, begin + (r + 1) * length));
    Object.assign(method, { x: rows[0], y: rows[1], gap: rows[2] });
    for (const gap of rows[2]) {
      if (gap > highest) highest = gap;
      if (gap < lowest) lowest = gap;
    }
    method.rate.textContent = plain(rates[at.rate]);
    const words = { rate: rates[at.rate], b1: known.stops.b1[b1.at], b2: known.stops.b2[b2.at] };
    method.call.textContent = method.pattern
      .replace("(rate", `(${plain(words.rate)}`)
      .replace(/=(b[12])\b/g, (_, name) => `=${plain(words[name])}`);
  });
  losses("y").setv({ start: Math.max(lowest / 3, known.floor), end: Math.min(highest * 3, 1e8) });
  show();
}

/** Everything as it is at the step where the slider stands. */
function show() {
  const t = frame.at;
  const seen = methods.filter((method) => method.shown);
  const part = (name) => seen.map((method) => method[name].subarray(0, t + 1));
  const last = (name) => seen.map((method) => method[name][t]);
  const color = seen.map((method) => method.color);
  const dash = seen.map((method) => method.dash);
  const marker = seen.map((method) => method.marker);
  const steps = Float32Array.from({ length: t + 1 }, (_, i) => i);
  picture("path-lines").data = { xs: part("x"), ys: part("y"), color, dash };
  picture("path-heads").data = { x: last("x"), y: last("y"), color, marker };
  losses("loss-lines").data = { xs: seen.map(() => steps), ys: part("gap"), color, dash };
  losses("loss-heads").data = { x: seen.map(() => t), y: last("gap"), color, marker };
  losses("now").location = t;
  byId("table-step").textContent = t;
  for (const method of methods) method.loss.textContent = words(method, t);
}

/** The loss of a method, and whether it can be seen. */
function words(method, t) {
  const gap = method.gap[t];
  if (Number.isNaN(gap)) return "infinite";
  const [[left, right], [bottom, top]] = land.box;
  const out = !(method.x[t] >= left && method.x[t] <= right && method.y[t] >= bottom && method.y[t] <= top);
  const number = gap < known.floor * 1.01 ? "< 1e-8" : gap >= 0.001 && gap < 1e4 ? gap.toPrecision(3) : gap.toExponential(1);
  return out ? `${number}, out of sight` : number;
}

known.landscapes.forEach((_, i) => choice(i));
methods.forEach(row);
await enter(0);
player(byId("play"), frame, () => Number(byId("speed").value));
frame.input.addEventListener("play", show);
