// Which colour an arm has: those used most have their own, and keep it while the page is open.

const SLOTS = 8;
const slots = new Map();

/** Gives colours to arms that have none, the most used first. */
export function assign(router, arms) {
  const taken = slots.get(router) ?? new Map();
  slots.set(router, taken);
  for (const arm of [...arms].sort((a, b) => b.attempts - a.attempts)) {
    if (!taken.has(arm.arm)) taken.set(arm.arm, taken.size);
  }
}

export function colour(router, arm) {
  const slot = slots.get(router)?.get(arm) ?? SLOTS;
  return slot < SLOTS ? `var(--arm-${slot})` : "var(--rest)";
}

export const hasOwn = (router, arm) => (slots.get(router)?.get(arm) ?? SLOTS) < SLOTS;

export const place = (router, arm) => slots.get(router)?.get(arm) ?? 1e9;
