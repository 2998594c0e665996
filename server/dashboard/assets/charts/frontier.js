// Success against dollars: what the sessions came to, every arm alone, and what no mix of arms does better.

import { colour } from "../colours.js";
import { short } from "../dom.js";
import { between, count, dollars, percent } from "../format.js";
import { bottom, figure, hinted, left } from "./figure.js";

/** What an arm alone would come to: by its attempts where there are enough, else as foretold. */
export function level(alone) {
  if (!alone) return null;
  if (alone.corrected) return { ...alone.corrected.value, shown: true };
  return alone.foretold ? { estimate: alone.foretold, low: null, high: null, shown: false } : null;
}

export function frontier(router, data) {
  const arms = data.arms
    .map((arm) => ({ arm: arm.arm, x: level(arm.cost_usd), y: level(arm.success), begun: arm.begun, attempts: arm.attempts }))
    .filter((arm) => arm.x && arm.y);
  const { success, cost_usd: cost } = data.totals;
  const ours = success && cost ? { x: cost, y: success } : null;
  const corners = data.frontier.map((arm) => arms.find((each) => each.arm === arm)).filter(Boolean);
  const all = [...arms.map((arm) => arm.x.estimate), ...(ours ? [ours.x.estimate] : [])].filter((x) => x > 0);

  function draw(svg, width, height) {
    const margin = { top: 22, right: 16, bottom: 40, left: 46 };
    const [low, high] = d3.extent(all);
    const wide = high > 4 * low;
    const x = (wide ? d3.scaleLog() : d3.scaleLinear()).domain(wide ? [low / 1.6, high * 1.7] : [0, high * 1.15])
      .range([margin.left, width - margin.right]).clamp(true);
    const ys = [...arms.map((arm) => arm.y.estimate), ...(ours ? [ours.y.estimate] : [])];
    const y = d3.scaleLinear().domain([Math.max(0, d3.min(ys) - 0.08), Math.min(1, d3.max(ys) + 0.08)]).nice(5)
      .range([height - margin.bottom, margin.top]).clamp(true);
    left(svg, y, { x0: margin.left, x1: width - margin.right, ticks: 5, format: (v) => `${Math.round(100 * v)} %`, title: "resolved" });
    const ticks = wide ? [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
      .filter((v) => v >= x.domain()[0] && v <= x.domain()[1]) : x.ticks(5);
    const spare = Math.ceil(ticks.length / Math.max(3, width / 70));
    bottom(svg, x, { y: height - margin.bottom, ticks: ticks.filter((_, i) => i % spare === 0), x1: width - margin.right,
      format: (v) => `$${v}`, title: `dollars a session${wide ? ", logarithmic" : ""} →` });
    if (corners.length > 1) {
      const path = d3.line().x((p) => x(p[0])).y((p) => y(p[1]));
      // Mixing two arms is straight in dollars, and a curve where the axis is logarithmic.
      const along = d3.pairs(corners).flatMap(([a, b]) => d3.range(0, 1.001, 0.05).map((t) => [
        a.x.estimate + t * (b.x.estimate - a.x.estimate), a.y.estimate + t * (b.y.estimate - a.y.estimate)]));
      svg.append("path").attr("class", "frontier").attr("d", path(along));
    }
    const cross = (selection, of) => {
      selection.append("line").attr("x1", (d) => x(of(d).x.low)).attr("x2", (d) => x(of(d).x.high))
        .attr("y1", (d) => y(of(d).y.estimate)).attr("y2", (d) => y(of(d).y.estimate));
      selection.append("line").attr("x1", (d) => x(of(d).x.estimate)).attr("x2", (d) => x(of(d).x.estimate))
        .attr("y1", (d) => y(of(d).y.low)).attr("y2", (d) => y(of(d).y.high));
    };
    svg.append("g").attr("class", "cross").selectAll("g").data(arms.filter((arm) => arm.x.shown && arm.y.shown)).join("g")
      .attr("stroke", (arm) => colour(router, arm.arm)).call(cross, (arm) => arm);
    const dots = svg.append("g").selectAll("circle").data(arms).join("circle").attr("class", "dot")
      .attr("cx", (arm) => x(arm.x.estimate)).attr("cy", (arm) => y(arm.y.estimate)).attr("r", 6)
      .attr("fill", (arm) => (arm.x.shown && arm.y.shown ? colour(router, arm.arm) : "var(--card)"))
      .attr("stroke", (arm) => colour(router, arm.arm)).attr("stroke-width", 2);
    hinted(dots, (arm) => told(arm));
    if (ours) {
      svg.append("g").attr("class", "cross ours").datum(ours).call((group) => cross(group, (d) => d));
      const star = svg.append("path").datum(ours).attr("class", "ours").attr("d", d3.symbol(d3.symbolDiamond, 190)())
        .attr("transform", `translate(${x(ours.x.estimate)},${y(ours.y.estimate)})`);
      hinted(star, () => ({ title: "Pointsman", lines: [
        ["resolved", `${percent(ours.y.estimate)} (${between(ours.y, percent)})`],
        ["a session", `${dollars(ours.x.estimate)} (${between(ours.x, dollars)})`]] }));
    }
    label(svg, [...(ours ? [{ text: "Pointsman", x: x(ours.x.estimate), y: y(ours.y.estimate), own: true }] : []),
      ...[...arms].sort((a, b) => data.frontier.includes(b.arm) - data.frontier.includes(a.arm) || b.attempts - a.attempts)
        .map((arm) => ({ text: short(arm.arm, 20), x: x(arm.x.estimate), y: y(arm.y.estimate) }))], width, height, margin);
  }

  const told = (arm) => ({ title: short(arm.arm, 60), lines: [
    ["alone it resolves", arm.y.low === null ? `${percent(arm.y.estimate)}, as foretold` : `${percent(arm.y.estimate)} (${between(arm.y, percent)})`],
    ["at", arm.x.low === null ? `${dollars(arm.x.estimate)}, as foretold` : `${dollars(arm.x.estimate)} (${between(arm.x, dollars)})`],
    ["sessions begun on it", count(arm.begun)], ["attempts", count(arm.attempts)]] });

  return figure({
    key: "frontier",
    label: "Success against dollars a session: Pointsman, every arm alone, and the frontier of arms",
    height: (width) => Math.max(300, Math.min(400, width * 0.62)),
    draw,
    legend: [
      { text: "Pointsman", swatch: "var(--ours)", kind: "diamond" },
      { text: "an arm alone, by its attempts", swatch: "var(--muted)", kind: "round" },
      { text: "as foretold only", swatch: "var(--muted)", kind: "ring" },
      { text: "frontier of arms", swatch: "var(--muted)", kind: "line" },
    ],
    note: "Up and to the left is better. Crosses are 95 % intervals. Above the frontier is what no mix of single arms does.",
    columns: [{ label: "arm" }, { label: "resolves alone", number: true }, { label: "95 %", number: true },
      { label: "dollars a session", number: true }, { label: "95 %", number: true }],
    rows: [...(ours ? [["Pointsman", ours.y, ours.x]] : []), ...arms.map((arm) => [short(arm.arm, 60), arm.y, arm.x])].map(([text, b, a]) => ({
      cells: [text, percent(b.estimate), b.low === null ? "foretold" : between(b, percent),
        dollars(a.estimate), a.low === null ? "foretold" : between(a, dollars)] })),
  });
}

/** Names beside their marks, where they cover no other name and no other mark. */
function label(svg, names, width, height, margin) {
  const taken = names.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  const free = ([a, b, c, d], own) => a >= margin.left && c <= width - 2 && b >= margin.top - 12 && d <= height - margin.bottom &&
    taken.every(([e, f, g, i], k) => k === own || c <= e || a >= g || d <= f || b >= i);
  names.forEach(({ text, x, y, own }, k) => {
    const wide = text.length * (own ? 7.2 : 6.2);
    for (const [dx, dy, anchor] of [[11, 4, "start"], [-11, 4, "end"], [0, -13, "middle"], [0, 21, "middle"], [11, -8, "start"],
      [11, 16, "start"], [-11, -8, "end"], [-11, 16, "end"]]) {
      const from = anchor === "start" ? x + dx : anchor === "end" ? x + dx - wide : x - wide / 2;
      const box = [from, y + dy - 10, from + wide, y + dy + 3];
      if (!free(box, k)) continue;
      taken.push(box);
      svg.append("text").attr("class", own ? "name own" : "name").attr("x", x + dx).attr("y", y + dy).attr("text-anchor", anchor).text(text);
      return;
    }
  });
}
