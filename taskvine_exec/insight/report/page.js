"use strict";
// Draws each chart when it comes near the window, in the colours of the browser's theme.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const drawn = new Set();
  const BUTTONS = ["zoomIn2d", "zoomOut2d", "pan2d", "zoom2d", "resetScale2d", "toImage"];

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--line"),
      linecolor: colour("--line"),
      zerolinecolor: colour("--line"),
      title: { font: { size: 12 }, standoff: 8 },
    };
    const scale = dark.matches
      ? [[0, "#1d232c"], [0.5, "#1f7a8c"], [1, "#a8e6cf"]]
      : [[0, "#f4f6f8"], [0.5, "#5aa9c9"], [1, "#0b3c5d"]];
    return {
      layout: {
        font: { color: colour("--front"), family: "system-ui, sans-serif", size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: axis,
        yaxis: axis,
        hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--front") } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--accent") },
        annotationdefaults: { arrowcolor: colour("--muted") },
      },
      data: { heatmap: [{ colorscale: scale }] },
    };
  }

  function draw(place) {
    const chart = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    const layout = { ...chart.layout, template: template(), uirevision: 1 }; // a new theme keeps what is zoomed
    if (touch) layout.dragmode = false; // a finger scrolls the page; the buttons zoom
    if (innerWidth < 600 && layout.showlegend !== false) layout.height += 90; // the legend takes more lines
    place.style.height = `${layout.height}px`;
    drawn.add(place);
    return Plotly.react(place, chart.data, layout, {
      responsive: true,
      displaylogo: false,
      modeBarButtons: [layout.meta === "still" ? ["toImage"] : BUTTONS], // the default ones include an upload
    });
  }

  const places = document.querySelectorAll("[data-chart]");
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          observer.unobserve(entry.target);
          draw(entry.target);
        }
      }
    },
    { rootMargin: "400px" },
  );
  places.forEach((place) => observer.observe(place));
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => places.forEach((place) => drawn.has(place) || draw(place)));
})();
