"use strict";
(() => {
  const source = document.getElementById("figures");
  const figures = JSON.parse(source.textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const axisOf = {};

  // Figures name colours as var(--role): the style sheet alone knows their values.
  function painted(value, style) {
    if (typeof value === "string") {
      const role = /^var\((--[a-z-]+)\)$/.exec(value);
      return role ? style.getPropertyValue(role[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, style)]));
  }

  const axis = (own) => ({
    automargin: true,
    gridcolor: "var(--line)",
    linecolor: "var(--line)",
    zeroline: false,
    fixedrange: touch,
    tickfont: { color: "var(--muted)", size: 12 },
    ...own,
    title: { font: { color: "var(--muted)", size: 12 }, standoff: 10, ...own?.title },
  });

  function draw(figure) {
    const node = document.getElementById(figure.id);
    const style = getComputedStyle(root);
    const names = Object.keys(figure.axes);
    const chosen = axisOf[figure.chapter] ?? names[0];
    const data = names.length
      ? figure.data.map((trace) => ({ ...trace, x: trace.x[chosen] }))
      : figure.data;
    const xaxis = names.length
      ? { nticks: 6, title: { text: figure.axes[chosen] }, ...figure.layout.xaxis }
      : figure.layout.xaxis;
    const layout = {
      autosize: true,
      margin: { l: 8, r: 12, t: figure.layout.showlegend ? 30 : 8, b: 8 },
      font: { family: style.getPropertyValue("--sans"), color: "var(--ink)", size: 13 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: names.length ? "x unified" : "closest",
      hoverlabel: {
        bgcolor: "var(--surface)",
        bordercolor: "var(--line)",
        font: { color: "var(--ink)", size: 13 },
      },
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      dragmode: touch ? false : "zoom",
      ...figure.layout,
      xaxis: axis(xaxis),
      yaxis: axis(figure.layout.yaxis),
    };
    const config = { displayModeBar: false, responsive: true, showTips: false };
    return Plotly.react(node, painted(data, style), painted(layout, style), config);
  }

  const drawSome = (some) => window.Plotly && some.forEach(draw);
  const drawAll = () => drawSome(figures);

  for (const button of document.querySelectorAll(".axes button")) {
    button.addEventListener("click", () => {
      const { chapter } = button.parentElement.dataset;
      axisOf[chapter] = button.dataset.axis;
      for (const other of button.parentElement.children) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      drawSome(figures.filter((figure) => figure.chapter === chapter));
    });
  }
  dark.addEventListener("change", drawAll);
  // Paper is light and narrow, whatever the screen.
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      root.classList.toggle("paper", paper);
      drawAll();
    });
  }
  root.classList.add("live");

  // Plotly is in the page, beside it or in the folder above.
  function load([place, ...others]) {
    if (!place) return root.classList.add("bare");
    const script = document.createElement("script");
    script.src = place;
    script.onload = drawAll;
    script.onerror = () => load(others);
    document.head.append(script);
  }
  if (window.Plotly || !figures.length) drawAll();
  else load(source.dataset.plotly.split(" "));
})();
