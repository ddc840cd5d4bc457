// Long lists of results, a page at a time.
for (const list of document.querySelectorAll("section ol")) {
  const items = [...list.children], size = 60;
  if (items.length <= size) continue;
  const pager = document.createElement("div"), words = document.createElement("span");
  pager.className = "pager";
  words.setAttribute("aria-live", "polite");
  let start = 0;
  const go = (to) => {
    start = to;
    items.forEach((item, i) => { item.hidden = i < start || i >= start + size; });
    words.textContent = `${start + 1} to ${Math.min(start + size, items.length)} of ${items.length}`;
    [back, on].forEach((button, i) => { button.disabled = i ? start + size >= items.length : start === 0; });
  };
  const [back, on] = [["Previous", -size], ["Next", size]].map(([label, by]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button";
    button.textContent = label;
    button.onclick = () => { go(start + by); list.closest("section").scrollIntoView(); };
    return button;
  });
  pager.append(back, words, on);
  list.after(pager);
  go(0);
}
