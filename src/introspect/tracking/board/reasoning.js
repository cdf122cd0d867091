// Reasoning: base and tuned student of each run.
const PHASE_KEYS = SHORT_PHASES.map(name => `phase_${name}_rate`);

function interval(run, key, format) {
  const bounds = run.bounds[key];
  return `${format(metric(run, key))}${bounds ? ` [${format(bounds[0])}, ${format(bounds[1])}]` : ""}`;
}

function drawReasoning() {
  const runs = state.runs.filter(isReasoning), axis = stripAxis(runs);
  const none = "No run shown here has answered questions; train.py experiment=mbt_r and evaluate.py do.";
  draw("plane", pairs(runs, "completion_tokens", "accuracy", (run, side) =>
    `accuracy ${interval(run, `${side}/accuracy`, percent)} %<br>${interval(run, `${side}/completion_tokens`, tokens)} tokens, ${shown(metric(run, `${side}/n`))} rollouts`),
  { xaxis: { title: { text: "completion tokens, mean" } }, yaxis: { title: { text: "accuracy" }, tickformat: ".0%" } }, none);
  draw("aes", strip(runs, [{ key: "model/aes", open: false, shift: 0 }], (run, key) => `AES ${interval(run, key, shown)}`),
    { xaxis: axis, yaxis: { title: { text: "AES" } } }, "No run shown here is compared with its base.");
  draw("degeneration", strip(runs, [{ key: "baseline/degeneration_rate", open: true, shift: -0.2 }, { key: "model/degeneration_rate", open: false, shift: 0.2 }],
    (run, key) => `${key.startsWith("model") ? "tuned" : "base"}: ${interval(run, key, percent)} % degenerate`),
  { xaxis: axis, yaxis: { tickformat: ".0%", rangemode: "tozero" } }, none);
  draw("rrp", pairs(runs.filter(run => known(metric(run, "model/rrp_rho"))), "rrp_rho", "rrp_delta", (run, side) =>
    `arrival ρ ${interval(run, `${side}/rrp_rho`, shown)}<br>redundancy δ ${interval(run, `${side}/rrp_delta`, shown)}<br>judge: ${escaped(run.judge)}`),
  { xaxis: { title: { text: "arrival ρ: fraction of the trace until the answer is derived" }, range: [0, 1.02] }, yaxis: { title: { text: "redundancy δ" }, range: [-0.02, 1] } },
  "No run shown here was judged; python evaluate.py rollouts=RUN judge=oracle (or another judge) judges saved rollouts.");
  drawPhases(runs);
  reasoningTable(runs);
}

// Rates of the five phases of one side, by the judge or by wording.
function phaseRates(run, side, source) {
  if (source === "judged") return PHASE_KEYS.map(key => metric(run, `${side}/${key}`));
  return run.sides[side] ? run.sides[side].presence : PHASES.map(() => null);
}

function drawPhases(runs) {
  const sources = [];
  if (runs.some(run => phaseRates(run, "model", "judged").some(known))) sources.push(["judged", "judge"]);
  if (runs.some(run => run.sides.model)) sources.push(["wording", "wording"]);
  options($("phase-source"), sources);
  $("phase-source").closest("label").hidden = !sources.length;
  const source = $("phase-source").value, traces = [];
  for (const [name, members] of sources.length ? grouped(runs) : []) {
    for (const [side, label] of [["baseline", "base"], ["model", "tuned"]]) {
      const rates = members.map(run => phaseRates(run, side, source)).filter(each => each.some(known));
      if (!rates.length) continue;
      const values = PHASES.map((_, phase) => mean(rates.map(each => each[phase])));
      traces.push({ type: "bar", name: escaped(`${name}: ${label}`), x: SHORT_PHASES, y: values, hovertemplate: `${escaped(name)}, ${label}<br>%{x}: %{y:.1%} of rollouts, mean of ${rates.length} runs<extra></extra>`,
        marker: side === "model" ? { color: color(name) } : { color: "rgba(0,0,0,0)", line: { color: color(name), width: 1.6 } } });
    }
  }
  draw("phases", traces, { barmode: "group", yaxis: { tickformat: ".0%", range: [0, 1.02], title: { text: "fraction of rollouts" } } }, "No run shown here has rollouts.");
}

function reasoningTable(runs) {
  const column = key => members => members.map(run => metric(run, key));
  const columns = [
    ["accuracy %, base", column("baseline/accuracy"), percent], ["accuracy %", column("model/accuracy"), percent],
    ["tokens, base", column("baseline/completion_tokens"), tokens], ["tokens", column("model/completion_tokens"), tokens],
    ["degenerate %, base", column("baseline/degeneration_rate"), percent], ["degenerate %", column("model/degeneration_rate"), percent],
    ["AES", column("model/aes"), value => shown(value, 2)], ["RRP", column("model/rrp_r"), shown], ["MQI", column("model/mqi"), value => shown(value, 2)],
  ];
  simpleTable($("reasoning-table"), ["mean ± sd over runs", "runs", ...columns.map(([head]) => head)],
    grouped(runs).map(([name, members]) => [name, String(members.length), ...columns.map(([, values, format]) => spread(values(members), format))]));
  $("reasoning-table").closest(".scroll").hidden = !runs.length;
}
