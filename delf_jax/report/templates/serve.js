// The search page: a photo in, candidates at once, verified results as they come.
const get = (id) => document.getElementById(id);
const figure = document.querySelector("figure.query"), frame = figure.querySelector(".frame"), preview = frame.querySelector("img");
const sides = Object.fromEntries([...document.querySelectorAll("[data-side]")].map((input) => [input.dataset.side, input]));
let photo = null, asked = null, start = 0, running = null, attention = [], done = false;

function say(words, wrong = false) {
  get("state").textContent = words;
  get("state").classList.toggle("wrong", wrong);
}

function take(file) {
  if (!file) return;
  photo = file;
  display(file);
  clear();
  get("name").textContent = file.name;
  figure.hidden = get("part").hidden = get("go").disabled = false;
  setBox(0, 0, 100, 100);
  search();
}

function display(picture) {
  URL.revokeObjectURL(preview.src);
  preview.src = figure.dataset.full = URL.createObjectURL(picture);
  frame.hidden = false;
}

// What the browser does not show, such as photos of iPhones, the server makes a JPEG of.
preview.onerror = async () => {
  frame.hidden = true;
  const mine = photo;
  if (asked === mine) return;
  asked = mine;
  try {
    const shown = await (await post("preview", form())).blob();
    if (mine === photo) display(shown);
  } catch { } // The search says what is wrong.
};

function form() {
  const body = new FormData();
  body.append("photo", photo, photo.name || "photo");
  return body;
}

// Nothing that was found for another photo stays beside this one.
function clear() {
  get("found").replaceChildren();
  get("verifying").hidden = document.querySelector("section .pager").hidden = true;
}

// The part that is searched with, in percent.
function setBox(left, top, right, bottom) {
  Object.entries({Left: left, Top: top, Right: right, Bottom: bottom}).forEach(([side, value]) => { sides[side].value = value; });
  drawBox();
}

function box() {
  const [left, top, right, bottom] = ["Left", "Top", "Right", "Bottom"].map((side) => Number(sides[side].value));
  return [Math.min(top, bottom), Math.min(left, right), Math.max(top, bottom), Math.max(left, right)];
}

const isWhole = () => box().join() === "0,0,100,100" || box()[0] === box()[2] || box()[1] === box()[3];

function drawBox() {
  const [top, left, bottom, right] = box(), drawn = frame.querySelector(".box");
  drawn.hidden = isWhole();
  Object.assign(drawn.style, {top: `${top}%`, left: `${left}%`, width: `${right - left}%`, height: `${bottom - top}%`});
  figure.dataset.box = isWhole() ? "" : JSON.stringify(box().map((side) => side / 100));
}
for (const input of Object.values(sides)) { input.oninput = drawBox; input.onchange = () => search(); }
get("whole").onclick = () => { setBox(0, 0, 100, 100); search(); };

let corner = null;
const part = (event) => {
  const area = preview.getBoundingClientRect(), within = (value) => Math.round(100 * Math.max(0, Math.min(1, value)));
  return [within((event.clientX - area.left) / area.width), within((event.clientY - area.top) / area.height)];
};
frame.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  event.preventDefault();
  corner = part(event);
  frame.setPointerCapture(event.pointerId);
});
frame.addEventListener("pointermove", (event) => { if (corner) setBox(...corner, ...part(event)); });
frame.addEventListener("pointerup", (event) => {
  if (!corner) return;
  const [x, y] = part(event), moved = Math.abs(x - corner[0]) > 3 && Math.abs(y - corner[1]) > 3, was = corner;
  corner = null;
  if (!moved) { drawBox(); return; }
  setBox(Math.min(was[0], x), Math.min(was[1], y), Math.max(was[0], x), Math.max(was[1], y));
  search();
});
frame.addEventListener("pointercancel", () => { corner = null; });

// The lines of a response, parsed, as they come.
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) yield JSON.parse(line);
  }
}

async function post(address, body, signal) {
  const response = await fetch(address, {method: "POST", body, signal});
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(typeof answer.detail === "string" ? answer.detail : `the server answered ${response.status}`);
}

async function search(from = 0) {
  if (!photo) return;
  running?.abort();
  const mine = running = new AbortController();
  start = from;
  done = false;
  const body = form();
  body.append("top", get("top").value);
  body.append("skip", start);
  if (!isWhole()) body.append("box", box().map((side) => side / 100).join());
  say("Searching\u2026");
  try {
    for await (const found of lines(await post("search", body, mine.signal))) {
      if (mine !== running) return;
      if (found.detail) throw new Error(found.detail);
      show(found);
    }
  } catch (error) {
    if (mine !== running) return;
    clear();
    say(error instanceof TypeError ? "The server cannot be reached." : `${error.message}.`, true);
  }
}

function show(found) {
  const focused = document.activeElement?.closest?.("#found .card")?.dataset.image;
  get("found").innerHTML = found.html;
  if (focused) get("found").querySelector(`.card[data-image="${CSS.escape(focused)}"]`)?.focus();
  if (found.attention.length) attention = found.attention;
  done = found.verified === found.candidates;
  const bar = get("verifying");
  bar.hidden = done;
  bar.max = found.candidates;
  bar.value = found.verified;
  get("count").textContent = found.photos;
  get("note").textContent = found.note;
  document.querySelector("section .pager").hidden = !done || (start === 0 && !found.more);
  get("back").disabled = start === 0;
  get("on").disabled = !found.more;
  filter();
}

// Only those that are more than chance, once it is known which are.
function filter() {
  const items = [...document.querySelectorAll("#found li")], sure = get("sure").checked && done;
  items.forEach((item) => { item.hidden = sure && !item.querySelector("b"); });
  if (!done) { say(`The ${get("verifying").max} most similar are being verified\u2026`); return; }
  const shown = items.filter((item) => !item.hidden).length, confident = items.filter((item) => item.querySelector("b")).length;
  const range = items.length ? `Results ${start + 1} to ${start + items.length}` : "No more results";
  say(sure && !shown ? `${range}: none of them is a confident match.` : `${range}: ${confident} confident.`);
}

get("photo").onchange = get("camera").onchange = (event) => { take(event.target.files[0]); event.target.value = ""; };
get("top").onchange = () => search();
get("sure").onchange = () => { if (photo) filter(); };
get("back").onclick = () => search(Math.max(0, start - Number(get("top").value)));
get("on").onclick = () => search(start + Number(get("top").value));
document.querySelector("form.ask").onsubmit = (event) => { event.preventDefault(); search(); };
document.addEventListener("paste", (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});

viewer.attend(async (holder) => {
  if (holder === figure) return attention;
  if (!holder.dataset.full) return [];
  const response = await fetch(holder.dataset.full.replace("api/image/", "api/attention/"));
  return response.ok ? response.json() : [];
});

if (get("add")) get("add").onchange = async (event) => {
  const files = [...event.target.files], area = get("adding"), bar = area.querySelector("progress"), words = area.querySelector("span");
  event.target.value = "";
  area.hidden = false;
  get("failed").replaceChildren();
  bar.max = files.length;
  let added = 0;
  for (const [number, file] of files.entries()) {
    bar.value = number;
    words.textContent = `${number} of ${files.length}`;
    const body = new FormData();
    body.append("photo", file, file.name);
    try {
      const answer = await (await post("api/add", body)).json();
      get("count").textContent = `${answer.photos} photos`;
      added++;
    } catch (error) {
      const item = document.createElement("li");
      item.textContent = `${file.name}: ${error.message}`;
      get("failed").append(item);
    }
  }
  bar.value = files.length;
  words.textContent = `${added} of ${files.length} added`;
};
