// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const count = (n) => whole.format(Number(n));

export function percent(share, digits = 1) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`;
}

/** A difference of shares, with its sign. */
export function points(share, digits = 1) {
  if (share === null || share === undefined) return "–";
  const said = (100 * Math.abs(share)).toFixed(digits);
  return `${share < 0 && Number(said) !== 0 ? "−" : "+"}${said}`;
}

/** Dollars that were measured or estimated, with as many digits as tell something. */
export function dollars(amount) {
  if (amount === null || amount === undefined) return "–";
  const size = Math.abs(amount);
  const digits = size >= 1000 ? 0 : size >= 10 ? 2 : size >= 0.01 || size === 0 ? 3 : 5;
  const said = size.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${amount < 0 ? "−" : ""}$${said}`;
}

/** Dollars that somebody set. */
export const exact = (amount) => `$${Number(amount).toLocaleString("en-US", { maximumFractionDigits: 10 })}`;

export const moment = (us) => new Date(us / 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function ago(us, nowUs = Date.now() * 1000) {
  const seconds = Math.max(0, (nowUs - us) / 1e6);
  if (seconds < 2) return "now";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return "now";
}

export function duration(seconds) {
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (seconds >= 2 * length || seconds === length) {
      const n = Math.round(seconds / length);
      return `${n} ${unit}${n > 1 ? "s" : ""}`;
    }
  }
  return `${Number(seconds).toPrecision(3).replace(/\.?0+$/, "")} seconds`;
}

/** An interval: `of` writes a number. */
export function between(interval, of) {
  return `${of(interval.low)} to ${of(interval.high)}`;
}
