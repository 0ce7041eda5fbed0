const plots = document.querySelectorAll(".plot");
const options = {
  responsive: true, displaylogo: false, plotlyServerURL: "", displayModeBar: false,
};
for (const plot of plots) {
  const source = document.querySelector(`script[data-plot="${plot.id}"]`);
  const spec = JSON.parse(source.textContent);
  if (spec.layout.meta?.panels && plot.clientWidth < 760) stack(plot, spec);
  if (plot.clientWidth < 560) compact(plot, spec);
  Plotly.newPlot(plot, spec.data, spec.layout, options);
}

for (const button of document.querySelectorAll(".save")) {
  button.addEventListener("click", () => Plotly.downloadImage(button.dataset.save, {
    format: "png", scale: 2, filename: button.dataset.save,
  }));
}

// Panels that stand beside each other on a wide page.
function stack(plot, {layout}) {
  const {panels, around, each} = layout.meta;
  const [height, gap] = [1 / panels, 0.25 / panels];
  layout.height = around + panels * each;
  plot.style.minHeight = `${layout.height}px`;
  for (let k = 0; k < panels; k++) {
    const top = 1 - k * height;
    layout[`xaxis${k ? k + 1 : ""}`].domain = [0, 1];
    layout[`yaxis${k ? k + 1 : ""}`].domain = [Math.max(top - height + (k < panels - 1 ? gap : 0), 0), top];
  }
}

function compact(plot, {data, layout}) {
  const keys = data.filter((trace) => trace.name && trace.showlegend !== false).length;
  layout.height += 17 * Math.max(keys - 2, 0);
  plot.style.minHeight = `${layout.height}px`;
  layout.font = {...layout.font, size: 11.5};
  layout.dragmode = false;
  const width = plot.clientWidth - (layout.coloraxis ? 150 : 90);
  for (const name of Object.keys(layout)) {
    const [from, to] = layout[name].domain ?? [0, 1];
    if (!name.startsWith("xaxis")) continue;
    thin(layout[name], width * (to - from));
    shrink(layout[name].title, plot.clientWidth * (to - from) - 24);
  }
  for (const trace of data) trace.name = broken(trace.name, (plot.clientWidth - 64) / 6.4);
  if (layout.coloraxis) {
    const bar = layout.coloraxis.colorbar;
    layout.coloraxis.colorbar = {...bar, thickness: 9, tickfont: {size: 10.5}, title: {...bar.title, font: {size: 11}}};
  }
}

// A title that is wider than its axis would run into that of the next one.
function shrink(title, width) {
  const longest = Math.max(0, ...plain(title?.text).split("\n").map((line) => line.length));
  if (longest) title.font = {...title.font, size: Math.min(title.font?.size ?? 12, width / (0.55 * longest))};
}

function plain(text) {
  return (text ?? "").replaceAll("<br>", "\n").replace(/<[^>]*>/g, "");
}

// Plotly cuts what is too long for a line of the legend.
function broken(name, longest) {
  if (!name || name.length <= longest || name.includes("<br>")) return name;
  const comma = name.lastIndexOf(", ", longest - 1) + 1;
  const at = comma || name.lastIndexOf(" ", longest);
  return at < 1 ? name : `${name.slice(0, at)}<br>${name.slice(at + 1)}`;
}

function thin(axis, width) {
  if (!axis?.ticktext || !axis.range) return;
  const [low, high] = axis.range;
  const onScale = (value) => axis.type === "log" ? Math.log10(value) : value;
  let last = -Infinity;
  const kept = axis.tickvals.filter((value) => {
    const at = (onScale(value) - low) / (high - low) * width;
    if (at - last < 34) return false;
    last = at;
    return true;
  });
  axis.ticktext = kept.map((value) => axis.ticktext[axis.tickvals.indexOf(value)]);
  axis.tickvals = kept;
}

// What prints is drawn at once, or not at all; a page that is too wide would be shrunk as a whole.
const PRINTED = 870;
window.addEventListener("beforeprint", () => plots.forEach((plot) => {
  Plotly.relayout(plot, {autosize: false, width: Math.min(plot.clientWidth, PRINTED)});
}));
window.addEventListener("afterprint", () => plots.forEach((plot) => {
  Plotly.relayout(plot, {autosize: true, width: null});
}));
