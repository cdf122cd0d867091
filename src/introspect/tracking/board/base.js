"use strict";
// All data of a run become text on the page: through `textContent`, or escaped for Plotly.
const $ = id => document.getElementById(id);
const PHASES = ["understanding and filtering", "planning", "execution and monitoring", "self-correction", "verification"];
const SHORT_PHASES = ["understanding", "planning", "monitoring", "correction", "verification"];
const UNNAMED = "no experiment";
const state = { board: null, curves: null, experiments: [], hidden: new Set(), runs: [] };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [key, setting] of Object.entries(value)) made.style.setProperty(key, setting);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// Return the text of a blob (gzip, base64). Blobs are unpacked when they are needed.
async function unpack(key) {
  const binary = atob($(`blob-${key}`).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const unpacked = new Map();
function blob(key) {
  if (!unpacked.has(key)) unpacked.set(key, unpack(key).then(JSON.parse));
  return unpacked.get(key);
}

const nameOf = run => run.experiment || run.tags[0] || UNNAMED;
const known = value => value !== null && value !== undefined;
const metric = (run, name) => known(run.metrics[name]) ? run.metrics[name] : null;
const isReasoning = run => known(metric(run, "model/accuracy")) && known(metric(run, "model/completion_tokens"));
const isImages = run => known(metric(run, "test/accuracy"));

function shown(value, digits = 3) {
  if (!known(value)) return "–";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1000 ? value.toFixed(0) : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(digits);
}
const tokens = value => known(value) ? value.toFixed(1) : "–";
const percent = value => known(value) ? (100 * value).toFixed(1) : "–";

function mean(values) {
  const found = values.filter(known);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}

function spread(values, format) {
  const found = values.filter(known), middle = mean(found);
  if (middle === null) return "–";
  if (found.length < 2) return format(middle);
  const deviation = Math.sqrt(found.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (found.length - 1));
  return `${format(middle)} ± ${format(deviation)}`;
}

function grouped(runs) {
  const groups = new Map();
  for (const run of runs) {
    if (!groups.has(nameOf(run))) groups.set(nameOf(run), []);
    groups.get(nameOf(run)).push(run);
  }
  return [...groups].sort((a, b) => state.experiments.indexOf(a[0]) - state.experiments.indexOf(b[0]));
}

function options(select, values, chosen) {
  const before = chosen !== undefined ? chosen : select.value;
  select.replaceChildren(...values.map(([value, text]) => element("option", { value }, text)));
  select.value = values.some(([value]) => value === before) ? before : values.length ? values[0][0] : "";
}

// A table whose head has buttons that sort the rows. columns: { head, value(row), cell(row), kind, first }.
function sortableTable(table, columns, rows, initial) {
  let key = initial, direction = "ascending";
  const compare = (a, b) => {
    const column = columns[key], [x, y] = [column.value(a), column.value(b)];
    if (!known(x) || !known(y)) return known(y) - known(x);
    const order = column.kind === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return direction === "ascending" ? order : -order;
  };
  function draw() {
    const cells = rows.slice().sort(compare).map(row => element("tr", {}, ...columns.map(column => column.cell(row))));
    table.tBodies[0].replaceChildren(...cells);
    headers.forEach((header, index) => index === key ? header.setAttribute("aria-sort", direction) : header.removeAttribute("aria-sort"));
  }
  const headers = columns.map((column, index) => element("th", { scope: "col", class: column.kind, title: column.title },
    column.value ? element("button", { type: "button", onclick: () => {
      const first = column.kind === "number" ? "descending" : "ascending";
      direction = key !== index ? first : direction === "ascending" ? "descending" : "ascending";
      key = index;
      draw();
    } }, column.head) : column.head));
  table.tHead.replaceChildren(element("tr", {}, ...headers));
  return { update(next) { rows = next; draw(); } };
}

// A table without sorting: heads, and a row of texts for each group.
function simpleTable(table, heads, rows) {
  table.replaceChildren(
    element("thead", {}, element("tr", {}, ...heads.map((head, index) => element("th", { scope: "col", class: index ? "number" : null }, head)))),
    element("tbody", {}, ...rows.map(row => element("tr", {}, ...row.map((cell, index) => element("td", { class: index ? "number" : null }, cell))))));
}
