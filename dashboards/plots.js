const plots = document.querySelectorAll(".plot");
const options = {
  responsive: true, displaylogo: false, plotlyServerURL: "", displayModeBar: false,
};
for (const plot of plots) {
  const source = document.querySelector(`script[data-plot="${plot.id}"]`);
  const spec = JSON.parse(source.textContent);
  if (plot.clientWidth < 560) compact(plot, spec);
  Plotly.newPlot(plot, spec.data, spec.layout, options);
}

for (const button of document.querySelectorAll(".save")) {
  button.addEventListener("click", () => Plotly.downloadImage(button.dataset.save, {
    format: "png", scale: 2, filename: button.dataset.save,
  }));
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
    if (name.startsWith("xaxis")) thin(layout[name], width * (to - from));
  }
  if (layout.coloraxis) {
    const bar = layout.coloraxis.colorbar;
    layout.coloraxis.colorbar = {...bar, thickness: 9, tickfont: {size: 10.5}, title: {...bar.title, font: {size: 11}}};
  }
}

function thin(axis, width) {
  if (!axis || !axis.ticktext) return;
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

const resize = () => plots.forEach((plot) => Plotly.Plots.resize(plot));
window.addEventListener("beforeprint", resize);
window.addEventListener("afterprint", resize);
