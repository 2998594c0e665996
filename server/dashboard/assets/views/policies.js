// Who decides, who is tried, and what their sessions say of it.

import { act } from "../api.js";
import { evidence } from "../charts/evidence.js";
import { confirm } from "../dialog.js";
import { card, empty, facts, h, name, refill } from "../dom.js";
import { between, count, dollars, moment, percent, points } from "../format.js";

const MODES = [
  ["MODE_APPRENTICE", "apprentice", "The baseline arm takes every session, and the policy learns from it. A failure ends the session."],
  ["MODE_LIVE", "live", "The policy decides and learns."],
  ["MODE_FROZEN", "frozen", "The policy decides with what it has learned so far. What is reported meanwhile is logged, and learned once it is live again."],
];
const STAGES = { CREATED: ["created", "quiet-pill", "decides nothing yet"], SHADOW: ["in shadow", "warn", "is asked beside every decision, without effect"],
  CANARY: ["canary", "warn", "decides for a share of new sessions"], LIVE: ["live", "good", "decides"],
  SUPERSEDED: ["superseded", "quiet-pill", "was live until another was promoted"], ROLLED_BACK: ["rolled back", "bad", "was taken out"] };
const ORDER = ["LIVE", "CANARY", "SHADOW", "CREATED", "SUPERSEDED", "ROLLED_BACK"];

export function policies({ router, may, ask, again }) {
  const root = h("div", { class: "view" }, h("p", { class: "quiet" }, "Loading…"));

  let shadows = null;
  let comparing = false;

  async function load() {
    const told = await ask("router", { router });
    if (told.policies.some((policy) => stage(policy) === "SHADOW")) compare();
    return { ...told, shadows };
  }

  /** Looks through many events, which nothing else has to wait for. */
  async function compare() {
    if (comparing) return;
    comparing = true;
    try {
      ({ shadows } = await ask("shadows", { router }));
    } finally {
      comparing = false;
    }
  }

  function show({ router: told, policies: found, shadows: compared }) {
    const sorted = [...found].sort((a, b) => ORDER.indexOf(stage(a)) - ORDER.indexOf(stage(b)));
    const running = found.find((policy) => stage(policy) === "CANARY");
    refill(root,
      h("div", { class: "bar" }, h("h1", {}, "Policies"), may ? h("button", { class: "button", "data-key": "create", onclick: create }, "New policy…") : null),
      mode(told, running),
      h("div", { class: "list" }, sorted.map((policy) => one(policy, found, running, compared))));
  }

  function mode(told, running) {
    const [, word, says] = MODES.find(([key]) => key === told.mode) ?? ["", "unknown", ""];
    return card("Mode", h("p", {}, h("span", { class: "pill good" }, word), " ", says),
      may ? h("div", { class: "buttons" }, MODES.filter(([key]) => key !== told.mode).map(([key, other, does]) =>
        h("button", { class: "button", "data-key": `mode-${other}`, onclick: () => made(confirm({
          title: `Set the mode to ${other}?`, yes: `Set ${other}`, danger: key === "MODE_APPRENTICE",
          says: [does, ...(running && key === "MODE_APPRENTICE" ? ["A canary runs: the server refuses this until it has ended."] : []), "It holds from the next decision on."],
          run: () => act("mode", router, { mode: key }),
        })) }, `Set ${other}…`))) : null);
  }

  function one(policy, found, running, compared) {
    const at = stage(policy);
    const [word, kind, says] = STAGES[at] ?? [at.toLowerCase(), "quiet-pill", ""];
    return h("section", { class: "card" },
      h("h2", {}, name(policy.policy), " ", h("small", {}, "version ", name(policy.policy_version)), " ", h("span", { class: `pill ${kind}` }, word)),
      h("p", { class: "quiet" }, says, at === "CANARY" ? `: ${percent(policy.canary_share)}` : "", ". Created ", moment(Date.parse(policy.created_at) * 1000), "."),
      policy.verdict ? h("p", {}, h("strong", {}, at === "CANARY" ? "The guard: " : "Why: "), name(policy.verdict)) : null,
      at === "CANARY" ? trial(policy) : null,
      at === "SHADOW" ? beside(compared, policy.policy_version) : null,
      policy.definition ? h("details", { "data-key": `file-${policy.policy_version}` }, h("summary", {}, "Policy file"), h("pre", { tabindex: "0" }, policy.definition)) : null,
      may ? h("div", { class: "buttons" }, buttons(policy, at, found, running)) : null);
  }

  function trial(policy) {
    const told = policy.evidence;
    if (!told) return empty("The guard has not looked yet.");
    const last = policy.course.at(-1);
    return [
      facts([
        ["gate", h("code", {}, policy.gate)],
        ["promotion", policy.hold ? "left to an operator" : "by the guard, when the gate is shown to hold"],
        ["sessions that count", `${count(told.canary_sessions)} of its own, ${count(told.live_sessions)} of the live policy`],
        ["without an outcome", `${count(told.canary_missing)} of its own, ${count(told.live_missing)} of the live policy`],
        ["waiting", `${count(told.waiting_sessions)} have begun and do not count yet`],
        ["effective sample", `${count(told.effective_sample_size)} sessions; the guard promotes on no fewer than 500`],
        ...told.differences.map((each) => [each.metric, `${each.metric === "success" ? `${points(each.estimate)} points` : dollars(each.estimate)} against the live policy (${between(each, each.metric === "success" ? points : dollars)})`]),
      ]),
      last ? last.differences.map((each) => evidence(each.condition, each.metric, each.offset, policy.course))
        : empty("The evidence is drawn from 100 sessions a side on."),
    ];
  }

  function beside(compared, version) {
    if (compared === null) return empty("Recent decisions are being compared.");
    const shadow = compared.find((each) => each.policy_version === version);
    if (!shadow) return empty("No recent decision that it was asked beside.");
    return facts([
      ["asked", `beside ${count(shadow.decisions)} recent decisions${shadow.errors ? `; no answer to ${count(shadow.errors)}` : ""}`],
      ["agreement", shadow.agreement === null ? "no answer yet" : `${percent(shadow.agreement)}: how likely it would have done the same`],
      ["success, its first arms", shadow.success ? `${points(shadow.success.estimate)} points (${between(shadow.success, points)})` : ""],
      ["cost, its first arms", shadow.cost_usd ? `${dollars(shadow.cost_usd.estimate)} a session (${between(shadow.cost_usd, dollars)})` : ""],
      ["seen by", `${count(shadow.sessions)} sessions that have ended, which tell as much as ${count(shadow.effective)}`],
    ]);
  }

  function buttons(policy, at, found, running) {
    const version = policy.policy_version;
    const live = found.find((each) => stage(each) === "LIVE");
    const button = (label, key, open) => h("button", { class: "button", "data-key": `${key}-${version}`, onclick: () => made(open()) }, label);
    const title = `${policy.policy}, version ${version}`;
    const shadow = () => confirm({ title: `Put ${title} in shadow?`, yes: "Start shadow",
      says: ["It is asked beside every decision from now on; what it would have done is logged and has no effect. It learns from the same log, from the beginning, and adds the time of a decision to each Select."],
      run: () => act("shadow", router, { policy_version: version }) });
    const canary = () => confirm({ title: `Start ${title} as a canary?`, yes: "Start canary",
      says: [`It decides for a random share of new sessions, each from its first attempt to its last; ${live ? `${live.policy}, version ${live.policy_version},` : "the live policy"} decides for the others. The guard promotes it or rolls it back by itself, when what became of the sessions shows that.`],
      fields: [{ name: "share", label: "Share of new sessions, in percent", type: "number", min: 0.1, max: 99.9, step: "any", required: true, value: 10 },
        { name: "gate", label: "Gate", maxlength: 200, placeholder: "success >= baseline - 0.02", hint: "Empty: its success is at most 2 points below the live policy's. For instance: success >= baseline - 0.01 and cost <= 0.8 * baseline" },
        { name: "hold", label: "Leave the promotion to me", type: "checkbox" }],
      run: ({ share, gate, hold }) => act("canary", router, { policy_version: version, share: Number(share) / 100, gate, hold }) });
    const promote = () => confirm({ title: `Promote ${title}?`, yes: "Promote", danger: true,
      says: [`It decides every session from now on${live ? `, in place of ${live.policy}, version ${live.policy_version}, which is kept to roll back to` : ""}. The guard is not asked.`],
      run: () => act("promote", router, { policy_version: version }) });
    const back = () => confirm({ title: `Roll ${title} back?`, yes: "Roll back", danger: true,
      says: [at === "LIVE" ? "The policy that was live before it decides again, with the objective and the numbers that it decided by last." : at === "CANARY" ? "The canary ends. Sessions that it has begun go on under the live policy." : "It is not asked beside decisions any more."],
      fields: [{ name: "why", label: "Why (others will read it)", maxlength: 200 }],
      run: ({ why }) => act("roll-back", router, { policy_version: version, why }) });
    return {
      LIVE: found.length > 1 && !running ? [button("Roll back…", "back", back)] : [],
      CANARY: [button("Promote…", "promote", promote), button("Roll back…", "back", back)],
      SHADOW: [running ? null : button("Start canary…", "canary", canary), running ? null : button("Promote…", "promote", promote), button("End shadow…", "back", back)],
    }[at] ?? [button("Put in shadow…", "shadow", shadow), running ? null : button("Start canary…", "canary", canary), running ? null : button("Promote…", "promote", promote)];
  }

  const create = () => made(confirm({
    title: "A new policy", yes: "Create",
    says: ["It decides nothing yet: put it in shadow or start it as a canary next. Give a name, or a policy file (TOML: data, never code)."],
    fields: [{ name: "policy", label: "Name", maxlength: 200, placeholder: "thompson, linucb, vw:squarecb, always:ARM, ladder:A>B>C, …" },
      { name: "definition", label: "Policy file", type: "area", maxlength: 60_000, placeholder: 'policy = "thompson"\nalpha = 0.5\n[objective]\npreset = "best"' }],
    run: ({ policy, definition }) => act("create", router, { policy, definition }),
  }));

  async function made(done) {
    if (await done) again();
  }

  return { root, load, show };
}

const stage = (policy) => policy.stage.replace("POLICY_STAGE_", "");
