// Recent decisions, and why each arm was taken.

import { assign, colour } from "../colours.js";
import { card, empty, h, named, refill, table, visible } from "../dom.js";
import { ago, count, dollars, moment, percent } from "../format.js";

const REASONS = { sampled: "drawn", pinned: "pinned", only_eligible: "only one", baseline: "baseline", escalated: "escalated",
  rerouted_unavailable: "rerouted: down", rerouted_capability: "rerouted: ability", rerouted_policy: "rerouted: rules" };

const PAGE = 40;

export function arm(router, id, most = 24) {
  return h("span", { class: "arm" }, h("span", { class: "swatch", style: { "--swatch": colour(router, id) } }), named(id, most));
}

export function became(outcome) {
  if (!outcome) return "–";
  const cost = outcome.cost_usd === null ? "" : ` · ${dollars(outcome.cost_usd)}`;
  if (outcome.left) return h("span", { class: "left" }, `${outcome.left}${cost}`);
  if (outcome.success === null) return outcome.running ? "running" : `not told${cost}`;
  return h("span", { class: outcome.success >= 0.5 ? "ok" : "left" }, `${outcome.success >= 0.5 ? "✓" : "✗"} ${percent(outcome.success, 0)}${cost}`);
}

export function rows(router, decisions, link, { brief = false } = {}) {
  if (!decisions.length) return empty("No decisions yet.");
  const columns = [{ label: "when" }, { label: "arm" }, { label: "why" }, { label: "chance", number: true }, { label: "foretold", number: true }, { label: "what came" }, ...(brief ? [] : [{ label: "session" }])];
  return h("div", { class: "stack" }, table("Decisions, the latest first", columns, decisions.map((each) => ({ cells: [
    h("a", { href: link("decision", { id: each.decision_id }), title: moment(each.at_us), "data-key": `decision-${each.decision_id}` }, ago(each.at_us)),
    [arm(router, each.arm), each.attempt > 1 ? h("small", {}, ` attempt ${each.attempt}`) : null],
    each.why,
    percent(each.propensity, 0),
    each.success_mean === null ? "–" : `${percent(each.success_mean, 0)} at ${dollars(each.cost_usd)}`,
    became(each.outcome),
    ...(brief ? [] : [h("a", { href: link("decision", { session: each.session_id }) }, named(each.session_id, 18))]),
  ] }))));
}

export function decisions({ router, ask, link, go }) {
  const find = h("input", { type: "search", placeholder: "id of a decision or session", "aria-label": "Find a decision or session by its id", maxlength: 256, size: 30 });
  const filter = { arm: "", reason: "" };
  let most = PAGE;
  const lost = h("p", { class: "trouble", role: "alert" });
  const list = h("div", {});
  const filters = h("div", { class: "filters" });
  const root = h("div", { class: "view" },
    h("div", { class: "bar" }, h("h1", {}, "Decisions"),
      h("form", { class: "inline", role: "search", onsubmit: async (event) => {
        event.preventDefault();
        const id = find.value.trim();
        if (!id) return;
        const found = await ask("find", { router, id });
        if (found.id ?? found.session) go(link("decision", found));
        else lost.textContent = `No decision or session of this router has the id ${visible(id)}.`;
      } }, find, h("button", { class: "button" }, "Explain"))),
    lost, filters, list);
  let last = null;

  async function load() {
    const [{ decisions: found }, figures] = await Promise.all([ask("decisions", { router }), ask("overview", { router, range: "all" })]);
    return { found, arms: figures.arms };
  }

  function show(data) {
    last = data;
    assign(router, data.arms);
    const arms = [...new Set(data.found.map((each) => each.arm))].sort();
    const reasons = [...new Set(data.found.map((each) => each.reason))].sort();
    refill(filters,
      select("Arm", "arm", [["", "all arms"], ...arms.map((each) => [each, visible(each)])]),
      select("Reason", "reason", [["", "all reasons"], ...reasons.map((each) => [each, REASONS[each] ?? each])]));
    const shown = data.found.filter((each) => (!filter.arm || each.arm === filter.arm) && (!filter.reason || each.reason === filter.reason));
    refill(list, card(null, h("p", { class: "quiet" }, `The latest ${count(data.found.length)} decisions${shown.length < data.found.length ? `, ${count(shown.length)} of them chosen above` : ""}. Each leads to its whole story.`),
      rows(router, shown.slice(0, most), link),
      shown.length > most ? h("div", { class: "buttons" }, h("button", { class: "button", "data-key": "more", onclick: () => { most += PAGE; show(last); } }, `Show ${Math.min(PAGE, shown.length - most)} more`)) : null));
  }

  function select(label, key, options) {
    return h("label", { class: "pick" }, h("span", {}, label), h("select", { "data-key": `filter-${key}`, onchange: (event) => { filter[key] = event.target.value; show(last); } },
      options.map(([value, text]) => h("option", { value, selected: value === filter[key] }, text))));
  }

  return { root, load, show };
}
