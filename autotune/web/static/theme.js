"use strict";
// Before anything is painted: what the reader chose, else what the system prefers.
(() => {
  const root = document.documentElement;
  const names = ["system", "light", "dark"];
  const read = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  let chosen = names.includes(read()) ? read() : "system";
  const apply = () => {
    if (chosen === "system") delete root.dataset.theme; else root.dataset.theme = chosen;
    document.dispatchEvent(new Event("themechange"));
  };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = `Theme: ${chosen}`; };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      chosen = names[(names.indexOf(chosen) + 1) % names.length];
      try { localStorage.setItem("theme", chosen); } catch { /* for this page alone */ }
      apply();
      label();
    });
  });
})();
