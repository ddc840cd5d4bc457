// Two photos side by side, or one above the other, with their matches: one SVG, whose
// viewBox is what zooming and panning move.
const viewer = (() => {
  const dialog = document.querySelector("dialog.pair"), stage = dialog.querySelector(".stage");
  const buttons = Object.fromEntries([...dialog.querySelectorAll("[data-do]")].map((b) => [b.dataset.do, b]));
  // More lines than these hide the photos: of the other inliers, the points alone.
  const MOST_LINES = 120, GAP = 14, CLOSEST = 40;
  let shown = null, svg = null, whole = null, view = null, attentionOf = null, opened = 0;

  const make = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const cards = (card) => [...card.closest("section").querySelectorAll("li:not([hidden]) button.card")];

  // The address of the picture that a card or figure shows.
  function thumbnail(holder) {
    const image = holder.querySelector("img");
    if (image) return image.src;
    const use = holder.querySelector("use");
    return use && document.querySelector(use.getAttribute("href") + " image").getAttribute("href");
  }

  // The photo itself, or its thumbnail where the file has moved or no browser shows it.
  async function load(holder, label) {
    for (const source of [holder.dataset.full, thumbnail(holder)]) {
      if (!source) continue;
      const image = new Image();
      image.src = source;
      try {
        await image.decode();
        return {source, label, ratio: image.naturalWidth / image.naturalHeight};
      } catch { }
    }
    return null;
  }

  // Both as large as the window allows, at one height or at one width.
  function layOut(photos) {
    const box = stage.getBoundingClientRect(), window = box.width / box.height;
    const wide = photos.reduce((sum, photo) => sum + photo.ratio, 0);
    const high = photos.reduce((sum, photo) => sum + 1 / photo.ratio, 0);
    const beside = Math.min(box.width / wide, box.height), above = Math.min(box.height / high, box.width);
    const areas = [beside ** 2 * wide, above ** 2 * high];
    const stacked = areas[1] > areas[0];
    let start = 0;
    for (const photo of photos) {
      Object.assign(photo, stacked
        ? {x: 0, y: start, width: 1000, height: 1000 / photo.ratio}
        : {x: start, y: 0, width: 1000 * photo.ratio, height: 1000});
      start += GAP + (stacked ? photo.height : photo.width);
    }
    const last = photos.at(-1);
    whole = {x: 0, y: 0, width: last.x + last.width, height: last.y + last.height};
  }

  function look(next) {
    const width = Math.min(whole.width, Math.max(whole.width / CLOSEST, next.width));
    const height = width * whole.height / whole.width;
    const within = (value, most) => Math.max(0, Math.min(most, value));
    view = {x: within(next.x, whole.width - width), y: within(next.y, whole.height - height), width, height};
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    // Points keep their size on the screen.
    svg.style.setProperty("--dot", `${3 / scale()}px`);
    buttons.out.disabled = width >= whole.width;
    buttons.in.disabled = width <= whole.width / CLOSEST;
  }

  const scale = () => {
    const box = stage.getBoundingClientRect();
    return Math.min(box.width / view.width, box.height / view.height) || 1;
  };

  // The point of the drawing that lies under one of the window.
  function under(x, y) {
    const point = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  function zoom(factor, at = [view.x + view.width / 2, view.y + view.height / 2]) {
    const width = Math.min(whole.width, Math.max(whole.width / CLOSEST, view.width / factor));
    const part = width / view.width;
    look({x: at[0] - (at[0] - view.x) * part, y: at[1] - (at[1] - view.y) * part, width});
  }

  const pan = (dx, dy) => look({...view, x: view.x + dx, y: view.y + dy});

  function lines(photos) {
    const group = make("g", {class: "lines"});
    const place = (photo, y, x) => [photo.x + x / 1e4 * photo.width, photo.y + y / 1e4 * photo.height];
    const rows = JSON.parse(shown.dataset.lines).sort((a, b) => a[1] - b[1]);
    const every = Math.ceil(rows.length / MOST_LINES);
    const opacity = Math.min(.9, 8 / Math.sqrt(rows.length / every + 1));
    rows.forEach(([ya, xa, yb, xb], i) => {
      const [x1, y1] = place(photos[0], ya, xa), [x2, y2] = place(photos[1], yb, xb);
      const colour = `hsl(${Math.round(i / rows.length * 300)} 90% 58%)`;
      if (i % every === 0) group.append(make("line", {x1, y1, x2, y2, stroke: colour, "stroke-opacity": opacity}));
      for (const [cx, cy] of [[x1, y1], [x2, y2]]) group.append(make("circle", {cx, cy, fill: colour}));
    });
    return group;
  }

  // The part of the query that was searched for.
  const box = (photo, [top, left, bottom, right]) => make("rect", {
    x: photo.x + left * photo.width, y: photo.y + top * photo.height,
    width: (right - left) * photo.width, height: (bottom - top) * photo.height,
  });

  // Where the network looks: the attention of local features, spread over what each of
  // them sees, as a picture to be laid over the photo.
  function attention(photo, rows) {
    const side = 96, [width, height] = photo.ratio > 1 ? [side, Math.ceil(side / photo.ratio)] : [Math.ceil(side * photo.ratio), side];
    const heat = new Float32Array(width * height);
    for (const [y, x, size, value] of rows) {
      const spread = Math.max(1, size * side / 4), reach = Math.ceil(2 * spread), cy = Math.round(y * height), cx = Math.round(x * width);
      for (let j = Math.max(0, cy - reach); j < Math.min(height, cy + reach + 1); j++)
        for (let i = Math.max(0, cx - reach); i < Math.min(width, cx + reach + 1); i++)
          heat[j * width + i] += value * Math.exp(-((j - cy) ** 2 + (i - cx) ** 2) / (2 * spread ** 2)) / spread ** 2;
    }
    const canvas = document.createElement("canvas"), most = Math.max(...heat, 1e-9);
    Object.assign(canvas, {width, height});
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    // The photo as it is where it looks most, dark where least.
    heat.forEach((value, i) => { pixels.data[4 * i + 3] = 215 * (1 - Math.sqrt(value / most)); });
    context.putImageData(pixels, 0, 0);
    const {x, y, width: wide, height: high} = photo;
    return make("image", {class: "attention", href: canvas.toDataURL(), x, y, width: wide, height: high, preserveAspectRatio: "none"});
  }

  async function addAttention(photos, holders) {
    const time = opened;
    const rows = await Promise.all(holders.map((holder) => attentionOf(holder)));
    if (time !== opened || svg.querySelector(".attention")) return;
    photos.forEach((photo, i) => rows[i].length && svg.querySelector(".lines").before(attention(photo, rows[i])));
  }

  async function show(card) {
    const time = ++opened;
    shown = card;
    const all = cards(card), place = all.indexOf(card);
    const holders = [card.closest("section").querySelector("figure.query"), card];
    dialog.querySelector("strong").textContent = `${card.dataset.rank}. ${card.dataset.image}`;
    dialog.querySelector(".top p").textContent = `Query and result ${place + 1} of ${all.length}: ${card.dataset.facts}`;
    buttons.previous.disabled = place === 0;
    buttons.next.disabled = place === all.length - 1;
    buttons.lines.disabled = card.dataset.lines === "[]";
    buttons.original.hidden = !card.dataset.full;
    buttons.original.href = card.dataset.full || "";
    buttons.attention.hidden = !attentionOf;
    if (!dialog.open) dialog.showModal();
    const loaded = await Promise.all(holders.map((holder, i) => load(holder, i ? card.dataset.image : "query")));
    if (time !== opened || !dialog.open) return;
    const photos = loaded.filter(Boolean), absent = ["query", "photo"].filter((_, i) => !loaded[i]);
    if (absent.length) dialog.querySelector(".top p").textContent += `; the ${absent.join(" and the ")} cannot be shown`;
    buttons.lines.disabled ||= absent.length > 0;
    stage.replaceChildren();
    if (!photos.length) return;
    layOut(photos);
    svg = make("svg", {role: "img", "aria-label": `${card.dataset.facts}: ${card.dataset.image}`});
    for (const {source, label, x, y, width, height} of photos)
      svg.append(make("image", {href: source, "aria-label": label, x, y, width, height, preserveAspectRatio: "none"}));
    if (photos.length === 2) {
      if (holders[0].dataset.box) svg.append(box(photos[0], JSON.parse(holders[0].dataset.box)));
      svg.append(lines(photos));
    }
    stage.append(svg);
    look(whole);
    if (attentionOf && photos.length === 2 && stage.classList.contains("attentive")) addAttention(photos, holders);
    svg.photos = [photos, holders];
  }

  const step = (by) => {
    const next = cards(shown)[cards(shown).indexOf(shown) + by];
    if (next) show(next);
  };
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));

  document.addEventListener("click", (event) => {
    const card = event.target.closest("button.card");
    if (card) show(card);
  });
  buttons.previous.onclick = () => step(-1);
  buttons.next.onclick = () => step(1);
  buttons.in.onclick = () => zoom(1.6);
  buttons.out.onclick = () => zoom(1 / 1.6);
  buttons.close.onclick = () => dialog.close();
  buttons.lines.onclick = () => press(buttons.lines, !stage.classList.toggle("bare"));
  buttons.attention.onclick = () => {
    press(buttons.attention, stage.classList.toggle("attentive"));
    if (svg?.photos[0].length === 2) addAttention(...svg.photos);
  };
  dialog.addEventListener("keydown", (event) => {
    const by = view ? view.width / 8 : 0;
    const keys = event.shiftKey
      ? {ArrowLeft: () => pan(-by, 0), ArrowRight: () => pan(by, 0), ArrowUp: () => pan(0, -by), ArrowDown: () => pan(0, by)}
      : {ArrowLeft: () => step(-1), ArrowRight: () => step(1)};
    const act = {...keys, "+": () => zoom(1.6), "-": () => zoom(1 / 1.6), "0": () => look(whole)}[event.key];
    if (act && svg && !event.ctrlKey && !event.metaKey) { event.preventDefault(); act(); }
  });
  // Fingers or the mouse: one moves, two pinch.
  const fingers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId) || !svg) return;
    const before = [...fingers.values()], size = scale();
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const after = [...fingers.values()];
    const middle = (points) => [0, 1].map((i) => points.reduce((sum, p) => sum + p[i], 0) / points.length);
    const spread = (points) => Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]);
    const [from, to] = [middle(before), middle(after)];
    pan((from[0] - to[0]) / size, (from[1] - to[1]) / size);
    if (after.length === 2 && spread(before) > 0) zoom(spread(after) / spread(before), under(...to));
  });
  for (const name of ["pointerup", "pointercancel"])
    stage.addEventListener(name, (event) => fingers.delete(event.pointerId));
  stage.addEventListener("wheel", (event) => {
    if (!svg) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), under(event.clientX, event.clientY));
  }, {passive: false});
  stage.addEventListener("dblclick", (event) => svg && zoom(2, under(event.clientX, event.clientY)));
  dialog.addEventListener("close", () => { opened++; stage.replaceChildren(); svg = null; shown?.focus(); });
  addEventListener("resize", () => { if (dialog.open) show(shown); });

  return {
    // attention: of a card, or of the figure of the query: rows of (y, x, size, value).
    attend: (attention) => { attentionOf = attention; },
  };
})();
