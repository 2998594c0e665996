// Pictures over time: shares of arms, dollars, forecasts.

import { colour, hasOwn, place } from "../colours.js";
import { short } from "../dom.js";
import { count, dollars, percent } from "../format.js";
import { along, bottom, figure, left } from "./figure.js";

/** The steps of a range up to now, those without sessions too: {at (ms), step or null}. */
export function steps(data) {
  const length = data.step_seconds;
  const last = Math.floor(data.now_us / 1e6 / length) * length;
  const begun = data.first_us === null ? last : Math.floor(data.first_us / 1e6 / length) * length;
  const first = data.steps === null ? begun : Math.max(begun, last - (data.steps - 1) * length);
  const there = new Map(data.series.map((step) => [step.at, step]));
  const found = [];
  for (let at = Math.min(first, last); at <= last; at += length) found.push({ at: at * 1000, step: there.get(at) ?? null });
  return found;
}

const margin = { top: 22, right: 12, bottom: 26, left: 46 };

function frame(svg, width, height, shown, length) {
  const from = shown[0].at;
  const to = shown.at(-1).at + 1000 * length;
  const x = d3.scaleTime().domain([from, to]).range([margin.left, width - margin.right]);
  const write = d3.timeFormat(to - from > 3 * 86_400_000 ? "%-d %b" : length < 60 && to - from < 300_000 ? "%H:%M:%S" : "%H:%M");
  bottom(svg, x, { y: height - margin.bottom, ticks: x.ticks(Math.max(2, Math.floor(width / 110))), format: write });
  return x;
}

const at = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Which arms sessions begin on, as shares of each step. */
export function shares(router, data) {
  const shown = steps(data);
  const used = data.arms.filter((arm) => arm.begun > 0).sort((a, b) => place(router, a.arm) - place(router, b.arm));
  const own = used.filter((arm) => hasOwn(router, arm.arm)).map((arm) => arm.arm);
  const others = used.filter((arm) => !hasOwn(router, arm.arm)).map((arm) => arm.arm);
  const lanes = [...own.map((arm) => ({ text: short(arm, 24), arms: [arm], fill: colour(router, arm) })),
    ...(others.length ? [{ text: others.length > 1 ? `${others.length} others` : short(others[0], 24), arms: others, fill: "var(--rest)" }] : [])];
  const begun = (step, lane) => d3.sum(lane.arms, (arm) => step?.begun[arm] ?? 0);

  function draw(svg, width, height) {
    const x = frame(svg, width, height, shown, data.step_seconds);
    const y = d3.scaleLinear().domain([0, 1]).range([height - margin.bottom, margin.top]);
    left(svg, y, { x0: margin.left, x1: width - margin.right, format: (v) => `${100 * v} %`, title: "of sessions begun" });
    const wide = Math.max(1, (x.range()[1] - x.range()[0]) / shown.length);
    for (const { at: ms, step } of shown) {
      let below = 0;
      for (const lane of lanes) {
        const share = step ? begun(step, lane) / step.sessions : 0;
        if (!share) continue;
        svg.append("rect").attr("x", x(ms)).attr("width", Math.max(0.6, wide - (wide > 6 ? 1 : 0))).attr("y", y(below + share))
          .attr("height", y(below) - y(below + share)).attr("fill", lane.fill);
        below += share;
      }
    }
    const centres = shown.map(({ at: ms }) => x(ms) + wide / 2);
    along(svg, centres, { top: margin.top, height: height - margin.bottom - margin.top, told: (i) => ({
      title: at(shown[i].at), lines: [["sessions begun", count(shown[i].step?.sessions ?? 0)],
        ...lanes.map((lane) => [lane.text, shown[i].step ? percent(begun(shown[i].step, lane) / shown[i].step.sessions) : "–", lane.fill])] }) });
  }

  const all = d3.sum(used, (arm) => arm.begun);
  return figure({
    key: "shares", label: "Which arms sessions begin on, over time", height: 250, draw,
    legend: lanes.map((lane) => ({ text: `${lane.text} ${percent(d3.sum(used.filter((arm) => lane.arms.includes(arm.arm)), (arm) => arm.begun) / all, 0)}`, swatch: lane.fill })),
    columns: [{ label: "from" }, { label: "sessions", number: true }, ...lanes.map((lane) => ({ label: lane.text, number: true }))],
    rows: shown.filter(({ step }) => step).map(({ at: ms, step }) => ({ cells: [at(ms), count(step.sessions), ...lanes.map((lane) => count(begun(step, lane)))] })),
  });
}

/** Lines over the steps: `lines` are {text, stroke, of(step), dashed}; missing values leave gaps. */
export function lines(key, label, data, { lines: drawn, format, title, from0 = false, note, height = 210, top }) {
  const shown = steps(data);

  function draw(svg, width, tall) {
    const x = frame(svg, width, tall, shown, data.step_seconds);
    const values = shown.flatMap(({ step }) => drawn.map((line) => (step ? line.of(step) : null))).filter((v) => v !== null && v !== undefined);
    const [low, high] = values.length ? d3.extent(values) : [0, 1];
    const pad = (high - low) * 0.12 || Math.abs(high) * 0.1 || 0.1;
    const y = d3.scaleLinear().domain([from0 ? 0 : Math.max(0, low - pad), Math.min(top ?? Infinity, high + pad)]).nice(4).range([tall - margin.bottom, margin.top]);
    left(svg, y, { x0: margin.left, x1: width - margin.right, format, title });
    const half = (x(shown[0].at + 1000 * data.step_seconds) - x(shown[0].at)) / 2;
    for (const line of drawn) {
      const points = shown.map(({ at: ms, step }) => [x(ms) + half, step ? line.of(step) : null]);
      const known = ([, v]) => v !== null && v !== undefined;
      svg.append("path").attr("class", line.dashed ? "line dashed" : "line").attr("stroke", line.stroke)
        .attr("d", d3.line().defined(known).x((p) => p[0]).y((p) => y(p[1]))(points));
      // A step between two that are empty would not be seen as a line.
      svg.append("g").selectAll("circle").data(points.filter((p, i) => known(p) && !(points[i - 1] && known(points[i - 1])) && !(points[i + 1] && known(points[i + 1]))))
        .join("circle").attr("cx", (p) => p[0]).attr("cy", (p) => y(p[1])).attr("r", 3).attr("fill", line.stroke);
    }
    along(svg, shown.map(({ at: ms }) => x(ms) + half), { top: margin.top, height: tall - margin.bottom - margin.top, told: (i) => ({
      title: at(shown[i].at), lines: [["sessions", count(shown[i].step?.sessions ?? 0)],
        ...drawn.map((line) => [line.text, shown[i].step && line.of(shown[i].step) !== null ? format(line.of(shown[i].step)) : "–", line.stroke])] }) });
  }

  return figure({
    key, label, height, draw, note,
    legend: drawn.map((line) => ({ text: line.text, swatch: line.stroke, kind: line.dashed ? "dashes" : "line" })),
    columns: [{ label: "from" }, ...drawn.map((line) => ({ label: line.text, number: true }))],
    rows: shown.filter(({ step }) => step).map(({ at: ms, step }) => ({ cells: [at(ms), ...drawn.map((line) => (line.of(step) === null ? "–" : format(line.of(step))))] })),
  });
}

/** Dollars spent in each step, and what the budget would be spent evenly. */
export function money(data, evenly) {
  const shown = steps(data);

  function draw(svg, width, height) {
    const x = frame(svg, width, height, shown, data.step_seconds);
    const y = d3.scaleLinear().domain([0, d3.max([evenly ?? 0, ...shown.map(({ step }) => step?.spent_usd ?? 0), 0.01]) * 1.08]).nice(4)
      .range([height - margin.bottom, margin.top]);
    left(svg, y, { x0: margin.left, x1: width - margin.right, format: (v) => `$${d3.format("~s")(v)}`, title: "dollars" });
    const wide = Math.max(1, (x.range()[1] - x.range()[0]) / shown.length);
    for (const { at: ms, step } of shown) {
      if (!step) continue;
      svg.append("rect").attr("class", "bar").attr("x", x(ms)).attr("width", Math.max(0.6, wide - (wide > 4 ? 1 : 0)))
        .attr("y", y(step.spent_usd)).attr("height", Math.max(0, y(0) - y(step.spent_usd)));
    }
    if (evenly !== null) {
      svg.append("line").attr("class", "pace").attr("x1", margin.left).attr("x2", width - margin.right).attr("y1", y(evenly)).attr("y2", y(evenly));
    }
    along(svg, shown.map(({ at: ms }) => x(ms) + wide / 2), { top: margin.top, height: height - margin.bottom - margin.top, told: (i) => ({
      title: at(shown[i].at), lines: [["spent", dollars(shown[i].step?.spent_usd ?? 0)], ["a session", dollars(shown[i].step?.cost_usd ?? null)],
        ...(evenly !== null ? [["the budget, evenly", dollars(evenly)]] : [])] }) });
  }

  return figure({
    key: "money", label: "Dollars spent over time", height: 210, draw,
    legend: evenly === null ? [] : [{ text: "spent", swatch: "var(--arm-0)" }, { text: "the budget, spent evenly", swatch: "var(--ink)", kind: "dashes" }],
    columns: [{ label: "from" }, { label: "sessions", number: true }, { label: "spent", number: true }, { label: "a session", number: true }],
    rows: shown.filter(({ step }) => step).map(({ at: ms, step }) => ({ cells: [at(ms), count(step.sessions), dollars(step.spent_usd), dollars(step.cost_usd)] })),
    note: "By when their sessions began; those that still run are not in it.",
  });
}
