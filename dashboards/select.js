const linked = document.querySelectorAll("[data-trial]");
const choosers = document.querySelectorAll("[data-select]");
const chosen = document.querySelector(".chosen");

for (const plot of plots) plot.on("plotly_click", ({points}) => select(points[0].customdata));
for (const button of choosers) button.addEventListener("click", () => select(button.dataset.select));

function select(trial) {
  if (!trial) return;
  if (trial === chosen.dataset.trial) trial = "";
  chosen.dataset.trial = trial;
  chosen.replaceChildren(trial && `${trial} is marked: `);
  const places = {"its row": `tr[data-trial="${trial}"]`, "its samples": `section[data-trial="${trial}"]`};
  for (const [name, where] of Object.entries(places)) {
    const place = trial && document.querySelector(where);
    if (!place) continue;
    const link = Object.assign(document.createElement("button"), {type: "button", textContent: name});
    link.addEventListener("click", () => place.scrollIntoView({block: "center"}));
    chosen.append(link);
  }
  for (const part of linked) part.classList.toggle("selected", part.dataset.trial === trial);
  for (const button of choosers) button.setAttribute("aria-pressed", button.dataset.select === trial);
  for (const plot of plots) mark(plot, trial);
}

// A point of one panel has a ring in all of them.
for (const plot of plots) {
  plot.on("plotly_hover", ({points}) => point(plot, points[0]));
  plot.on("plotly_unhover", () => point(plot, {}));
}

function point(plot, {customdata: trial, pointNumber, data}) {
  for (const ring of plot.querySelectorAll(".pointed")) ring.remove();
  if (!trial || !plot.layout.meta?.panels) return;
  for (const trace of plot.data) {
    if (trace.legendgroup !== data.legendgroup || trace.customdata?.[pointNumber] !== trial) continue;
    const ring = Object.assign(document.createElement("i"), {className: "pointed"});
    ring.style.left = `${pixels(plot, trace.xaxis, trace.x[pointNumber])}px`;
    ring.style.top = `${pixels(plot, trace.yaxis, trace.y[pointNumber])}px`;
    plot.append(ring);
  }
}

function pixels(plot, name, value) {
  const axis = plot._fullLayout[name.replace(/^./, "$&axis")];
  return axis._offset + axis.d2p(value);
}

function mark(plot, trial) {
  const found = plot.data.map(({customdata}) => {
    if (!trial || !customdata) return null;
    return customdata.flatMap((name, place) => name === trial ? [place] : []);
  });
  Plotly.restyle(plot, {selectedpoints: found});
}
