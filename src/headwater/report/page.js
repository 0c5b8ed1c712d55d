// Shows the label of the mark under the pointer. Everything else on this page works without it.
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest?.('[role="graphics-symbol"][aria-label]');
  tip.style.display = mark ? "block" : "none";
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${event.clientY > innerHeight - 60 ? event.clientY - tip.offsetHeight - 12 : event.clientY + 16}px`;
});
