// Runs before anything is painted, so that nobody sees the other colours first.
(() => {
  const kept = localStorage.getItem("theme");
  if (kept) document.documentElement.dataset.theme = kept;
})();
