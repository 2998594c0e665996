// Sessions that are under way.

import { assign } from "../colours.js";
import { card, empty, h, named, refill, table } from "../dom.js";
import { ago, count, dollars, moment, percent } from "../format.js";
import { arm } from "./decisions.js";

const ADVICE = { continue: "go on", escalate: "leave", stop: "stop" };

export function sessions({ router, ask, link }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));

  async function load() {
    const [{ sessions: open }, figures] = await Promise.all([ask("sessions", { router }), ask("overview", { router, range: "all" })]);
    return { open, arms: figures.arms, total: figures.totals.open };
  }

  function show({ open, arms, total }) {
    assign(router, arms);
    const columns = [{ label: "session" }, { label: "began" }, { label: "attempts" }, { label: "success foretold", number: true }, { label: "cost expected", number: true }, { label: "spent before", number: true }, { label: "last advice" }];
    refill(root, h("div", { class: "bar" }, h("h1", {}, "Open sessions")),
      card(null, h("p", { class: "quiet" }, total > open.length ? `${count(total)} are open; those that something has happened to last:` : `${count(total)} are open. A session stays open until a final reward, until no further attempt is worth its price, or until its reward wait has passed.`),
        open.length ? h("div", { class: "stack" }, table("Open sessions, the latest first", columns, open.map((each) => ({ cells: [
          h("a", { href: link("decision", { session: each.session_id }), "data-key": `session-${each.session_id}` }, named(each.session_id, 24)),
          h("span", { title: moment(each.began_us) }, ago(each.began_us)),
          h("span", { class: "path" }, each.attempts.map((id, i) => [i ? " → " : null, arm(router, id, 18)])),
          each.success_mean === null ? "–" : percent(each.success_mean, 0),
          each.cost_usd === null ? "–" : dollars(each.cost_usd),
          dollars(each.spent_usd),
          each.reports ? `${ADVICE[each.advised] ?? each.advised}, after ${each.reports} report${each.reports > 1 ? "s" : ""}` : "–",
        ] })))) : empty("No session is open.")));
  }

  return { root, load, show };
}
