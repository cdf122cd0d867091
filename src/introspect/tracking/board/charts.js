// Charts: one style, two themes, and marks that differ in shape as well as in color.
const COLORS = {
  light: ["#0072b2", "#d55e00", "#008a63", "#b5508c", "#8a6d00", "#3d9bd6", "#5d3a9b", "#555b63"],
  dark: ["#56b4e9", "#ff8f4d", "#2fc49a", "#e7a3c9", "#f0d442", "#8fa9ff", "#b79ced", "#b4b9c1"],
};
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const PATTERNS = ["", "/", "x", ".", "-", "+", "|", "\\"];
const waiting = new Map();
let drawing = null;

const theme = () => document.documentElement.dataset.theme;
const styles = new Map(); // of the theme: reading them from the page each time would force a layout
function style(name) {
  if (!styles.has(name)) styles.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return styles.get(name);
}
const place = name => Math.max(0, state.experiments.indexOf(name));
const color = name => COLORS[theme()][place(name) % 8];
const symbol = name => SYMBOLS[place(name) % 8];
const dash = name => DASHES[Math.floor(place(name) / 8) % 6];
// Plotly interprets a few tags in its texts: none of them may come from a run.
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cut = (text, length = 60) => text.length > length ? `…${text.slice(1 - length)}` : text;

function layout(changes) {
  const axis = { gridcolor: style("--line"), zerolinecolor: style("--line"), linecolor: style("--line") };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--ink"), size: 13, family: "system-ui, sans-serif" },
    margin: { l: 64, r: 14, t: 14, b: 48 }, hovermode: "closest", legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, showlegend: true,
    hoverlabel: { align: "left" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--accent") },
  };
  return { ...base, ...changes, xaxis: { ...axis, ...changes.xaxis }, yaxis: { ...axis, ...changes.yaxis } };
}

// Charts are drawn one by one, those in view first, so that the page stays responsive; `data-ready` marks the end.
function draw(id, ...chart) {
  waiting.set(id, chart);
  delete document.documentElement.dataset.ready;
  drawing ??= drawWaiting();
}

async function drawWaiting() {
  const distance = id => Math.abs($(id).getBoundingClientRect().top);
  while (waiting.size) {
    await new Promise(resolve => setTimeout(resolve));
    const id = [...waiting.keys()].reduce((best, other) => distance(other) < distance(best) ? other : best);
    const chart = waiting.get(id);
    waiting.delete(id);
    paint(id, ...chart);
  }
  drawing = null;
  document.documentElement.dataset.ready = "true";
}

// Draw a chart, or show why there is nothing to draw.
function paint(id, traces, changes, nothing) {
  const place = $(id);
  if (!traces.length) {
    if (place.data) Plotly.purge(place);
    place.classList.add("empty");
    place.textContent = nothing;
    return;
  }
  if (place.classList.contains("empty")) {
    place.classList.remove("empty");
    place.textContent = "";
  }
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", place.closest("figure").querySelector("figcaption").textContent.trim());
  const buttons = ["lasso2d", "select2d", "autoScale2d", "toggleSpikelines", "zoomIn2d", "zoomOut2d"];
  Plotly.react(place, traces, layout(changes), {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: buttons, toImageButtonOptions: { format: "svg", filename: id },
  });
}

const hover = run => `<b>${escaped(nameOf(run))}</b> ${escaped(cut(run.name))}${run.seed ? `<br>seed ${escaped(run.seed)}` : ""}`;

// Lines from the mark of the base to that of the tuned student, one trace per experiment; x and y are metrics of a side.
function pairs(runs, x, y, text) {
  return grouped(runs).map(([name, members]) => {
    const trace = { name: escaped(name), x: [], y: [], text: [], mode: "lines+markers", type: "scatter", hovertemplate: "%{text}<extra></extra>", line: { color: color(name), width: 1.2, dash: dash(name) },
      marker: { color: color(name), symbol: [], size: 10, line: { width: 1.6, color: color(name) } } };
    for (const run of members) {
      for (const side of ["model", "baseline"]) {
        const at = [x, y].map(key => metric(run, `${side}/${key}`));
        if (!at.every(known)) continue;
        trace.x.push(at[0]); trace.y.push(at[1]);
        trace.marker.symbol.push(side === "model" ? symbol(name) : `${symbol(name)}-open`);
        trace.text.push(`${hover(run)}<br>${side === "model" ? "tuned" : "base"}: ${text(run, side)}`);
      }
      trace.x.push(null); trace.y.push(null); trace.text.push(""); trace.marker.symbol.push(symbol(name));
    }
    return trace;
  }).filter(trace => trace.x.some(known));
}

// A column of marks per experiment, with a bar at the mean of each.
function strip(runs, series, text) {
  const traces = [], names = grouped(runs).map(([name]) => name);
  for (const [name, members] of grouped(runs)) {
    for (const { key, open, shift } of series) {
      const found = members.filter(run => known(metric(run, key)));
      if (!found.length) continue;
      const values = found.map(run => metric(run, key)), at = names.indexOf(name) + shift;
      const bounds = found.map(run => run.bounds[key] || null), jitter = index => at + (found.length > 1 ? 0.12 * (index / (found.length - 1) - 0.5) : 0);
      traces.push({ type: "scatter", mode: "markers", showlegend: false, name: escaped(name), x: values.map((_, index) => jitter(index)), y: values, text: found.map(run => `${hover(run)}<br>${text(run, key)}`),
        cliponaxis: false, hovertemplate: "%{text}<extra></extra>", marker: { color: color(name), symbol: symbol(name) + (open ? "-open" : ""), size: 9, opacity: 0.85, line: { width: 1.6, color: color(name) } },
        error_y: bounds.every(known) && found.length <= 8 ? { type: "data", symmetric: false, array: bounds.map((b, i) => b[1] - values[i]), arrayminus: bounds.map((b, i) => values[i] - b[0]), thickness: 1, width: 2, color: color(name) } : undefined });
      if (found.length > 1) traces.push({ type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", x: [at - 0.16, at + 0.16], y: [mean(values), mean(values)], line: { color: style("--ink"), width: 2.4 } });
    }
  }
  return traces;
}

function stripAxis(runs) {
  const names = grouped(runs).map(([name]) => name);
  return { tickvals: names.map((_, index) => index), ticktext: names.map(name => escaped(cut(name, 22))), range: [-0.6, names.length - 0.4], showgrid: false, zeroline: false, automargin: names.length > 5 };
}

function smoothed(values, width) {
  if (width <= 1) return values;
  return values.map((_, index) => mean(values.slice(Math.max(0, index - width + 1), index + 1)));
}

function drawCurve(number) {
  const key = $(`metric-${number}`).value, width = Math.max(1, Number($("smooth").value) || 1), traces = [];
  let widest = 1;
  for (const [name, members] of grouped(state.runs)) {
    const trace = { name: escaped(name), type: "scatter", mode: "lines", x: [], y: [], text: [], hovertemplate: "%{text}<br>step %{x}: %{y:.4g}<extra></extra>", line: { color: color(name), width: 1.5, dash: dash(name) } };
    for (const run of members) {
      const curve = state.curves[run.index][key];
      if (!curve) continue;
      const label = hover(run);
      trace.x.push(...curve[0], null);
      trace.y.push(...smoothed(curve[1], width), null);
      trace.text.push(...curve[0].map(() => label), "");
      if (curve[0].length === 1) trace.mode = "lines+markers";
      widest = Math.max(widest, curve[2]);
    }
    if (trace.x.length) traces.push(trace);
  }
  draw(`curve-${number}`, traces, { xaxis: { title: { text: "step" } }, yaxis: { type: $("log").checked ? "log" : "linear" } }, "None of the runs shown has logged this.");
  return widest;
}

function drawCurves() {
  const widest = Math.max(drawCurve(0), drawCurve(1));
  $("averaged").textContent = widest > 1 ? `Long curves are averaged: a point is the mean of up to ${widest} logged values.` : "";
}

function prepareCurves() {
  const names = [...new Set(state.curves.flatMap(Object.keys))].sort((a, b) => a.localeCompare(b));
  const wishes = [["train/loss"], ["val/accuracy", "val/loss"]];
  wishes.forEach((wanted, number) => {
    const best = wanted.find(name => names.includes(name)) || names[Math.min(number, names.length - 1)];
    options($(`metric-${number}`), names.map(name => [name, name]), best);
    $(`metric-${number}`).addEventListener("change", drawCurves);
  });
  for (const id of ["smooth", "log"]) $(id).addEventListener("change", drawCurves);
}
