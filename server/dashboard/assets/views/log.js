// The log that everything rests on: how far it goes, what has been learned of it, whether it is whole. And the settings.

import { card, facts, h, name, refill, visible } from "../dom.js";
import { count, duration, exact, moment, percent } from "../format.js";

export function log({ router, ask }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));

  async function load() {
    const [told, figures, state] = await Promise.all([ask("router", { router }), ask("overview", { router, range: "minutes" }), ask("state")]);
    return { told: told.router, read: figures.read, state: { serving: state.serving, trouble: state.trouble, whole: state.whole, version: state.version } };
  }

  function show({ told, read, state }) {
    const last = Number(told.last_sequence);
    const lag = last - Number(told.learned_sequence);
    const unread = last - read;
    refill(root, h("div", { class: "bar" }, h("h1", {}, "Log")),
      h("div", { class: "pair" },
        h("div", { class: "list" }, card("Health", facts([
          ["service", state.serving ? h("span", { class: "pill good" }, "serving") : h("span", { class: "pill bad" }, "not serving")],
          ["store", state.trouble ? h("span", { class: "pill bad" }, state.trouble) : h("span", { class: "pill good" }, "takes writes")],
          ["events", `${count(last)} in the log of the whole service`],
          ["learned", `up to event ${count(told.learned_sequence)}; ${lag > 0 ? `${count(lag)} behind` : "level with the log"}${told.mode === "MODE_FROZEN" ? ", frozen" : ""}`],
          ["epoch", Number(told.epoch) ? h("span", {}, `${count(told.epoch)}, hash `, h("code", {}, told.epoch_hash)) : "0: nothing learned yet"],
          ["verified", state.whole === null ? "every event is being held against the hash chain" : state.whole ? h("span", { class: "pill good" }, "whole, from the first event on") : h("span", { class: "pill bad" }, "damaged")],
          ["this page", unread > 0 ? `has read ${percent(read / last, 0)} of the log; ${count(unread)} events to go` : "level with the log"],
          ["version", state.version],
        ]),
        h("p", { class: "quiet" }, "The same prefix of the log gives the same epoch and hash, before and after a restart. ", h("code", {}, "pointsman check"), " verifies a whole data directory.")),
          card("Rules", rules(told.settings.rules.rules))),
        card("What this router is out for", settings(told))));
  }

  function settings({ settings: of, created_at: created, policy, policy_version: version }) {
    const { objective, learning, failover } = of;
    return facts([
      ["policy", h("span", {}, name(policy), ", version ", name(version))],
      ["a success", `is worth ${exact(objective.value_usd)}`],
      ["a second", objective.latency_usd_per_second ? `costs ${exact(objective.latency_usd_per_second)}` : "costs nothing"],
      ["quality floor", objective.quality_floor === undefined ? "none" : `${percent(objective.quality_floor)}${objective.quality_floor_relative ? " of the best arm's" : ""}`],
      ["budget", objective.budget_usd === undefined ? "none" : `${exact(objective.budget_usd)} per ${duration(objective.budget_period_seconds).replace(/^1 /, "")}`],
      ["a session", objective.session_cap_usd === undefined ? "has no cap" : `at most ${exact(objective.session_cap_usd)}`],
      ["attempts", `at most ${of.max_attempts} a session`],
      ["baseline arm", of.baseline_arm ? name(of.baseline_arm) : "none"],
      ["exploration", `${percent(learning.exploration_floor)} of each decision is even over the eligible arms; ${count(learning.draws)} draws, α ${learning.alpha}`],
      ["rewards", `are waited for ${duration(learning.reward_wait_seconds)}; a missing one ${learning.missing_success === undefined ? "says nothing" : `counts as ${percent(learning.missing_success)}`}`],
      ["texts", of.store_text ? "are kept as sent" : "are kept in hashed form only"],
      ["failover", `${failover.errors} failures in ${duration(failover.window_seconds)}, and ${percent(failover.error_share, 0)} of what ended there, take an endpoint out for ${duration(failover.cool_down_seconds)}`],
      ["created", moment(Date.parse(created) * 1000)],
    ]);
  }

  function rules(found) {
    if (!found.length) return h("p", { class: "quiet" }, "None: every organisation, project and user may use every arm. An explicit pick by the user wins over rules anyhow.");
    return h("ul", { class: "rules" }, found.map((rule) => h("li", {},
      h("strong", {}, ["organisation", "project", "user"].filter((key) => rule[key]).map((key) => `${key} ${visible(rule[key])}`).join(", ") || "everybody"),
      rule.allow.length ? h("span", {}, ": only ", name(rule.allow.join(", "))) : null,
      rule.deny.length ? h("span", {}, ": not ", name(rule.deny.join(", "))) : null)));
  }

  return { root, load, show };
}
