// How sessions move: from the arm they begin on, by failures to the next, and to their end.

import { colour, hasOwn, place } from "../colours.js";
import { short } from "../dom.js";
import { count, percent } from "../format.js";
import { figure, hinted } from "./figure.js";

const ENDS = { resolved: "resolved", unresolved: "not resolved", untold: "not told", open: "still open" };
const ORDINALS = ["1st attempt", "2nd attempt", "3rd attempt", "4th attempt"];
const OTHERS = "\u0000others";
const GAP = 10;

export function flows(router, data) {
  const lane = (arm) => (arm in ENDS ? arm : hasOwn(router, arm) ? `arm:${arm}` : OTHERS);
  const words = (node) => (node in ENDS ? ENDS[node] : node === OTHERS ? "other arms" : short(node.slice(4), 24));
  const fill = (node) => (node in ENDS ? `var(--${node})` : node === OTHERS ? "var(--rest)" : colour(router, node.slice(4)));
  // From the top: ended well, the arms, ended otherwise.
  const rank = (node) => ({ resolved: -1, untold: 1e10, open: 2e10, unresolved: 3e10 })[node] ?? (node === OTHERS ? 1e9 : place(router, node.slice(4)));
  const merged = d3.rollups(data.moves, (moves) => d3.sum(moves, (move) => move[3]), (move) => move[0], (move) => lane(move[1]), (move) => lane(move[2]))
    .flatMap(([attempt, from]) => from.flatMap(([source, to]) => to.map(([target, n]) => ({ attempt, source, target, n }))));
  const sessions = d3.sum(merged.filter((move) => move.attempt === 1), (move) => move.n);
  const attempts = d3.max(merged, (move) => move.attempt) ?? 0;

  function draw(svg, width, height) {
    // Where there is little room the ends are named by the legend alone.
    const room = width > 420 ? 118 : 62;
    const margin = { top: 26, bottom: 8, left: 2, right: room };
    // Ends gather in the last column, whenever they come.
    const columns = d3.range(attempts + 1).map((i) => ({ i, nodes: new Map() }));
    const at = (i, node) => {
      const column = columns[node in ENDS ? attempts : i];
      if (!column.nodes.has(node)) column.nodes.set(node, { node, into: 0, out: 0, column: column.i });
      return column.nodes.get(node);
    };
    const links = merged.map((move) => ({ ...move, from: at(move.attempt - 1, move.source), to: at(move.attempt, move.target) }));
    for (const link of links) {
      link.from.out += link.n;
      link.to.into += link.n;
    }
    const most = d3.max(columns, (column) => column.nodes.size);
    const scale = (height - margin.top - margin.bottom - GAP * (most - 1)) / sessions;
    const x = d3.scaleLinear().domain([0, attempts]).range([margin.left, width - margin.right]);
    for (const column of columns) {
      column.nodes = [...column.nodes.values()].sort((a, b) => rank(a.node) - rank(b.node));
      const tall = d3.sum(column.nodes, (node) => Math.max(node.into, node.out)) * scale + GAP * (column.nodes.length - 1);
      let y = column.i === attempts ? margin.top + Math.max(0, (height - margin.top - margin.bottom - tall) / 2) : margin.top;
      for (const node of column.nodes) {
        Object.assign(node, { y, left: y, right: y, tall: Math.max(node.into, node.out) * scale });
        y += node.tall + GAP;
      }
    }
    const bar = 10;
    const bands = svg.append("g").selectAll("path").data(links.sort((a, b) => rank(a.source) - rank(b.source) || rank(a.target) - rank(b.target))).join("path")
      .attr("class", "band").attr("fill", (link) => fill(link.source))
      .attr("d", (link) => {
        const thick = link.n * scale;
        const [x0, x1] = [x(link.from.column) + bar, x(link.to.column)];
        const [y0, y1] = [link.from.right, link.to.left];
        link.from.right += thick;
        link.to.left += thick;
        const mid = (x0 + x1) / 2;
        return `M${x0},${y0}C${mid},${y0} ${mid},${y1} ${x1},${y1}L${x1},${y1 + thick}C${mid},${y1 + thick} ${mid},${y0 + thick} ${x0},${y0 + thick}Z`;
      });
    hinted(bands, (link) => ({ title: `${words(link.source)} → ${words(link.target)}`, lines: [["sessions", count(link.n)],
      ["of all", percent(link.n / sessions)], [`of those on ${words(link.source)} then`, percent(link.n / link.from.out)]] }));
    for (const column of columns) {
      svg.append("text").attr("class", "title").attr("x", x(column.i)).attr("y", 12)
        .text(column.i === attempts ? "end" : width / (attempts + 1) > 110 ? ORDINALS[column.i] : ORDINALS[column.i].slice(0, 3));
      for (const node of column.nodes) {
        svg.append("rect").attr("x", x(column.i)).attr("y", node.y).attr("width", bar).attr("height", Math.max(1, node.tall)).attr("fill", fill(node.node)).attr("rx", 2);
        if (node.tall < 13 && !(node.node in ENDS)) continue;
        const share = percent(Math.max(node.into, node.out) / sessions, 0);
        const text = svg.append("text").attr("class", "name halo").attr("x", x(column.i) + bar + 5).attr("y", node.y + node.tall / 2).attr("dy", "0.32em");
        const fits = column.i === attempts ? room > 100 : (width - room) / attempts > 60 + 6.3 * words(node.node).length;
        text.text(fits ? `${words(node.node)} ${share}` : share);
      }
    }
  }

  const seen = [...new Set(merged.flatMap((move) => [move.source, move.target]))].sort((a, b) => rank(a) - rank(b));
  return figure({
    key: "flows", label: "How sessions move from arm to arm and to their end", height: (width) => (width > 420 ? 380 : 320), draw,
    legend: seen.map((node) => ({ text: words(node), swatch: fill(node) })),
    columns: [{ label: "attempt" }, { label: "arm" }, { label: "then" }, { label: "sessions", number: true }, { label: "of all", number: true }],
    rows: [...merged].sort((a, b) => a.attempt - b.attempt || b.n - a.n).map((move) => ({ cells: [String(move.attempt), words(move.source), words(move.target), count(move.n), percent(move.n / sessions)] })),
  });
}
