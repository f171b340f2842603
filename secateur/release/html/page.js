"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const print = window.matchMedia("print");
  const themes = { light: read("theme-light"), dark: read("theme-dark") };
  const charts = Array.from(document.querySelectorAll("[data-picture]"));
  const draw = async () => {
    const name = dark.matches && !print.matches ? "dark" : "light";
    const options = {
      actions: false, ast: true, renderer: "svg", config: themes[name], tooltip: { theme: name },
    };
    for (const chart of charts) {
      const spec = { ...read(`spec-${chart.dataset.picture}`), width: "container" };
      await vegaEmbed(chart, spec, options);
    }
    document.documentElement.dataset.drawn = name;
  };
  dark.addEventListener("change", draw);
  print.addEventListener("change", draw);
  draw();
})();
