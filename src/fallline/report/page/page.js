"use strict";
(() => {
  const figures = [...document.querySelectorAll("div.figure")];
  const narrow = window.matchMedia("(max-width: 40rem)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const axis = () => ({
    gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, automargin: true,
    fixedrange: narrow.matches,
  });

  function themed(layout) {
    const styled = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
    styled.font = { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 };
    styled.hoverlabel = { bgcolor: colour("--card"), font: { color: colour("--ink") } };
    for (const key of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      styled[key] = { ...axis(), ...layout[key] };
    }
    if (narrow.matches && layout.annotations) {
      styled.annotations = [];
      styled.margin = { ...layout.margin, r: 8 };
    }
    return styled;
  }

  function draw(div) {
    const { data, layout } = div.source;
    Plotly.react(div, data, themed(layout), { displayModeBar: false, responsive: true });
  }

  function showUnit(div, unit) {
    if (div.unit === unit) return;
    div.unit = unit;
    for (const trace of div.source.data) {
      if (trace.customdata) [trace.x, trace.customdata] = [trace.customdata, trace.x];
    }
    Object.assign(div.source.layout.xaxis, div.source.layout.meta[unit]);
    draw(div);
  }

  for (const div of figures) {
    div.source = JSON.parse(document.getElementById(div.dataset.source).textContent);
    div.unit = "epochs";
    draw(div);
  }
  for (const button of document.querySelectorAll(".toggle button")) {
    button.addEventListener("click", () => {
      const group = button.parentElement;
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      showUnit(document.getElementById(group.dataset.figure), button.dataset.unit);
    });
  }
  const redraw = () => figures.forEach(draw);
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);
})();
