// The comparison: a table that sorts, filters, and shows the columns a reader wants.

const AT_FIRST = 250; // rows; more are shown on request
const FILTERS = ["model", "dataset", "method", "intent"];

const comparison = {
  ...dataOf("comparison"),
  sort: null, // { column, descending }
  everyRow: false,
  listeners: [],
};
comparison.runs.forEach((run) => hue(run.method));
comparison.chosen = new Set(comparison.columns.filter((c) => c.shown).map((c) => c.id));
comparison.shown = comparison.runs;

function startComparison() {
  const search = el("input", { type: "search", id: "search", on: { input: filterRuns } });
  const fields = [el("label", {}, "Search", search)];
  for (const name of FILTERS) {
    const values = distinct(comparison.runs.map((run) => run[name]));
    const options = [["", "all"], ...values.map((value) => [value, value])];
    fields.push(choice(name, options, filterRuns, { id: `filter-${name}` }).field);
  }
  const reset = el("button", { type: "button", textContent: "Reset", on: { click: resetFilters } });
  byId("filters").append(...fields, reset);
  byId("columns").append(...["metric", "about", "identity"].map(columnChoices).filter(Boolean));
  byId("all-rows").addEventListener("click", () => {
    comparison.everyRow = true;
    drawRows();
  });
  phone.addEventListener("change", () => {
    drawHead();
    drawRows();
  });
  drawHead();
  filterRuns();
}

function columnChoices(kind) {
  const own = comparison.columns.filter((column, n) =>
    kind === "identity" ? ["text", "number"].includes(column.kind) && n > 0 : column.kind === kind,
  );
  if (!own.length) return null;
  const titles = { metric: "Metrics", about: "About the run", identity: "What tells runs apart" };
  const boxes = own.map((column) => {
    const box = el("input", { type: "checkbox", checked: comparison.chosen.has(column.id) });
    box.addEventListener("change", () => {
      if (box.checked) comparison.chosen.add(column.id);
      else comparison.chosen.delete(column.id);
      drawHead();
      drawRows();
    });
    return el("label", {}, box, ` ${column.id}`);
  });
  return el("fieldset", {}, el("legend", { textContent: titles[kind] }), ...boxes);
}

const phone = window.matchMedia("(max-width: 800px)");

function visibleColumns() {
  const visible = comparison.columns
    .map((column, index) => ({ ...column, index }))
    .filter((column) => comparison.chosen.has(column.id));
  if (!phone.matches) return visible;
  // Where two columns fit they are what a row is, told in its name, and what it scored.
  const [name, ...others] = visible;
  const after = (column) => (column.kind === "metric" ? 0 : 1);
  return [name, ...others.sort((a, b) => after(a) - after(b))];
}

// What tells a row apart beside its name, where the columns that say so are out of sight.
function toldApart(run, columns) {
  const telling = columns.filter((c, n) => n > 0 && ["text", "number"].includes(c.kind));
  const texts = telling.map((column) => run.cells[column.index]).filter((text) => text !== "-");
  return texts.length ? el("small", { textContent: texts.join(", ") }) : null;
}

function drawHead() {
  const heads = visibleColumns().map((column) => {
    const sorted = comparison.sort?.column === column.index;
    const way = sorted ? (comparison.sort.descending ? "descending" : "ascending") : "none";
    const arrow = { descending: "▼", ascending: "▲", none: "" }[way];
    const button = el(
      "button",
      { type: "button", title: column.about ?? "", on: { click: () => sortBy(column) } },
      column.id,
      " ",
      el("span", { className: "arrow", textContent: arrow, "aria-hidden": "true" }),
    );
    button.dataset.column = column.id;
    return el("th", { scope: "col", "aria-sort": way }, button);
  });
  byId("comparison-table").tHead.replaceChildren(el("tr", {}, ...heads));
}

function sortBy(column) {
  const again = comparison.sort?.column === column.index;
  // The best values are what one looks for first; names begin with A.
  const descending = again ? !comparison.sort.descending : column.kind === "metric";
  comparison.sort = { column: column.index, kind: column.kind, descending };
  drawHead();
  [...document.querySelectorAll("#comparison-table thead button")]
    .find((button) => button.dataset.column === column.id)
    .focus();
  drawRows();
}

// What a cell sorts by: null where nothing was measured.
function sortValue(run) {
  const { column, kind } = comparison.sort;
  const cell = run.cells[column];
  if (kind === "metric") return cell === null ? null : cell[0];
  if (cell === "-") return null;
  return kind === "number" ? Number(cell) : cell;
}

function sorted(runs) {
  if (!comparison.sort) return runs;
  const sign = comparison.sort.descending ? -1 : 1;
  const keyed = runs.map((run) => [sortValue(run), run]);
  keyed.sort(([a], [b]) => {
    // Missing is last, whichever way.
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number") return sign * (a - b);
    return sign * a.localeCompare(b, "en", { numeric: true });
  });
  return keyed.map(([, run]) => run);
}

function filterRuns() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FILTERS.map((name) => [name, byId(`filter-${name}`).value]);
  comparison.shown = comparison.runs.filter((run) => {
    if (wanted.some(([name, value]) => value !== "" && run[name] !== value)) return false;
    const texts = run.cells.filter((cell) => typeof cell === "string");
    const text = [run.label, run.run_id, ...texts].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  drawRows();
  comparison.listeners.forEach((listen) => listen());
}

function resetFilters() {
  byId("search").value = "";
  FILTERS.forEach((name) => (byId(`filter-${name}`).value = ""));
  filterRuns();
}

function drawRows() {
  const columns = visibleColumns();
  const runs = sorted(comparison.shown);
  const rows = comparison.everyRow ? runs : runs.slice(0, AT_FIRST);
  const body = byId("comparison-table").tBodies[0];
  body.replaceChildren(
    ...rows.map((run) => el("tr", {}, ...columns.map((c, n) => cellOf(run, c, n, columns)))),
  );
  const hidden = runs.length - rows.length;
  byId("all-rows").hidden = hidden === 0;
  byId("all-rows").textContent = `Show ${hidden} more`;
  byId("comparison-count").textContent = `${runs.length} of ${comparison.runs.length} runs`;
}

function cellOf(run, column, place, columns) {
  const cell = run.cells[column.index];
  if (place === 0) {
    return el("th", { scope: "row" }, cell, phone.matches ? toldApart(run, columns) : null);
  }
  if (column.kind !== "metric") return el("td", { textContent: cell });
  if (cell === null) return el("td", { className: "missing", textContent: "-" });
  return el("td", { className: "value" }, ...estimate(cell));
}

// A metric's value with its interval and n.
function estimate([, , , n, value, interval]) {
  const small = el("small", { textContent: `${interval} n=${n}`.trim() });
  return [el("b", { textContent: value }), small];
}
