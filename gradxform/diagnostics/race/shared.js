// Numbers from text, as packing.py has made it, and what both parts use.

const byId = (id) => document.getElementById(id);
const known = JSON.parse(byId("data").textContent);
const items = JSON.parse(byId("items").textContent);

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = false;
}

/** The bytes of `squeeze`: base64, zlib, then the bytes of a number brought together again (the first is the lowest). */
async function bytesOf(text, width) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = planes.length / width;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < width; plane++) {
    for (let i = 0; i < count; i++) bytes[i * width + plane] = planes[plane * count + i];
  }
  return bytes.buffer;
}

/** Draws a figure in its place; its parts are found by name in what comes back. */
async function draw(place) {
  await Bokeh.embed.embed_item(items[place], place);
  const page = Bokeh.documents[Bokeh.documents.length - 1];
  return (name) => page.get_model_by_name(name);
}

/** Where the values that the sliders stand at are in a grid: `axes` from the slowest to the quickest. */
function placeIn(axes, at) {
  return axes.reduce((place, axis) => place * known.stops[axis].length + at[axis], 0);
}

/** A slider over a list of stops, whose words are said by `text`; `moved` is called when it moves. */
function slider(id, low, high, first, text, moved) {
  const input = byId(id);
  Object.assign(input, { min: low, max: high, step: 1, value: first });
  const say = () => {
    const words = text(input.valueAsNumber);
    byId(`${id}-text`).textContent = words;
    input.setAttribute("aria-valuetext", words);
  };
  input.addEventListener("input", () => {
    say();
    moved();
  });
  say();
  return { get at() { return input.valueAsNumber; }, set at(value) { input.value = value; say(); }, input, say };
}

/** A button that moves a slider from stop to stop, so many a second, until its end; from the start if it is there. */
function player(button, moving, rate) {
  let last = 0;
  let owed = 0;
  let running = false;
  const end = () => Number(moving.input.max);
  const show = () => {
    button.textContent = running ? "Pause" : "Play";
  };
  const stop = () => {
    running = false;
    show();
  };
  const turn = (now) => {
    if (!running) return;
    owed += (Math.min(now - last, 250) / 1000) * rate();
    last = now;
    const whole = Math.floor(owed);
    if (whole) {
      owed -= whole;
      moving.at = Math.min(moving.at + whole, end());
      moving.input.dispatchEvent(new CustomEvent("play"));
    }
    if (moving.at >= end()) stop();
    else requestAnimationFrame(turn);
  };
  button.addEventListener("click", () => {
    if (running) return stop();
    if (moving.at >= end()) moving.at = 0;
    running = true;
    show();
    last = performance.now();
    owed = 0;
    requestAnimationFrame(turn);
  });
  moving.input.addEventListener("input", stop);
}

const plain = (number) => String(Number(number.toPrecision(12)));
if (typeof DecompressionStream === "undefined") {
  trouble("This browser is too old for this page: it cannot unpack the numbers. Browsers since 2023 can.");
  throw new Error("DecompressionStream is missing");
}
