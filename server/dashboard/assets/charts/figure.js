// What all pictures share: a frame with words and the same as a table, axes, legends and what is shown at the pointer.

import { h, table } from "../dom.js";

const tip = document.getElementById("tip");

/**
 * A picture that is drawn anew when its width changes. `draw(svg, width, height)` fills a d3 selection; `label` says for
 * those who do not see it what is to be seen, and `rows` hold the same in numbers.
 */
export function figure({ key, label, height, draw, legend = [], columns, rows, note }) {
  const box = h("div", { class: "plot" });
  const node = h("figure", {}, legend.length > 0 && h("ul", { class: "legend" }, legend.map(({ text, swatch, kind = "" }) =>
    h("li", {}, h("span", { class: `swatch ${kind}`, style: { "--swatch": swatch } }), text))),
    box, note && h("figcaption", {}, note),
    columns && h("details", { class: "data", "data-key": `data-${key}` }, h("summary", { "data-key": `summary-${key}` }, "In numbers"),
      table(label, columns, rows, key)));
  let before = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width < 40 || width === before) return;
    before = width;
    const tall = typeof height === "function" ? height(width) : height;
    const svg = d3.create("svg").attr("viewBox", `0 0 ${width} ${tall}`).attr("width", width).attr("height", tall)
      .attr("role", "img").attr("aria-label", label);
    draw(svg, width, tall);
    box.replaceChildren(svg.node());
  }).observe(box);
  return node;
}

/** Gridlines with numbers at the left. */
export function left(svg, y, { x0, x1, ticks = 4, format, title }) {
  const group = svg.append("g").attr("class", "axis");
  for (const value of y.ticks(ticks)) {
    group.append("line").attr("class", "grid").attr("x1", x0).attr("x2", x1).attr("y1", y(value)).attr("y2", y(value));
    group.append("text").attr("x", x0 - 6).attr("y", y(value)).attr("dy", "0.32em").attr("text-anchor", "end").text(format(value));
  }
  if (title) group.append("text").attr("class", "title").attr("x", 0).attr("y", 10).text(title);
}

/** Numbers or times at the bottom. */
export function bottom(svg, x, { y, ticks, format, title, x1 }) {
  const group = svg.append("g").attr("class", "axis");
  const values = Array.isArray(ticks) ? ticks : x.ticks(ticks);
  const write = format ?? x.tickFormat(ticks);
  for (const value of values) {
    group.append("line").attr("class", "tick").attr("x1", x(value)).attr("x2", x(value)).attr("y1", y).attr("y2", y + 4);
    group.append("text").attr("x", x(value)).attr("y", y + 16).attr("text-anchor", "middle").text(write(value));
  }
  if (title) group.append("text").attr("class", "title").attr("x", x1).attr("y", y + 32).attr("text-anchor", "end").text(title);
}

/** Shows words at the pointer: {title, lines: [[label, value, colour?]]}. */
export function hint(event, { title, lines }) {
  tip.replaceChildren(h("strong", {}, title), h("dl", {}, lines.map(([label, value, swatch]) => [
    h("dt", {}, swatch && h("span", { class: "swatch", style: { "--swatch": swatch } }), label), h("dd", {}, value)])));
  tip.classList.add("shown");
  const at = event.type === "focus" ? event.target.getBoundingClientRect() : null;
  const x = at ? at.right : event.clientX;
  const y = at ? at.top : event.clientY;
  const { offsetWidth: width, offsetHeight: tall } = tip;
  tip.style.left = `${Math.max(8, x + 14 + width > innerWidth ? x - 14 - width : x + 14)}px`;
  tip.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - tall - 8))}px`;
}

export function unhint() {
  tip.classList.remove("shown");
}

addEventListener("hashchange", unhint);
addEventListener("scroll", unhint, { passive: true });

/** Has a mark show a hint, under the pointer and by the keyboard. */
export function hinted(selection, told) {
  return selection.attr("tabindex", 0).attr("role", "img")
    .attr("aria-label", (d) => {
      const { title, lines } = told(d);
      return `${title}: ${lines.map(([label, value]) => `${label} ${value}`).join(", ")}`;
    })
    .on("pointermove", (event, d) => hint(event, told(d)))
    .on("focus", (event, d) => hint(event, told(d)))
    .on("pointerleave blur", unhint);
}

/** Over a chart of steps in time: a line at the step nearest to the pointer, and its hint. */
export function along(svg, xs, { top, height, told }) {
  const line = svg.append("line").attr("class", "cursor").attr("y1", top).attr("y2", top + height).attr("visibility", "hidden");
  svg.append("rect").attr("x", xs[0]).attr("y", top).attr("width", Math.max(1, xs.at(-1) - xs[0])).attr("height", height)
    .attr("fill", "transparent")
    .on("pointermove", (event) => {
      const [x] = d3.pointer(event);
      const i = d3.bisectCenter(xs, x);
      line.attr("x1", xs[i]).attr("x2", xs[i]).attr("visibility", "visible");
      hint(event, told(i));
    })
    .on("pointerleave", () => {
      line.attr("visibility", "hidden");
      unhint();
    });
}
