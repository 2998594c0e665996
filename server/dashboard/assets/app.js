// The frame of the page: which view is shown of which router, kept up to date while somebody looks.

import { ask, change, state, Trouble } from "./api.js";
import { card, h, refill } from "./dom.js";
import { answers } from "./views/answers.js";
import { arms } from "./views/arms.js";
import { decision } from "./views/decision.js";
import { decisions } from "./views/decisions.js";
import { log } from "./views/log.js";
import { overview } from "./views/overview.js";
import { policies } from "./views/policies.js";
import { sessions } from "./views/sessions.js";

const VIEWS = { overview, decisions, sessions, arms, policies, log, answers, decision };
const TABS = [["overview", "Overview"], ["decisions", "Decisions"], ["sessions", "Open sessions"], ["arms", "Arms"],
  ["policies", "Policies"], ["log", "Log"], ["answers", "Answers"]];
const LOOK_MS = 2000;
const STATE_MS = 4000;
const RANGES = new Set(["minutes", "hour", "day", "month", "all"]);

const main = document.getElementById("main");
const top = document.getElementById("top");
const nav = document.getElementById("nav");
const notice = document.getElementById("notice");

let now = null;
let showing = 0;
let looking = null;

/** Where the page is: #/view?router=…&range=…&id=… */
function where() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const given = new URLSearchParams(query);
  const view = path in VIEWS ? path : "overview";
  const routers = now?.routers ?? [];
  const wanted = given.get("router") ?? sessionStorage.getItem("router");
  const router = routers.find((each) => each.id === wanted) ?? routers.find((each) => each.id === "default") ?? routers[0];
  return { view, router, range: RANGES.has(given.get("range")) ? given.get("range") : null, given };
}

export function link(view, query = {}) {
  const { router } = where();
  return `#/${view}?${new URLSearchParams({ router: router?.id ?? "", ...query })}`;
}

async function show() {
  const mine = ++showing;
  clearTimeout(looking);
  const place = where();
  frame(place);
  if (now.caller === null) {
    refill(main, signIn());
    return;
  }
  if (!place.router) {
    refill(main, card("No routers", h("p", { class: "quiet" }, "There is no router that you may look at.")));
    return;
  }
  sessionStorage.setItem("router", place.router.id);
  const context = { router: place.router.id, may: place.router.act, given: place.given, range: place.range, link, ask,
    again: () => look(), go: (to) => { location.hash = to; } };
  const view = VIEWS[place.view](context);
  main.replaceChildren(view.root ?? h("p", { class: "quiet" }, "Loading…"));
  let shown = "";

  async function look() {
    clearTimeout(looking);
    try {
      const data = await view.load();
      if (mine !== showing) return;
      const text = JSON.stringify(data);
      if (text !== shown) {
        view.show(data, main);
        shown = text;
      }
      say("");
    } catch (error) {
      if (mine !== showing) return;
      if (error instanceof Trouble && error.status === 401) return refresh(true);
      if (error instanceof Trouble) {
        say(error.message);
        if (!shown && error.status === 404) main.replaceChildren(card("Not there", h("p", { class: "quiet" }, error.message)));
      } else throw error;
    }
    if (mine === showing && !document.hidden) looking = setTimeout(look, view.once ? 15_000 : LOOK_MS);
  }
  await look();
}

async function refresh(again = false) {
  try {
    const before = now;
    now = await state();
    if (again || before === null || JSON.stringify(before.caller) !== JSON.stringify(now.caller) || ids(before) !== ids(now)) await show();
    else frame(where());
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    say(error.message);
  }
}

const ids = (told) => JSON.stringify(told.routers);

function say(words) {
  if (notice.textContent !== words) notice.textContent = words;
}

function frame({ view, router }) {
  document.title = `${TABS.find(([key]) => key === view)?.[1] ?? "Decision"} · Pointsman`;
  const tab = view === "decision" ? "decisions" : view;
  refill(nav, now.caller && router ? h("ul", {}, TABS.map(([key, label]) =>
    h("li", {}, h("a", { href: link(key), "aria-current": key === tab ? "page" : null, "data-key": `tab-${key}` }, label)))) : []);
  refill(top, now.caller ? [
    now.routers.length > 1 && h("label", { class: "pick" }, h("span", { class: "unseen" }, "Router"),
      h("select", { "data-key": "router", onchange: (event) => { location.hash = `#/${view === "decision" ? "decisions" : view}?${new URLSearchParams({ router: event.target.value })}`; } },
        now.routers.map((each) => h("option", { value: each.id, selected: each.id === router?.id }, each.id)))),
    health(), theme(),
    now.caller.signed_in && h("button", { class: "button small", "data-key": "out", onclick: leave, title: now.caller.name }, "Sign out"),
  ] : theme());
}

function health() {
  const [kind, words] = now.trouble ? ["bad", "Log takes no writes"] : now.serving ? ["good", "Serving"] : ["bad", "Not serving"];
  return h("a", { class: `pill ${kind}`, href: link("log"), title: now.trouble || null, "data-key": "health" }, words);
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return h("button", { class: "button small icon", "data-key": "theme", "aria-label": dark ? "Light colours" : "Dark colours", title: dark ? "Light colours" : "Dark colours",
    onclick: () => {
      root.dataset.theme = dark ? "light" : "dark";
      localStorage.setItem("theme", root.dataset.theme);
      frame(where());
    } }, dark ? "☀" : "☾");
}

function signIn() {
  const field = h("input", { type: "password", name: "token", required: true, autocomplete: "off", spellcheck: "false", "aria-label": "Token" });
  const trouble = h("p", { class: "trouble", role: "alert" });
  return h("section", { class: "card narrow" }, h("h1", {}, "Sign in"),
    h("p", { class: "quiet" }, "Paste a token with the scope ", h("code", {}, "read"), " to look, and ", h("code", {}, "admin"),
      " to change things. The token itself is not kept: this browser gets a cookie that ends after twelve hours, or with the server."),
    h("form", { class: "inline", onsubmit: async (event) => {
      event.preventDefault();
      try {
        await change("sign-in", { token: field.value });
        await refresh(true);
      } catch (error) {
        trouble.textContent = error.message;
        field.select();
      }
    } }, field, h("button", { class: "button main" }, "Sign in")), trouble);
}

async function leave() {
  await change("sign-out", {});
  await refresh(true);
}

addEventListener("hashchange", () => {
  show();
  scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) show();
});
setInterval(() => {
  if (!document.hidden) refresh();
}, STATE_MS);

await refresh(true);
