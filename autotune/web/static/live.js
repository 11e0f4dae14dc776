"use strict";
// Reads the page again while something runs, and puts the new facts and tables in the place of the old.
(() => {
  const SECONDS = 4;
  const replace = (fresh, id) => {
    const old = document.getElementById(id);
    const made = fresh.getElementById(id);
    // Whoever reads or types there is not disturbed.
    if (!old || !made || old.contains(document.activeElement)) return false;
    old.replaceWith(document.adoptNode(made));
    return true;
  };
  const look = async () => {
    if (document.hidden) return;
    let text;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok) return;
      text = await answer.text();
    } catch { return; }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    replace(fresh, "live");
    replace(fresh, "tables");
    document.dispatchEvent(new Event("reload"));
    document.getElementById("status").textContent = "Updated.";
    if (!fresh.querySelector("[data-live]")) clearInterval(timer);
  };
  const timer = setInterval(look, SECONDS * 1000);
})();
