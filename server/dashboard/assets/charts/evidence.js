// How the evidence on a canary grows: the difference, its bounds that hold at any time, and the gate.

import { count, dollars, points } from "../format.js";
import { bottom, figure, left } from "./figure.js";

/** One condition of the gate. `course` are the looks so far: {sessions, differences: [{condition, estimate, low, high}]}. */
export function evidence(condition, metric, bound, course) {
  const looks = course.map((look) => ({ n: look.sessions, ...look.differences.find((each) => each.condition === condition) })).filter((look) => look.low !== undefined);
  const write = metric === "success" ? (v) => points(v) : dollars;

  function draw(svg, width, height) {
    const margin = { top: 22, right: 14, bottom: 40, left: 54 };
    const x = d3.scaleLinear().domain([looks[0].n * 0.9, looks.at(-1).n * 1.02]).range([margin.left, width - margin.right]);
    // The first bounds are so wide that they would flatten all that follows.
    const late = looks.slice(Math.floor(looks.length / 4));
    const values = [...late.flatMap((look) => [look.low, look.high]), bound ?? 0, 0];
    const y = d3.scaleLinear().domain(d3.extent(values)).nice(5).range([height - margin.bottom, margin.top]).clamp(true);
    left(svg, y, { x0: margin.left, x1: width - margin.right, ticks: 5, format: write, title: metric === "success" ? "points of success" : "dollars a session" });
    bottom(svg, x, { y: height - margin.bottom, ticks: Math.max(2, Math.floor(width / 90)), format: count, title: "sessions that count →", x1: width - margin.right });
    svg.append("path").attr("class", "within").attr("d", d3.area().x((look) => x(look.n)).y0((look) => y(look.low)).y1((look) => y(look.high))(looks));
    svg.append("path").attr("class", "line").attr("stroke", "var(--arm-0)").attr("d", d3.line().x((look) => x(look.n)).y((look) => y(look.estimate))(looks));
    if (looks.length < 3) {
      svg.append("g").attr("class", "cross").attr("stroke", "var(--arm-0)").selectAll("line").data(looks).join("line")
        .attr("x1", (look) => x(look.n)).attr("x2", (look) => x(look.n)).attr("y1", (look) => y(look.low)).attr("y2", (look) => y(look.high));
      svg.append("g").selectAll("circle").data(looks).join("circle").attr("r", 4).attr("fill", "var(--arm-0)").attr("cx", (look) => x(look.n)).attr("cy", (look) => y(look.estimate));
    }
    svg.append("line").attr("class", "zero").attr("x1", margin.left).attr("x2", width - margin.right).attr("y1", y(0)).attr("y2", y(0));
    if (bound !== null) svg.append("line").attr("class", "pace").attr("x1", margin.left).attr("x2", width - margin.right).attr("y1", y(bound)).attr("y2", y(bound));
  }

  return figure({
    key: `evidence-${condition}`, label: `How ${metric} of the canary compares with the live policy's as sessions end`, height: 230, draw,
    legend: [{ text: "canary less live", swatch: "var(--arm-0)", kind: "line" }, { text: "95 %, however often one looks", swatch: "var(--within)" },
      ...(bound !== null ? [{ text: "the gate", swatch: "var(--ink)", kind: "dashes" }] : [])],
    columns: [{ label: "sessions" }, { label: "difference", number: true }, { label: "from", number: true }, { label: "to", number: true }],
    rows: looks.map((look) => ({ cells: [count(look.n), write(look.estimate), write(look.low), write(look.high)] })),
  });
}
