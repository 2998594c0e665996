// Elements from plain values. Text is always text: nothing here, or anywhere on the page, takes markup.

/** An element with properties, listeners (`onclick`), attributes and children; null and false children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, to]) => element.style.setProperty(key, to));
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A name that came from outside: on its own, whatever direction it is written in. */
export function name(text) {
  return h("bdi", {}, visible(text));
}

/** Characters that would not be seen, or would turn others around, spelt out. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Shortened in the middle: where ids and model names differ is mostly at their ends. */
export function short(text, most = 28) {
  const letters = [...visible(text)];
  if (letters.length <= most) return letters.join("");
  const head = Math.ceil((most - 1) * 0.6);
  return `${letters.slice(0, head).join("")}…${letters.slice(letters.length - (most - 1 - head)).join("")}`;
}

/** A name that is shortened where it has to be, with the whole of it at hand. */
export function named(text, most) {
  return h("bdi", { title: visible(text) }, short(text, most));
}

/** Replaces what is in a node, keeping the focus on what has the same key, and open what was open. */
export function refill(node, ...children) {
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Map([...node.querySelectorAll("details[data-key]")].map((each) => [each.dataset.key, each.open]));
  const scrolled = new Map([...node.querySelectorAll("[data-scroll]")].map((each) => [each.dataset.scroll, each.scrollLeft]));
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  for (const each of node.querySelectorAll("details[data-key]")) if (open.get(each.dataset.key)) each.open = true;
  for (const each of node.querySelectorAll("[data-scroll]")) each.scrollLeft = scrolled.get(each.dataset.scroll) ?? 0;
  if (focused) node.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** Named values beneath each other; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return h("dl", { class: "facts" }, shown.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]));
}

/** A table that can be scrolled by itself where it is too wide. `columns`: {label, number}. */
export function table(caption, columns, rows, key = caption) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, "data-scroll": key },
    h("table", {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) =>
        h("th", { scope: "col", class: column.number ? "number" : null }, column.label)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.class ?? null }, row.cells.map((cell, i) =>
        h(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: columns[i].number ? "number" : null,
          "data-label": columns[i].label }, cell)))))));
}

export function card(title, ...children) {
  return h("section", { class: "card" }, title && h("h2", {}, title), children);
}

export function empty(...words) {
  return h("p", { class: "empty" }, words);
}
