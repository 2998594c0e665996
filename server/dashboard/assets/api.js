// Questions to the server, and changes.

let token = "";

export class Trouble extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const told = await response.json().catch(() => ({ message: `the server answered ${response.status}` }));
  if (!response.ok) throw new Trouble(response.status, told.message ?? `the server answered ${response.status}`);
  return told;
}

async function sent(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Trouble(0, "the server cannot be reached");
  }
}

export async function ask(path, query = {}) {
  const text = new URLSearchParams(query).toString();
  return answer(await sent(`/api/${path}${text ? `?${text}` : ""}`, { signal: AbortSignal.timeout(25_000) }));
}

export async function state() {
  const told = await ask("state");
  token = told.csrf;
  return told;
}

export async function change(path, body) {
  const headers = { "Content-Type": "application/json", "X-Pointsman-CSRF": token };
  return answer(await sent(`/api/${path}`, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** One change of a router, which the server does once however often it is sent. */
export function act(name, router, request) {
  return change(`act/${name}`, { router, request_id: fresh(), ...request });
}

function fresh() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
