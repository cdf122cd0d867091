// The overview, the filters, and the start.
let overview;

function statusCell(run) {
  const signs = { finished: "✓ finished", unfinished: "… unfinished", broken: "✗ broken" };
  return element("td", {}, element("span", { class: `state ${run.status}` }, signs[run.status]));
}

function nameCell(run) {
  const given = run.overrides.length ? element("details", {}, element("summary", {}, `${run.overrides.length} option${run.overrides.length > 1 ? "s" : ""}`), run.overrides.join("  ")) : null;
  return element("td", { class: "name" }, element("span", {}, run.name), given, ...run.reasons.map(reason => element("span", { class: "reason" }, reason)));
}

function prepareOverview() {
  const numbers = (head, keys, format, title, base) => ({
    head, kind: "number", title, value: run => keys.map(key => metric(run, key)).find(known) ?? null,
    cell: run => {
      const key = keys.find(name => known(metric(run, name)));
      return element("td", { class: `number${key ? "" : " quiet"}`, title: key && run.bounds[key] ? `95 %: ${run.bounds[key].map(format).join(" to ")}` : null }, 
        base && known(metric(run, base)) ? element("small", {}, `${format(metric(run, base))} → `) : null, key ? format(metric(run, key)) : "–");
    },
  });
  const layers = run => run.layers.filter(layer => layer.report);
  overview = sortableTable($("overview"), [
    { head: "run", value: run => run.name, cell: nameCell },
    { head: "open", cell: run => element("td", {}, element("span", { class: "links" },
      Object.keys(run.sides).length ? element("button", { type: "button", onclick: () => chooseRun(run.index, true) }, "traces") : null,
      ...layers(run).map(layer => element("a", { href: layer.report }, layers(run).length > 1 ? `report ${layer.name}` : "report")))) },
    { head: "status", value: run => run.status, cell: statusCell },
    { head: "experiment", value: nameOf, cell: run => element("td", { style: { "white-space": "nowrap" } }, element("span", { class: "swatch", style: { "--swatch": color(nameOf(run)), display: "inline-block", "margin-right": ".4em" } }), nameOf(run)) },
    { head: "tags", value: run => run.tags.join(", ") || null, cell: run => element("td", { class: "tags" }, run.tags.join(", ")) },
    { head: "seed", kind: "number", value: run => run.seed === "" ? null : Number(run.seed), cell: run => element("td", { class: "number seed", title: run.seed }, run.seed || "–") },
    numbers("accuracy %", ["model/accuracy", "test/accuracy"], percent, "in the test; small: of the base student", "baseline/accuracy"),
    numbers("tokens", ["model/completion_tokens"], tokens, "mean completion tokens; small: of the base student", "baseline/completion_tokens"),
    numbers("AES", ["model/aes"], value => shown(value, 2), "accuracy-efficiency score against the base"),
    numbers("degenerate %", ["model/degeneration_rate"], percent, "degeneration rate: rollouts that do not end by themselves; small: of the base student", "baseline/degeneration_rate"),
    numbers("detectors", ["dissect/detectors/total"], value => shown(value, 1), "units that detect a concept"),
    numbers("unique", ["dissect/detectors/unique"], value => shown(value, 1), "concepts among them"),
  ], [], 0);
}

function chosenRuns() {
  const [tag, seed, status, wanted] = ["tag", "seed", "status", "search"].map(id => $(id).value);
  const text = wanted.trim().toLowerCase();
  return state.board.runs.filter(run => !state.hidden.has(nameOf(run)) && (!tag || run.tags.includes(tag.slice(1))) && (!seed || run.seed === seed.slice(1))
    && (!status || run.status === status) && [run.name, ...run.overrides].join("\n").toLowerCase().includes(text));
}

async function update() {
  state.runs = chosenRuns();
  const counts = status => state.runs.filter(run => run.status === status).length;
  const others = ["unfinished", "broken"].filter(counts).map(status => `${counts(status)} ${status}`);
  $("shown").textContent = `${state.runs.length} of ${state.board.runs.length} runs${others.length ? `, ${others.join(", ")}` : ""}`;
  overview.update(state.runs);
  drawReasoning();
  drawCurves();
  drawDistillation();
  drawDissection();
  await updateViewer();
}

function drawChips() {
  const count = name => state.board.runs.filter(run => nameOf(run) === name).length;
  $("experiments").replaceChildren(...state.experiments.map((name, index) => element("button", {
    type: "button", class: "chip", "aria-pressed": String(!state.hidden.has(name)), style: { "--swatch": color(name) }, onclick: event => {
      // A click shows this experiment alone, or all; with a modifier key, it is added or removed.
      const only = state.experiments.filter(other => other !== name), isAlone = only.every(other => state.hidden.has(other)) && !state.hidden.has(name);
      if (event.shiftKey || event.ctrlKey || event.metaKey) state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
      else state.hidden = new Set(isAlone ? [] : only);
      drawChips();
      $("experiments").children[index].focus();
      update();
    }, title: "click: only this one, again: all; with Shift: on or off",
  }, element("span", { class: "swatch" }), `${name} ${count(name)}`)));
}

function prepareFilters() {
  const { runs } = state.board, sorted = values => [...new Set(values)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  state.experiments = sorted(runs.map(nameOf));
  const choices = values => [["", "all"], ...sorted(values).map(value => [`=${value}`, value])];
  options($("tag"), choices(runs.flatMap(run => run.tags)));
  options($("seed"), choices(runs.map(run => run.seed).filter(Boolean)));
  options($("status"), [["", "all"], ...["finished", "unfinished", "broken"].map(name => [name, name])]);
  for (const id of ["tag", "seed", "status"]) $(id).addEventListener("change", update);
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 150); });
  $("filters").addEventListener("submit", event => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => { state.hidden = new Set(); drawChips(); update(); }));
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function setTheme() {
  document.documentElement.dataset.theme = $("theme").value || (dark.matches ? "dark" : "light");
  styles.clear();
  if (!state.board || !overview) return;
  drawChips();
  update();
}

async function start() {
  setTheme();
  const [board, curves, plotly] = await Promise.all([blob("board"), blob("curves"), unpack("plotly")]);
  document.head.append(Object.assign(document.createElement("script"), { textContent: plotly }));
  board.runs.forEach((run, index) => { run.index = index; });
  Object.assign(state, { board, curves });
  $("title").textContent = `${board.root}: ${board.runs.length} runs`;
  $("footer").textContent = `written ${board.made} by introspect.tracking.board; the page loads nothing and sends nothing`;
  prepareFilters();
  prepareOverview();
  prepareCurves();
  $("phase-source").addEventListener("change", drawReasoning);
  prepareDissection();
  prepareViewer();
  drawChips();
  $("theme").addEventListener("change", setTheme);
  dark.addEventListener("change", setTheme);
  await update();
  await drawing;
}

start().catch(error => {
  $("failure").hidden = false;
  $("failure").textContent = `The page could not be drawn: ${error.message}`;
  throw error;
});
