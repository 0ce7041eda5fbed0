"use strict";
window.dash_clientside = Object.assign({}, window.dash_clientside, {live: {
  theme(clicks, dark) {
    let wanted = dark ?? matchMedia("(prefers-color-scheme: dark)").matches;
    if (clicks && clicks !== window.themeClicks) wanted = !wanted;
    window.themeClicks = clicks;
    document.documentElement.dataset.theme = wanted ? "dark" : "light";
    return [wanted, wanted ? "Light" : "Dark"];
  },
  scroll() {
    document.getElementById("trial-head").scrollIntoView();
    return "";
  },
}});

document.addEventListener("click", (event) => {
  const key = event.target.dataset?.save;
  if (!key) return;
  const plot = document.getElementById(key).querySelector(".js-plotly-plot");
  Plotly.downloadImage(plot, {format: "png", scale: 2, filename: key});
});

let since = null;
setInterval(async () => {
  const lost = document.getElementById("lost");
  if (!lost) return;
  const there = await fetch("/alive").then((found) => found.ok, () => false);
  since = there ? null : since ?? new Date();
  lost.textContent = there ? "" : `This page stands still: pareto-amb watch has ended or is out of reach since ${since.toLocaleTimeString()}.`;
}, 5000);
