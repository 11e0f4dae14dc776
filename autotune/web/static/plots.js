"use strict";
// Draws each plot from the figure that its address tells, or that the page holds, in the colours of the page.
(() => {
  const figures = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = () => ({
    gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule"),
    automargin: true, title: { standoff: 8 },
  });
  const merged = (base, over) => {
    const both = { ...base };
    for (const [key, value] of Object.entries(over || {})) {
      const plain = value && typeof value === "object" && !Array.isArray(value);
      both[key] = plain ? merged(base[key] || {}, value) : value;
    }
    return both;
  };
  const layoutOf = (figure, element) => {
    const layout = merged({ ...figure.layout }, {
      title: { text: "" }, template: {}, autosize: true, width: undefined,
      height: element.closest(".tall") ? 460 : 340,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: figure.layout.margin || { l: 64, r: 16, t: 16, b: 48 },
      colorway: ["--one", "--two", "--three", "--four", "--five", "--six"].map(colour),
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
      legend: { bgcolor: "rgba(0,0,0,0)" },
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) layout[key] = merged(axis(), layout[key]);
    }
    for (const key of ["xaxis", "yaxis"]) layout[key] = layout[key] || axis();
    return layout;
  };
  // A trace may name a colour of the page: "var(--one)".
  const coloured = (value) => {
    if (typeof value === "string") return value.replace(/^var\((--\w+)\)$/, (_, name) => colour(name));
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value;
  };
  const draw = async (element) => {
    const figure = figures.get(element);
    const options = { responsive: true, displaylogo: false, displayModeBar: "hover" };
    await Plotly.react(element, coloured(figure.data), layoutOf(coloured(figure), element), options);
    if (!element.dataset.wired) {
      element.dataset.wired = "1";
      element.on("plotly_click", (event) => {
        const target = event.points[0].customdata;
        const leads = element.dataset.plot && typeof target === "string" && /^\/[^/]/.test(target);
        if (leads) location.assign(target);
      });
    }
  };
  const figureOf = async (element) => {
    const own = element.dataset.figure;
    if (own) return JSON.parse(document.getElementById(own).textContent);
    const answer = await fetch(element.dataset.plot, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  };
  const load = async (element) => {
    try {
      figures.set(element, await figureOf(element));
      await draw(element);
      element.dataset.drawn = "1";
    } catch (error) {
      element.textContent = "This plot could not be drawn.";
      element.dataset.drawn = "failed";
      console.error(error);
    }
  };
  const elements = () => document.querySelectorAll(".plot");
  document.addEventListener("themechange", () => figures.forEach((_, element) => draw(element)));
  document.addEventListener("reload", () => elements().forEach(load));
  elements().forEach(load);
})();
