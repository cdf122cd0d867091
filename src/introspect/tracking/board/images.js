// Distillation and dissection: classifiers, and the concepts that their units detect.
const CATEGORIES = ["object", "part", "material", "texture", "color", "scene"];
const ROTATION = "rotation";

function drawDistillation() {
  const runs = state.runs.filter(isImages), axis = stripAxis(runs);
  draw("accuracy", strip(runs, [{ key: "test/accuracy", open: false, shift: 0 }], (run, key) => `accuracy ${percent(metric(run, key))} %`),
    { xaxis: axis, yaxis: { tickformat: ".0%" } }, "No run shown here has tested a classifier; train.py experiment=kd does.");
  const both = runs.filter(run => known(metric(run, "dissect/detectors/total")));
  draw("trade", grouped(both).map(([name, members]) => ({
    type: "scatter", mode: "markers", name: escaped(name), x: members.map(run => metric(run, "test/accuracy")), y: members.map(run => metric(run, "dissect/detectors/total")),
    text: members.map(run => `${hover(run)}<br>accuracy ${percent(metric(run, "test/accuracy"))} %, ${shown(metric(run, "dissect/detectors/total"))} detectors`),
    hovertemplate: "%{text}<extra></extra>", marker: { color: color(name), symbol: symbol(name), size: 11 },
  })), { xaxis: { title: { text: "accuracy" }, tickformat: ".0%" }, yaxis: { title: { text: "concept detectors" }, rangemode: "tozero" } }, "No run shown here has both.");
  const column = key => members => members.map(run => metric(run, key));
  const columns = [["accuracy %", column("test/accuracy"), percent], ["detectors", column("dissect/detectors/total"), value => shown(value, 1)],
    ["unique concepts", column("dissect/detectors/unique"), value => shown(value, 1)], ["detectors, rotated units", column("dissect/control/rotation/detectors/total"), value => shown(value, 1)],
    ["detectors, permuted labels", column("dissect/control/labels/detectors/total"), value => shown(value, 1)]];
  simpleTable($("distillation-table"), ["mean ± sd over runs", "runs", ...columns.map(([head]) => head)],
    grouped(runs).map(([name, members]) => [name, String(members.length), ...columns.map(([, values, format]) => spread(values(members), format))]));
  $("distillation-table").closest(".scroll").hidden = !runs.length;
}

// Runs with the chosen layer and concept set: only those are comparable.
function dissected() {
  const all = state.runs.flatMap(run => run.layers.map(layer => ({ run, layer })));
  const label = ({ layer }) => `${layer.name}, ${layer.data}`;
  const counts = new Map();
  for (const each of all) counts.set(label(each), (counts.get(label(each)) || 0) + 1);
  options($("layer"), [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => [name, `${name} (${count})`]));
  $("layer").closest("label").hidden = !all.length;
  return { all, chosen: all.filter(each => label(each) === $("layer").value) };
}

function byMethod(chosen) {
  const names = grouped(chosen.map(each => each.run)).map(([name]) => name);
  return names.map(name => [name, chosen.filter(each => nameOf(each.run) === name).map(each => each.layer)]);
}

const bar = (fill, index) => ({ color: fill, pattern: { shape: PATTERNS[index % 8], size: 7, solidity: 0.22, bgcolor: fill, fgcolor: style("--card") } });

function drawDissection() {
  const { all, chosen } = dissected(), methods = byMethod(chosen);
  const none = "No run shown here has a dissection; dissect.py and train.py experiment=kd write one.";
  const named = [...new Set(chosen.flatMap(({ layer }) => Object.keys(layer.found.by_category)))];
  const categories = [...CATEGORIES.filter(name => named.includes(name)), ...named.filter(name => !CATEGORIES.includes(name))];
  const colors = COLORS[theme()], count = (layers, category) => mean(layers.map(layer => layer.found.by_category[category] ?? 0));
  const labels = methods.map(([name, layers]) => escaped(`${cut(name, 22)} (${layers.length})`));
  const rotated = layers => mean(layers.map(layer => layer.controls[ROTATION] ? layer.controls[ROTATION].total : null));
  if ($("bars-by").value === "method") {
    const traces = categories.map((category, index) => ({ type: "bar", name: escaped(category), x: labels, y: methods.map(([, layers]) => count(layers, category)),
      marker: bar(colors[index % 8], index), hovertemplate: "%{x}<br>%{fullData.name}: %{y:.1f}<extra></extra>" }));
    if (methods.some(([, layers]) => known(rotated(layers)))) traces.push({ type: "scatter", mode: "markers", name: "all, rotated units", x: labels, y: methods.map(([, layers]) => rotated(layers)),
      marker: { symbol: "line-ew", size: 34, line: { width: 3, color: style("--ink") } }, hovertemplate: "%{x}<br>rotated units: %{y:.1f}<extra></extra>" });
    draw("detectors", methods.length ? traces : [], { barmode: "stack", yaxis: { title: { text: "detectors, mean over runs" } } }, none);
  } else {
    draw("detectors", methods.map(([name, layers], index) => ({ type: "bar", name: labels[index], x: categories.map(escaped), y: categories.map(category => count(layers, category)),
      marker: bar(color(name), place(name)), hovertemplate: "%{fullData.name}<br>%{x}: %{y:.1f}<extra></extra>" })),
    { barmode: "group", yaxis: { title: { text: "detectors, mean over runs" } } }, none);
  }
  drawIou(methods, none);
  dissectionTable.update(all);
}

// Fraction of the units with at least each IoU, mean over the layers of a method.
function survival(layers) {
  const fractions = layers.map(units => {
    const total = units.reduce((sum, value) => sum + value, 0) || 1;
    let left = total;
    return units.map(value => { const fraction = left / total; left -= value; return fraction; });
  });
  return fractions[0].map((_, bin) => mean(fractions.map(each => each[bin])));
}

function drawIou(methods, none) {
  const traces = [], bins = 100;
  let last = 0.1;
  for (const [name, layers] of methods) {
    const rotated = layers.filter(layer => layer.controls[ROTATION]).map(layer => layer.controls[ROTATION].units);
    for (const [units, label, line] of [[layers.map(layer => layer.found.units), name, dash(name)], [rotated, `${name}, rotated`, "dot"]]) {
      if (!units.length) continue;
      const y = survival(units);
      last = Math.max(last, (y.findLastIndex(value => value > 0.001) + 2) / bins);
      traces.push({ type: "scatter", mode: "lines", name: escaped(label), x: y.map((_, bin) => bin / bins), y, legendgroup: escaped(name), showlegend: line !== "dot" || label === name,
        line: { color: color(name), width: line === "dot" && label !== name ? 1.2 : 2, dash: line }, hovertemplate: `${escaped(label)}<br>%{y:.1%} of units from IoU %{x:.2f}<extra></extra>` });
    }
  }
  const thresholds = [...new Set(methods.flatMap(([, layers]) => layers.map(layer => layer.threshold)))];
  draw("iou", traces, { xaxis: { title: { text: "IoU" }, range: [0, last] }, yaxis: { title: { text: "fraction of units" }, tickformat: ".0%", rangemode: "tozero" },
    shapes: thresholds.map(x => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: style("--soft"), width: 1.2, dash: "dash" } })),
    annotations: thresholds.map(x => ({ x, y: 1, yref: "paper", yanchor: "top", xanchor: "left", text: ` detector from ${x}`, showarrow: false, font: { color: style("--soft"), size: 12 } })) }, none);
}

let dissectionTable;
function prepareDissection() {
  const number = value => element("td", { class: "number" }, shown(value, 1));
  const control = (each, name) => each.layer.controls[name] ? each.layer.controls[name].total : null;
  dissectionTable = sortableTable($("dissections"), [
    { head: "run", value: each => each.run.name, cell: each => element("td", { class: "name" }, each.run.name) },
    { head: "experiment", value: each => nameOf(each.run), cell: each => element("td", {}, nameOf(each.run)) },
    { head: "layer", value: each => each.layer.name, cell: each => element("td", {}, each.layer.name) },
    { head: "units", kind: "number", value: each => each.layer.units, cell: each => number(each.layer.units) },
    { head: "detectors", kind: "number", value: each => each.layer.found.total, cell: each => number(each.layer.found.total) },
    { head: "unique", kind: "number", value: each => each.layer.found.unique, cell: each => number(each.layer.found.unique) },
    { head: "rotated", kind: "number", title: "detectors among randomly rotated units: a control", value: each => control(each, ROTATION), cell: each => number(control(each, ROTATION)) },
    { head: "concepts", cell: each => element("td", {}, Object.entries(each.layer.concepts).map(([name, count]) => count > 1 ? `${name} ×${count}` : name).join(", ")) },
    { head: "report", cell: each => element("td", {}, each.layer.report ? element("a", { href: each.layer.report }, "images") : "–") },
  ], [], 0);
  for (const id of ["layer", "bars-by"]) $(id).addEventListener("change", drawDissection);
}
