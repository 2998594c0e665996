// The arms: what each can do, costs and comes to, and what of it is down.

import { act } from "../api.js";
import { level } from "../charts/frontier.js";
import { assign, colour } from "../colours.js";
import { confirm } from "../dialog.js";
import { empty, facts, h, name, refill } from "../dom.js";
import { between, count, dollars, duration, exact, percent } from "../format.js";

export function arms({ router, may, ask, again }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));

  async function load() {
    const [{ arms: found }, figures] = await Promise.all([ask("router", { router }), ask("overview", { router, range: "all" })]);
    return { found, figures: figures.arms };
  }

  function show({ found, figures }) {
    assign(router, figures);
    const of = new Map(figures.map((each) => [each.arm, each]));
    const here = found.filter((each) => !each.retired);
    const retired = found.filter((each) => each.retired);
    refill(root, h("div", { class: "bar" }, h("h1", {}, "Arms"), h("p", { class: "quiet" }, `${count(here.length)} in use, ${count(here.filter((each) => each.down_until).length)} down, ${count(retired.length)} retired`)),
      here.length ? h("div", { class: "grid arms" }, here.map((each) => one(each, of.get(each.id)))) : empty("This router has no arms yet."),
      retired.length ? h("details", { "data-key": "retired" }, h("summary", {}, `${retired.length} retired`), h("div", { class: "grid arms" }, retired.map((each) => one(each, of.get(each.id))))) : null);
  }

  function one(arm, figures) {
    const down = arm.down_until ? new Date(arm.down_until) : null;
    const out = arm.endpoints_down.length;
    const success = figures ? level(figures.success) : null;
    const cost = figures ? level(figures.cost_usd) : null;
    const { success: told, cost_usd: priced } = figures?.forecasts ?? {};
    const said = (found, of) => (found === null ? "" : found.shown ? `${of(found.estimate)} (${between(found, of)})` : `${of(found.estimate)}, as foretold`);
    return h("section", { class: "card arm-card", style: { "--swatch": colour(router, arm.id) } },
      h("h2", {}, name(arm.id)),
      h("p", {}, arm.retired ? h("span", { class: "pill quiet-pill" }, "retired") : down ? h("span", { class: "pill bad" }, `down until ${down.toLocaleString()}`)
        : out ? h("span", { class: "pill warn" }, `${out} of ${arm.endpoints.length} endpoints down`) : h("span", { class: "pill good" }, "up"),
      arm.provider ? h("span", { class: "quiet" }, " ", name(arm.provider)) : null),
      arm.down_why ? h("p", { class: "quiet" }, name(arm.down_why)) : null,
      facts([
        ["prices", arm.prices ? `${exact(arm.prices.input_usd_per_million)} in, ${exact(arm.prices.output_usd_per_million)} out, ${exact(arm.prices.cached_usd_per_million ?? arm.prices.input_usd_per_million)} cached, per million tokens` : "not known"],
        ["can", arm.capabilities.length ? name(arm.capabilities.join(", ")) : ""],
        ["context", arm.context_window_tokens ? `${count(arm.context_window_tokens)} tokens` : ""],
        ["begun on it", figures ? `${count(figures.begun)} sessions; ${count(figures.attempts)} attempts` : "nothing yet"],
        ["resolves alone", said(success, percent)],
        ["a session", said(cost, dollars)],
        ["foretold", told ? `${percent(told.foretold)} of ${count(told.attempts)} attempts succeed; ${percent(told.real)} did` : ""],
        ["dollars", priced ? `${dollars(priced.foretold)} foretold an attempt; ${dollars(priced.real)} came` : ""],
        ["seconds", figures?.seconds ? `${figures.seconds.toFixed(1)} an attempt` : ""],
        ...arm.endpoints.map((endpoint) => {
          const gone = arm.endpoints_down.find((each) => each.endpoint === endpoint);
          return ["endpoint", h("span", {}, name(endpoint), gone ? `: down until ${new Date(gone.until).toLocaleString()}, ` : ": up", gone ? name(gone.why) : null)];
        }),
      ]),
      may && !arm.retired ? h("div", { class: "buttons" },
        down ? h("button", { class: "button", "data-key": `up-${arm.id}`, onclick: () => up(arm) }, "Bring up…")
          : h("button", { class: "button", "data-key": `down-${arm.id}`, onclick: () => take(arm) }, "Take down…"),
        h("button", { class: "button", "data-key": `price-${arm.id}`, onclick: () => price(arm) }, "Change price…")) : null);
  }

  async function made(done) {
    if (await done) again();
  }

  const up = (arm) => made(confirm({
    title: `Bring ${arm.id} up?`, yes: "Bring up",
    says: ["From the next decision on sessions may go to it again."],
    run: () => act("availability", router, { arm: arm.id, down_seconds: 0 }),
  }));

  const take = (arm) => made(confirm({
    title: `Take ${arm.id} down?`, yes: "Take down", danger: true,
    says: ["From the next decision on no session goes to it. Sessions that are on it move to another arm at their next Select; what they have cost so far stays counted, and nothing is held against the arm.",
      "It comes up again by itself when the time is over."],
    fields: [{ name: "seconds", label: "For how long", options: [60, 600, 3600, 14_400, 86_400, 604_800].map((n) => ({ value: String(n), label: duration(n) })), value: "3600" },
      { name: "why", label: "Why (others will read it)", maxlength: 200 }],
    run: ({ seconds, why }) => act("availability", router, { arm: arm.id, down_seconds: Number(seconds), why }),
  }));

  const price = (arm) => made(confirm({
    title: `Change the price of ${arm.id}?`, yes: "Change price",
    says: ["Prices are dollars per million tokens. The next decision reckons with the new ones; nothing is relearned, since tokens are learned apart from prices. Decisions that were made stand as they were."],
    fields: [
      { name: "input", label: "Input", type: "number", min: 0, step: "any", required: true, value: arm.prices?.input_usd_per_million ?? "" },
      { name: "output", label: "Output", type: "number", min: 0, step: "any", required: true, value: arm.prices?.output_usd_per_million ?? "" },
      { name: "cached", label: "Cached input", type: "number", min: 0, step: "any", value: arm.prices?.cached_usd_per_million ?? "", hint: "Empty: as other input." }],
    run: ({ input, output, cached }) => act("prices", router, { arm: { id: arm.id, prices: {
      input_usd_per_million: Number(input), output_usd_per_million: Number(output), ...(cached === "" ? {} : { cached_usd_per_million: Number(cached) }) } } }),
  }));

  return { root, load, show };
}
