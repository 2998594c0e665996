// What was foretold of success against what came, by how likely it was said to be.

import { between, count, percent } from "../format.js";
import { bottom, figure, hinted, left } from "./figure.js";

export function calibration(forecasts) {
  const { bins } = forecasts;

  function draw(svg, width, height) {
    const margin = { top: 22, right: 14, bottom: 40, left: 46 };
    const x = d3.scaleLinear().domain([0, 1]).range([margin.left, width - margin.right]);
    const y = d3.scaleLinear().domain([0, 1]).range([height - margin.bottom, margin.top]);
    left(svg, y, { x0: margin.left, x1: width - margin.right, format: (v) => `${100 * v} %`, title: "succeeded" });
    bottom(svg, x, { y: height - margin.bottom, ticks: width > 330 ? 5 : 3, format: (v) => `${100 * v} %`, title: "foretold →", x1: width - margin.right });
    svg.append("line").attr("class", "ideal").attr("x1", x(0)).attr("y1", y(0)).attr("x2", x(1)).attr("y2", y(1));
    const size = d3.scaleSqrt().domain([0, d3.max(bins, (bin) => bin.attempts)]).range([2.5, 9]);
    svg.append("g").attr("class", "cross").attr("stroke", "var(--arm-0)").selectAll("line").data(bins).join("line")
      .attr("x1", (bin) => x(bin.foretold)).attr("x2", (bin) => x(bin.foretold)).attr("y1", (bin) => y(bin.real.low)).attr("y2", (bin) => y(bin.real.high));
    const dots = svg.append("g").selectAll("circle").data(bins).join("circle").attr("class", "dot").attr("fill", "var(--arm-0)")
      .attr("cx", (bin) => x(bin.foretold)).attr("cy", (bin) => y(bin.real.estimate)).attr("r", (bin) => size(bin.attempts));
    hinted(dots, (bin) => ({ title: `foretold ${percent(bin.foretold)}`, lines: [["succeeded", percent(bin.real.estimate)],
      ["95 %", between(bin.real, percent)], ["attempts", count(bin.attempts)]] }));
  }

  return figure({
    key: "calibration", label: "Foretold against realised success of attempts", height: 280, draw,
    legend: [{ text: "attempts of about equal forecast, 95 %", swatch: "var(--arm-0)", kind: "round" }, { text: "came as foretold", swatch: "var(--muted)", kind: "dashes" }],
    columns: [{ label: "foretold" }, { label: "succeeded", number: true }, { label: "95 %", number: true }, { label: "attempts", number: true }],
    rows: bins.map((bin) => ({ cells: [percent(bin.foretold), percent(bin.real.estimate), between(bin.real, percent), count(bin.attempts)] })),
  });
}
