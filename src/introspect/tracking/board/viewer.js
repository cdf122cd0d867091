// The trace viewer: the reasoning of the base and of the tuned student on the same question.
const viewer = { run: null, pairs: [], shown: [], at: -1, uncolored: new Set(), request: 0 };
const OUTCOMES = [["", "all questions"], ["gained", "wrong, then correct"], ["regressed", "correct, then wrong"], ["wrong", "wrong after tuning"], ["inclusive", "answer-inclusive errors"]];

function isOf(outcome, { before, after }) {
  const correct = side => side && side.outcome === "correct";
  if (outcome === "gained") return before && !correct(before) && correct(after);
  if (outcome === "regressed") return correct(before) && !correct(after);
  if (outcome === "wrong") return !correct(after);
  if (outcome === "inclusive") return [before, after].some(side => side && side.outcome === "answer-inclusive error");
  return true;
}

async function chooseRun(index, move = false) {
  const run = state.board.runs[index], request = ++viewer.request;
  const [before, after] = await Promise.all(["baseline", "model"].map(side => run.sides[side] ? blob(run.sides[side].blob) : []));
  if (request !== viewer.request) return; // another run was chosen meanwhile
  const key = row => JSON.stringify([row.id, row.sample]);
  const found = new Map(before.map(row => [key(row), { before: row, after: null }]));
  for (const row of after) found.set(key(row), { before: found.has(key(row)) ? found.get(key(row)).before : null, after: row });
  viewer.run = run;
  viewer.pairs = [...found.values()];
  $("trace-run").value = String(index);
  listQuestions();
  if (move) $("traces").scrollIntoView();
}

const outcomes = pair => [pair.before, pair.after].filter(Boolean).map(side => side.outcome).join(" → ");

function listQuestions() {
  const wanted = $("find").value.trim().toLowerCase(), outcome = $("outcome").value;
  viewer.shown = viewer.pairs.filter(pair => {
    const row = pair.after || pair.before;
    const text = [row.question, ...row.gold, pair.before && pair.before.answer, pair.after && pair.after.answer].join("\n").toLowerCase();
    return isOf(outcome, pair) && text.includes(wanted);
  });
  $("questions").replaceChildren(...viewer.shown.map((pair, at) => {
    const row = pair.after || pair.before;
    return element("li", { role: "option", id: `question-${at}`, "aria-selected": "false", onclick: () => showPair(at) }, row.question, element("small", {}, `${outcomes(pair)}${row.sample ? `, sample ${row.sample}` : ""}`));
  }));
  showPair(viewer.shown.length ? 0 : -1, false);
}

function showPair(at, reveal = true) {
  const list = $("questions"), before = list.children[viewer.at];
  if (before) before.setAttribute("aria-selected", "false");
  viewer.at = at;
  $("previous").disabled = at <= 0;
  $("next").disabled = at < 0 || at >= viewer.shown.length - 1;
  const side = viewer.run && (viewer.run.sides.model || viewer.run.sides.baseline);
  const more = side && side.total > side.shown ? ` (the first ${side.shown} of ${side.total} rollouts; --rollouts shows more)` : "";
  $("position").textContent = `${at + 1} of ${viewer.shown.length}${more}`;
  if (at < 0) {
    list.removeAttribute("aria-activedescendant");
    $("pair").replaceChildren(element("p", { class: "lead" }, "No question matches."));
    return;
  }
  const row = list.children[at];
  row.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", row.id);
  if (reveal) row.scrollIntoView({ block: "nearest" });
  drawPair(viewer.shown[at]);
}

function drawPair(pair) {
  const row = pair.after || pair.before;
  $("pair").replaceChildren(
    element("p", { class: "question" }, row.question),
    element("div", { class: "quiet" }, `gold answer: ${row.gold.join(" | ")} · ${row.hops} hops · ${row.id}`),
    element("div", { class: "sides" }, sideOf("base", pair.before), sideOf("tuned", pair.after)));
}

function sideOf(label, row) {
  if (!row) return element("article", { class: "side", "data-side": label }, element("h3", {}, label), element("p", { class: "quiet" }, "no rollout of this question"));
  const length = row.parts.reduce((sum, [, text]) => sum + text.length, 0) || 1;
  const trace = element("div", { class: "reasoning-text", tabindex: "0", role: "region", "aria-label": `reasoning of the ${label} student` }), ruler = element("div", { class: "ruler", "aria-hidden": "true" });
  let place = 0, arrival = null, previous = null, first = null;
  for (const [phase, text, isAnswer] of row.parts) {
    if (isAnswer && arrival === null) arrival = place / length;
    const continues = previous === phase, passage = element("span", { "data-phase": phase, class: [continues ? "continued" : "", viewer.uncolored.has(phase) ? "uncolored" : ""].join(" ").trim() || null, title: PHASES[phase - 1] });
    if (isAnswer) {
      if (!first) passage.append(first = element("mark", { title: "first mention of the gold answer" }, text));
      else passage.append(element("mark", { class: "more" }, text));
    } else passage.append(text);
    trace.append(passage);
    ruler.append(element("i", { "data-phase": phase, style: { width: `${100 * text.length / length}%` } }));
    place += text.length;
    previous = phase;
  }
  if (arrival !== null) ruler.append(element("b", { style: { left: `${100 * arrival}%` } }, "★"));
  const where = arrival === null ? "never mentions the gold answer" : `★ mentions the gold answer after ${Math.round(100 * arrival)} % of the trace`;
  return element("article", { class: "side", "data-side": label },
    element("h3", {}, label, element("span", { class: row.outcome === "correct" ? "outcome correct" : "outcome" }, row.outcome), element("span", {}, `${row.tokens} tokens`), element("span", {}, where)),
    judgedBy(row.judged), ruler, row.parts.length ? trace : element("p", { class: "quiet" }, "no reasoning"),
    element("p", { class: "final" }, element("strong", {}, "answer: "), row.answer || "none", element("span", { class: "quiet" }, `\n${row.content} (${row.finish})`)));
}

function judgedBy({ rrp, mqi }) {
  if (!rrp && !mqi) return null;
  const parts = [];
  if (rrp) parts.push(rrp.first_correct ? `derives the answer in paragraph ${rrp.first_correct}` : "never derives the answer", rrp.redundant.length ? `redundant: paragraphs ${rrp.redundant.join(", ")}` : "nothing redundant");
  if (mqi) parts.push(`level ${mqi.level}`, `phases ${mqi.phases.join(", ") || "none"}`);
  return element("div", { class: "quiet" }, `judge: ${parts.join("; ")}`);
}

function drawLegend() {
  $("phase-legend").replaceChildren(...PHASES.map((name, index) => {
    const phase = index + 1;
    return element("button", { type: "button", class: "chip", "data-phase": phase, "aria-pressed": String(!viewer.uncolored.has(phase)), style: { "--swatch": "var(--phase)" }, onclick: () => {
      viewer.uncolored.has(phase) ? viewer.uncolored.delete(phase) : viewer.uncolored.add(phase);
      drawLegend();
      $("phase-legend").children[index].focus();
      if (viewer.at >= 0) drawPair(viewer.shown[viewer.at]);
    } }, element("span", { class: "swatch" }), `${phase} ${name}`);
  }), element("span", { class: "quiet" }, "by wording, sentence by sentence; sentences without a rule count as execution · ★ first mention of the gold answer"));
}

const step = by => { if (viewer.at + by >= 0 && viewer.at + by < viewer.shown.length) showPair(viewer.at + by); };

function prepareViewer() {
  options($("outcome"), OUTCOMES);
  drawLegend();
  $("trace-run").addEventListener("change", () => chooseRun(Number($("trace-run").value)));
  $("outcome").addEventListener("change", listQuestions);
  $("find").addEventListener("input", listQuestions);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("questions").addEventListener("keydown", event => {
    const moves = { ArrowDown: 1, ArrowUp: -1, Home: -viewer.at, End: viewer.shown.length - 1 - viewer.at };
    if (!(event.key in moves)) return;
    event.preventDefault();
    step(moves[event.key]);
  });
  document.addEventListener("keydown", event => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
}

// Offer the shown runs that have rollouts; the open one stays open if it is among them.
async function updateViewer() {
  const runs = state.runs.filter(run => Object.keys(run.sides).length);
  options($("trace-run"), runs.map(run => [String(run.index), `${nameOf(run)}${run.seed ? `, seed ${run.seed}` : ""}: ${cut(run.name, 44)}`]));
  $("viewer").hidden = !runs.length;
  $("no-traces").hidden = Boolean(runs.length);
  $("no-traces").textContent = "No run shown here has rollouts.";
  if (runs.length && (!viewer.run || $("trace-run").value !== String(viewer.run.index))) await chooseRun(Number($("trace-run").value));
}
