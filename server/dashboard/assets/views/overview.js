// What it comes to: savings, quality, where sessions go, and whether it is learning.

import { calibration } from "../charts/calibration.js";
import { flows } from "../charts/flows.js";
import { frontier, level } from "../charts/frontier.js";
import { lines, money, shares } from "../charts/time.js";
import { assign } from "../colours.js";
import { card, empty, facts, h, name, refill } from "../dom.js";
import { between, count, dollars, duration, exact, percent, points } from "../format.js";
import { rows as decisionRows } from "./decisions.js";

const RANGES = [["minutes", "10 min"], ["hour", "1 h"], ["day", "24 h"], ["month", "30 d"], ["all", "All"]];
const ENOUGH = 30;

export function overview({ router, range, ask, link, go }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));
  let against = null;
  let last = null;
  let chosen = range;
  const cards = new Map();

  async function load() {
    if (!chosen) chosen = await fitting();
    const [figures, told, recent] = await Promise.all([
      ask("overview", { router, range: chosen }), ask("router", { router }), ask("decisions", { router, most: 8 })]);
    // What the clock says is no news.
    return { figures: { ...figures, now_us: Math.floor(figures.now_us / 1e7) * 1e7 }, told, recent: recent.decisions };
  }

  /** The shortest range that holds all there is; a day where there is more. */
  async function fitting() {
    const { first_us: first, now_us: now } = await ask("overview", { router, range: "minutes" });
    const seconds = first === null ? 0 : (now - first) / 1e6;
    return seconds < 600 ? "minutes" : seconds < 3600 ? "hour" : "day";
  }

  function show(data) {
    last = data;
    const { figures, told } = data;
    assign(router, figures.arms);
    const { read } = figures;
    const log = Number(told.router.last_sequence);
    const behind = log - read > 2000 ? h("p", { class: "banner", role: "status" },
      `The log is being read: ${percent(read / log, 0)} of ${count(log)} events so far. Figures grow until it is done.`) : null;
    refill(root,
      h("div", { class: "bar" }, h("h1", {}, "Overview"), ranges()),
      behind,
      figures.totals.sessions === 0 ? nothing(figures) : [
        part("savings", [figures.totals, figures.arms, figures.baseline, against], () => savings(figures)),
        part("tiles", [figures.totals, told.router], () => tiles(figures, told.router)),
        h("div", { class: "pair" },
          h("div", { class: "list" },
            part("frontier", [figures.totals, figures.arms, figures.frontier], () => card("Success against cost",
              figures.arms.some((arm) => level(arm.success) && level(arm.cost_usd)) ? frontier(router, figures) : empty("This policy foretells neither success nor cost, and no session was drawn often enough to say what an arm alone would come to."))),
            part("shares", [figures.series, figures.now_us], () => card("Arms over time", shares(router, figures))),
            part("money", [figures.series, figures.now_us, told.router.budget_spent_usd, told.router.budget_price], () => budget(figures, told.router))),
          h("div", { class: "list" },
            part("flows", [figures.moves], () => card("Where sessions go", figures.moves.length ? flows(router, figures) : empty("No sessions yet."))),
            part("learning", [figures.forecasts, figures.series, told.router.mode, told.router.epoch], () => learning(figures, told.router)),
            part("rates", [figures.series, figures.now_us], () => card("Success over time",
              lines("rates", "Share of sessions resolved and escalated over time", figures, { format: (v) => percent(v, 0), title: "of sessions", top: 1, lines: [
                { text: "resolved", stroke: "var(--good)", of: (step) => step.success },
                { text: "escalated", stroke: "var(--arm-1)", of: (step) => step.escalated, dashed: true }] }))))),
        part("recent", data.recent, () => card("Recent decisions", decisionRows(router, data.recent, link, { brief: true }),
          h("p", {}, h("a", { href: link("decisions") }, "All recent decisions")))),
      ]);
  }

  /** A part of the page that is made anew only where what it shows has changed. */
  function part(key, of, make) {
    const text = JSON.stringify(of);
    const before = cards.get(key);
    if (before?.text === text) return before.node;
    const node = h("div", { class: "part" }, make());
    if (before) refill(before.node, ...node.childNodes);
    const kept = before?.node ?? node;
    cards.set(key, { text, node: kept });
    return kept;
  }

  function ranges() {
    return h("div", { class: "segments", role: "group", "aria-label": "Sessions that began in the last" }, RANGES.map(([key, label]) =>
      h("button", { "data-key": `range-${key}`, "aria-pressed": String(key === chosen), onclick: () => go(link("overview", { range: key })) }, label)));
  }

  function nothing(figures) {
    const first = figures.first_us === null;
    return card(first ? "No sessions yet" : "No sessions in this time", first
      ? [h("p", {}, "As soon as an agent asks which model to use, this page fills. To see it at once:"),
        h("pre", {}, `pointsman select --router '${router.replaceAll("'", "'\\''")}' --feature category=bugfix`)]
      : h("p", { class: "quiet" }, "There are sessions from before: take a longer time above."));
  }

  function savings(figures) {
    const able = figures.arms.filter((arm) => arm.cost_usd && arm.success && level(arm.cost_usd));
    const wanted = able.find((arm) => arm.arm === (against ?? figures.baseline?.arm));
    const pick = h("label", { class: "pick" }, h("span", {}, "against always using"),
      h("select", { "data-key": "against", onchange: (event) => { against = event.target.value; show(last); } },
        [...able].sort((a, b) => level(b.success)?.estimate - level(a.success)?.estimate).map((arm) =>
          h("option", { value: arm.arm, selected: arm === wanted }, `${arm.arm}${arm.arm === figures.baseline?.arm ? ` (${figures.baseline.why})` : ""}`))));
    if (!wanted) {
      return h("section", { class: "card hero" }, h("h2", {}, "Savings"), empty(able.length || figures.arms.some((arm) => arm.success)
        ? "Not known yet: savings are told once sessions have ended with their cost, and an arm to compare with could have begun them."
        : "Not known yet: no session has ended with a success and a cost."));
    }
    const cost = wanted.cost_usd.corrected ?? wanted.cost_usd.weighted;
    const success = wanted.success.corrected ?? wanted.success.weighted;
    const n = wanted.cost_usd.sessions;
    if (!cost) {
      return h("section", { class: "card hero" }, h("h2", {}, "Savings"), pick,
        h("p", { class: "big quiet-big" }, "Too early to say"),
        h("p", {}, name(wanted.arm), ` has ${count(wanted.attempts)} attempts of which the cost is known, and it takes 10. Foretold is ${dollars(wanted.cost_usd.foretold)} a session with it; with Pointsman it was ${dollars(wanted.cost_usd.real)}.`));
    }
    const less = cost.share ? cost.share.estimate : cost.less.estimate / cost.value.estimate;
    const saves = cost.less.estimate >= 0;
    const sure = cost.less.low > 0 ? "saves" : cost.less.high < 0 ? "costs" : "unclear";
    const gap = success ? { estimate: -success.less.estimate, low: -success.less.high, high: -success.less.low } : null;
    const quality = !gap ? ["quiet-pill", "success not known"] : gap.low > 0 ? ["good", "more is resolved"] : gap.high < 0 ? ["bad", "less is resolved"]
      : gap.low >= -0.02 ? ["good", "quality held within 2 points"] : ["quiet-pill", "no difference in quality shown"];
    return h("section", { class: "card hero" },
      h("div", { class: "hero-main" },
        h("h2", {}, saves ? "Saved" : "Costs more"),
        h("p", { class: `big ${sure === "costs" ? "worse" : sure === "saves" ? "better" : ""}` }, percent(Math.abs(less), 0)),
        h("p", { class: "sub" }, cost.share ? `95 %: ${between(saves ? cost.share : { low: -cost.share.high, high: -cost.share.low }, (v) => percent(v, 0))}` : "",
          sure === "unclear" ? h("span", { class: "pill quiet-pill" }, "not sure yet") : null)),
      h("div", { class: "hero-words" }, pick,
        h("p", {}, h("strong", {}, dollars(Math.abs(cost.less.estimate) * n)), saves ? " less" : " more", ` on ${count(n)} sessions: `,
          h("strong", {}, dollars(wanted.cost_usd.real)), " a session against ", h("strong", {}, dollars(cost.value.estimate)),
          ` (95 %: ${between(cost.value, dollars)}).`),
        success ? h("p", {}, h("strong", {}, percent(wanted.success.real)), " resolved against ", h("strong", {}, percent(success.value.estimate)),
          `: ${points(gap.estimate)} points (95 %: ${between(gap, points)}). `, h("span", { class: `pill ${quality[0]}` }, quality[1])) : null,
        h("details", { "data-key": "how" }, h("summary", { "data-key": "how-summary" }, "How this is known"), how(wanted))));
  }

  function how(arm) {
    const { cost_usd: cost, success } = arm;
    return [
      h("p", {}, "Nobody ran ", name(arm.arm), " on all of these sessions. What it would have come to is what the decisions foretold of it for each of them, corrected by how its own ",
        `${count(cost.attempts)} attempts turned out against what had been foretold of those. It would have begun every session and never escalated.`),
      facts([
        ["foretold", `${percent(success.foretold)} resolved at ${dollars(cost.foretold)}`],
        ["corrected", success.corrected && cost.corrected ? `${percent(success.corrected.value.estimate)} at ${dollars(cost.corrected.value.estimate)}` : ""],
        ["by drawn sessions alone", success.weighted && cost.weighted
          ? `${percent(success.weighted.value.estimate)} (${between(success.weighted.value, percent)}) at ${dollars(cost.weighted.value.estimate)} (${between(cost.weighted.value, dollars)})`
          : `not enough: those that it was drawn for are worth ${cost.effective.toFixed(1)} sessions, and it takes 30`],
      ]),
      h("p", { class: "quiet" }, "“By drawn sessions alone” takes no forecast on trust: it weighs the sessions that the lottery gave to this arm by their exact chances."),
    ];
  }

  function tiles(figures, told) {
    const { totals } = figures;
    const tile = (label, value, sub, href) => h(href ? "a" : "div", { class: "tile", href, "data-key": href ? `tile-${label}` : null },
      h("span", { class: "label" }, label), h("span", { class: "value" }, value), h("span", { class: "sub" }, sub));
    const mode = told.mode.replace("MODE_", "").toLowerCase();
    return h("div", { class: "tiles" },
      tile("Sessions", count(totals.sessions), `${count(totals.open)} open`, link("sessions")),
      tile("Resolved", totals.success ? percent(totals.success.estimate) : "–", totals.success ? `95 %: ${between(totals.success, percent)}` : "nothing told yet"),
      tile("A session", totals.cost_usd ? dollars(totals.cost_usd.estimate) : "–", totals.cost_usd ? `95 %: ${between(totals.cost_usd, dollars)}` : "no cost told yet"),
      tile("Spent", dollars(totals.spent_usd), `${count(totals.billed)} sessions billed`),
      tile("Escalated", percent(totals.escalated / totals.sessions, 0), `${(totals.attempts / totals.sessions).toFixed(2)} attempts a session`),
      tile("Mode", mode, { live: "decides and learns", apprentice: "the baseline decides", frozen: "does not learn" }[mode] ?? "", link("policies")));
  }

  function learning(figures, told) {
    const { forecasts, series } = figures;
    const { success, cost_usd: cost } = forecasts;
    const frozen = told.mode === "MODE_FROZEN";
    let kind = "quiet-pill";
    let words;
    if (frozen) words = "No: it is frozen.";
    else if (!success) words = Number(told.epoch) ? `It has learned ${count(told.epoch)} times; this policy foretells nothing that could be compared.` : "Not yet: it learns in blocks of outcomes, and the first is not full.";
    else if (success.attempts < ENOUGH) words = `Too early to say: ${count(success.attempts)} attempts can be compared.`;
    else {
      const spread = Math.sqrt(Math.max(success.foretold * (1 - success.foretold), 1e-9) / success.attempts);
      const surprise = (success.real - success.foretold) / spread;
      const skill = 1 - success.brier / (success.constant || 1);
      kind = Math.abs(surprise) <= 3 ? "good" : "warn";
      words = `${Math.abs(surprise) <= 3 ? "Yes" : "It learns, but"}: of ${count(success.attempts)} attempts ${percent(success.foretold)} were foretold to succeed and ${percent(success.real)} did${
        Math.abs(surprise) <= 3 ? "" : `, ${Math.abs(surprise).toFixed(1)} standard errors off`}. ${skill > 0
        ? `Telling sessions and arms apart takes ${percent(skill, 0)} off the squared error of one rate for all.` : "It does not yet tell better from worse than one rate for all would."}`;
    }
    const widths = series.map((step) => step.width).filter((width) => width !== null);
    return card("Is it learning?", h("p", {}, h("span", { class: `dot-mark ${kind}`, "aria-hidden": "true" }), words),
      facts([
        ["epoch", `${count(told.epoch)}, level with event ${count(told.learned_sequence)} of ${count(told.last_sequence)}`],
        ["cost", cost ? `${dollars(cost.foretold)} foretold an attempt, ${dollars(cost.real)} came` : ""],
        ["90 % intervals", widths.length > 1 ? `${(100 * widths[0]).toFixed(0)} points wide at first, ${(100 * widths.at(-1)).toFixed(0)} now` : ""],
      ]),
      forecasts.bins.length ? calibration(forecasts) : null,
      success && series.length > 2 ? lines("brier", "Squared error of forecasts over time", figures, { format: (v) => v.toFixed(3), title: "squared error of forecasts", from0: true, height: 170, lines: [
        { text: "as foretold", stroke: "var(--arm-0)", of: (step) => step.forecasts.success?.brier ?? null },
        { text: "one rate for all", stroke: "var(--muted)", of: (step) => step.forecasts.success?.constant ?? null, dashed: true }] }) : null);
  }

  function budget(figures, told) {
    const { objective } = told.settings;
    const has = objective.budget_usd !== undefined;
    const evenly = has ? (objective.budget_usd / objective.budget_period_seconds) * figures.step_seconds : null;
    return card(has ? "Budget" : "Dollars", has ? [facts([
      ["budget", `${exact(objective.budget_usd)} per ${duration(objective.budget_period_seconds).replace(/^1 /, "")}`],
      ["spent", `${dollars(told.budget_spent_usd ?? 0)} in this period, running attempts at what is expected of them`],
      ["price of a dollar", `λ = ${told.budget_price.toFixed(3)}: a dollar counts as ${dollars(1 + told.budget_price)} in decisions`],
    ]), meter(told.budget_spent_usd ?? 0, objective.budget_usd)] : null,
    money(figures, evenly),
    has ? lines("lambda", "Price of the budget over time", figures, { format: (v) => v.toFixed(2), title: "λ, mean of decisions", from0: true, height: 150, lines: [
      { text: "λ", stroke: "var(--arm-6)", of: (step) => step.budget_price }] }) : null);
  }

  return { root, load, show };
}

function meter(spent, budget) {
  const share = Math.min(1, spent / budget);
  return h("div", { class: "meter", role: "meter", "aria-label": "Of the budget spent", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": Math.round(100 * share) },
    h("div", { style: { width: `${100 * share}%` } }));
}
