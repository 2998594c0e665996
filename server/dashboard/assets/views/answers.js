// What people ask of a router, answered with this one's own figures.

import { card, h, refill } from "../dom.js";
import { count, dollars, duration, exact, percent } from "../format.js";

export function answers({ router, ask, link }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));

  async function load() {
    const [told, figures, recent, state] = await Promise.all([ask("router", { router }), ask("overview", { router, range: "all" }), ask("decisions", { router, most: 1 }), ask("state")]);
    return { told, totals: figures.totals, forecasts: figures.forecasts, whole: state.whole, recent: recent.decisions[0] ?? null };
  }

  function show({ told, totals, forecasts, whole, recent }) {
    const { router: it, arms } = told;
    const { objective, learning } = it.settings;
    const here = arms.filter((arm) => !arm.retired);
    const success = forecasts.success;
    const say = (question, ...words) => card(question, h("p", {}, words));
    const to = (view, text, query) => h("a", { href: link(view, query) }, text);
    refill(root, h("div", { class: "bar" }, h("h1", {}, "Questions people ask")), h("div", { class: "grid" },
      say("Why this model?", "Every decision tells it in words and numbers: ", recent ? to("decision", "the latest one", { id: recent.decision_id }) : "as soon as there is one", ". ", h("code", {}, "pointsman explain ID"), " says the same."),
      say("Is it learning at all?", success ? `Of ${count(success.attempts)} attempts ${percent(success.foretold)} were foretold to succeed and ${percent(success.real)} did; it has learned ${count(it.epoch)} times. ` : `It has learned ${count(it.epoch)} times so far. `, to("overview", "How forecasts come true", { range: "all" }), "."),
      say("Does it save, and is quality held?", to("overview", "Savings against always using one arm", { range: "all" }), ", with what is sure about them and what is not."),
      say("Do sticky sessions freeze the tier?", totals.sessions ? `No: ${percent(totals.escalated / totals.sessions, 0)} of ${count(totals.sessions)} sessions moved on from the arm they began on; the others kept it, and with it their prompt cache.` : "No: a session keeps its arm until it struggles, fails a check, or needs what the arm cannot do.", " ", to("overview", "Where sessions go", { range: "all" }), "."),
      say("What if the agent has no key for its session?", "It is derived from the request id, so that a retry finds the same session, and it is returned with the choice."),
      say("Do posteriors survive a restart?", `Yes: they are a fold over the log. Epoch ${count(it.epoch)}${it.epoch_hash ? `, hash ${it.epoch_hash.slice(0, 12)},` : ""} is the same after a restart and after kill -9. `, to("log", "The log"), "."),
      say("What is the budget, and does it hold?", objective.budget_usd === undefined ? "This router has none; a success is worth " : `${exact(objective.budget_usd)} per ${duration(objective.budget_period_seconds).replace(/^1 /, "")}, of which ${dollars(it.budget_spent_usd ?? 0)} is spent or expected; a dollar counts as ${dollars(1 + it.budget_price)}. A success is worth `,
        `${exact(objective.value_usd)} (the presets: cheap $1, balanced $5, best $25).`, objective.session_cap_usd === undefined ? "" : ` A session may cost ${exact(objective.session_cap_usd)}.`),
      say("Does latency count?", objective.latency_usd_per_second ? `A second costs ${exact(objective.latency_usd_per_second)} in every decision; each arm's seconds are learned.` : "Not in this router: latency_usd_per_second is 0. Each arm's seconds stand under ", objective.latency_usd_per_second ? "" : to("arms", "Arms"), objective.latency_usd_per_second ? "" : "."),
      say("Is an explicit pick ever overridden?", "Never, but where the arm is down, retired or incapable, which is said. A pinned choice has chance 1, is learned from, and is left out of savings."),
      say("Are the probabilities logged?", `Each decision logs the very vector it was drawn from; at least ${percent(learning.exploration_floor)} of it is even over the eligible arms, so that other policies can be judged on this log: `, h("code", {}, "pointsman replay"), "."),
      say("More than two arms?", `This router has ${count(here.length)}. `, to("arms", "Arms"), "."),
      say("Does another policy do better?", "Put it in shadow, then start it as a canary: the guard promotes it or rolls it back on bounds that hold however often one looks. ", to("policies", "Policies"), "."),
      say("Is the log whole?", whole === null ? "It is being verified since the start. " : whole ? "Yes: since this start every event was held against its hash chain. " : "No. ", to("log", "The log"), ".")));
  }

  return { root, load, show };
}
