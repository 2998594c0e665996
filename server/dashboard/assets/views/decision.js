// Why this model? One decision, or each of a session: in words, and what was believed of each arm.

import { assign } from "../colours.js";
import { card, empty, facts, h, name, named, refill } from "../dom.js";
import { dollars, percent } from "../format.js";
import { arm } from "./decisions.js";

export function decision({ router, given, ask, link }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));
  const id = given.get("id");
  const session = given.get("session");

  let coloured = false;

  async function load() {
    if (!coloured) {
      assign(router, (await ask("overview", { router, range: "all" })).arms);
      coloured = true;
    }
    if (id) {
      const found = await ask("decision", { router, id });
      return { found: [found], course: await ask("session", { router, id: found.session_id }) };
    }
    const course = await ask("session", { router, id: session ?? "" });
    return { found: await Promise.all(course.attempts.map((attempt) => ask("decision", { router, id: attempt.decision_id }))), course };
  }

  function show({ found, course }) {
    refill(root,
      h("p", { class: "crumbs" }, h("a", { href: link("decisions") }, "Decisions"), " / ", named(course.session_id, 40)),
      id ? null : h("h1", {}, "Session ", name(course.session_id)),
      id ? found.map((each) => story(each, true)) : null,
      journey(course, id),
      id ? null : found.map((each) => story(each, false)));
  }

  function journey(course, current) {
    return card("The session's course",
      h("p", { class: "quiet" }, course.explanation.title),
      course.erased ? h("p", {}, "Its features have been erased on request.") : null,
      h("ol", { class: "course" }, course.attempts.map((attempt, i) => h("li", { class: attempt.decision_id === current ? "current" : null },
        h("a", { href: link("decision", { id: attempt.decision_id }), "aria-current": attempt.decision_id === current ? "true" : null }, arm(router, attempt.arm, 40)),
        h("p", {}, course.explanation.sentences[i])))),
      course.explanation.sentences.slice(course.attempts.length).map((sentence) => h("p", {}, sentence)));
  }

  function story(found, alone) {
    const [why, ...others] = found.explanation;
    return h("article", { class: "card" },
      h(alone ? "h1" : "h2", {}, why.title),
      h("p", {}, found.confirmed
        ? h("span", { class: "pill good", title: "The decision was computed again from the log, and came out equal to the bit." }, "✓ confirmed from the log")
        : h("span", { class: "pill warn" }, `not confirmed: ${found.unconfirmed_reason}`)),
      why.sentences.map((sentence) => h("p", { class: "lead" }, sentence)),
      h("h3", {}, "What was believed of each arm"), scores(found),
      h("div", { class: "columns" }, others.map((section) => h("section", {}, h("h3", {}, section.title),
        section.sentences.map((sentence) => h("p", {}, sentence)), facts(section.facts.map((fact) => [fact.name, fact.value]))))),
      h("details", { "data-key": `event-${found.decision_id}` }, h("summary", {}, "The logged event"), h("pre", { class: "json", tabindex: "0" }, pretty(found.event_json))));
  }

  function scores(found) {
    const eligible = found.scores.filter((score) => score.eligible || score.propensity > 0).sort((a, b) => b.propensity - a.propensity);
    const barred = found.scores.filter((score) => !score.eligible && !(score.propensity > 0));
    const most = Math.max(...eligible.map((score) => score.cost_usd ?? 0), 1e-9);
    const worth = eligible.some((score) => score.worth_usd !== undefined);
    if (!eligible.length) return empty("No arm was eligible.");
    return [
      h("div", { class: "scores", role: "table", "aria-label": "What was believed of each arm" },
        h("div", { class: "score head", role: "row" }, ["arm", "chance", "success, 90 %", "cost", ...(worth ? ["worth"] : [])].map((label) => h("span", { role: "columnheader" }, label))),
        eligible.map((score) => h("div", { class: score.arm === found.arm ? "score taken" : "score", role: "row" },
          h("span", { role: "rowheader" }, arm(router, score.arm, 26), score.arm === found.arm ? h("small", { class: "pill good" }, "taken") : null),
          h("span", { role: "cell", class: "gauge", "data-label": "chance" }, gauge(score.propensity), h("span", {}, percent(score.propensity))),
          h("span", { role: "cell", class: "gauge", "data-label": "success" }, range(score), h("span", {}, score.success_mean === undefined ? "–" : percent(score.success_mean, 0))),
          h("span", { role: "cell", class: "gauge", "data-label": "cost" }, gauge((score.cost_usd ?? 0) / most, "cost"), h("span", {}, score.cost_usd === undefined ? "–" : dollars(score.cost_usd))),
          worth ? h("span", { role: "cell", class: "number", "data-label": "worth" }, score.worth_usd === undefined ? "–" : dollars(score.worth_usd)) : null))),
      barred.length ? h("details", { open: barred.length < 4, "data-key": `barred-${found.decision_id}` }, h("summary", {}, `${barred.length} not eligible`),
        facts(barred.map((score) => [named(score.arm, 40), score.ineligible_reason]))) : null,
    ];
  }

  return { root, load, show, once: true };
}

function gauge(share, kind = "") {
  return h("span", { class: `track ${kind}`, "aria-hidden": "true" }, h("span", { class: "fill", style: { width: `${100 * share}%` } }));
}

function range(score) {
  if (score.success_low === undefined) return gauge(score.success_mean ?? 0, "thin");
  return h("span", { class: "track", "aria-hidden": "true", title: `${percent(score.success_low, 0)} to ${percent(score.success_high, 0)}` },
    h("span", { class: "spread", style: { left: `${100 * score.success_low}%`, width: `${100 * (score.success_high - score.success_low)}%` } }),
    h("span", { class: "mean", style: { left: `${100 * score.success_mean}%` } }));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
