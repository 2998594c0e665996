// What of the page is wider than the window, too faint to read, or without a name.
() => {
  const number = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = number(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const seen = (element) => element.getClientRects().length > 0;
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !seen(element) || element.closest(".unseen, #tip, option, noscript, :disabled")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(number(element instanceof SVGElement ? style.fill : style.color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  const named = (element) => element.getAttribute("aria-label") || element.labels?.length || element.textContent.trim();
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  return {
    wide: Math.max(0, document.documentElement.scrollWidth - innerWidth),
    faint,
    unnamed: [...document.querySelectorAll("button, a[href], select, input, textarea, svg[role=img]")]
      .filter((element) => seen(element) && !named(element)).map((element) => element.outerHTML.slice(0, 120)),
    twice: ids.filter((id, i) => ids.indexOf(id) !== i),
  };
}
