const state = await (await fetch("/api/state")).json();
for (const router of state.routers) {
  const item = document.createElement("li");
  item.textContent = `${router.id}: ${router.mode}`;
  document.getElementById("routers").append(item);
}
