// Metric plots: a panel for each model and data set, a row a run, a common axis.

function startIntervals() {
  const metrics = comparison.columns.filter((column) => column.kind === "metric");
  const options = metrics.map((column) => [column.id, column.id]);
  const { field, select } = choice("Metric", options, () => drawPanels(select.value), {
    id: "metric",
  });
  byId("interval-controls").append(field, el("p", { className: "note", id: "meaning" }));
  onceOpen(() => {
    drawPanels(select.value);
    comparison.listeners.push(() => drawPanels(select.value));
  });
}

function drawPanels(metric) {
  const index = comparison.columns.findIndex((c) => c.kind === "metric" && c.id === metric);
  byId("meaning").textContent = comparison.columns[index]?.about ?? "";
  const runs = comparison.shown.filter((run) => run.cells[index] && run.cells[index][0] !== null);
  const axis = axisOf(
    runs.flatMap((run) => run.cells[index].slice(0, 3)).filter((x) => x !== null),
  );
  const groups = new Map();
  for (const run of runs) {
    const title = `${run.dataset} (${run.source}), ${run.model}`;
    groups.set(title, [...(groups.get(title) ?? []), run]);
  }
  const panels = [...groups].map(([title, own]) => panel(title, metric, own, index, axis));
  if (!panels.length) {
    panels.push(el("p", { className: "note", textContent: `No run that is shown has ${metric}.` }));
  }
  byId("panels").replaceChildren(...panels);
  drawLegend(runs);
}

function panel(title, metric, runs, index, axis) {
  const rows = runs.map((run) => intervalRow(run, run.cells[index], axis));
  const ticks = axis.ticks.map((tick) => {
    const mark = el("span", { textContent: number(tick, axis.decimals) });
    mark.style.left = `${axis.at(tick)}%`;
    return mark;
  });
  const foot = el(
    "tr",
    {},
    el("td"),
    el("td", {}, el("div", { className: "axis" }, ...ticks)),
    el("td"),
  );
  return el(
    "div",
    { className: "card panel" },
    el("h3", { textContent: title }),
    el(
      "table",
      {},
      el("caption", { className: "hidden", textContent: `${metric}: ${title}` }),
      el("colgroup", {}, ...["name", "", "text"].map((className) => el("col", { className }))),
      el("tbody", {}, ...rows),
      el("tfoot", { "aria-hidden": "true" }, foot),
    ),
  );
}

function intervalRow(run, cell, axis) {
  const [value, low, high, n, text, interval] = cell;
  const track = el("div", { className: "track", "aria-hidden": "true" });
  for (const tick of axis.ticks) {
    const grid = el("i");
    grid.style.left = `${axis.at(tick)}%`;
    track.append(grid);
  }
  if (low !== null) {
    const line = el("span", { className: "line" });
    line.style.left = `${axis.at(low)}%`;
    line.style.width = `${axis.at(high) - axis.at(low)}%`;
    track.append(line);
  }
  const dot = el("span", { className: `dot ${run.intent}` });
  dot.style.left = `${axis.at(value)}%`;
  track.append(dot);
  return el(
    "tr",
    {
      className: hue(run.method),
      title: `${run.label} (${run.intent}): ${text} ${interval} n=${n}`,
    },
    el(
      "th",
      { scope: "row" },
      run.label,
      el("span", { className: "hidden", textContent: ` (${run.intent})` }),
    ),
    el("td", {}, track),
    el("td", { className: "value text" }, ...estimate(cell)),
  );
}

// A common axis: 0 to 1 for what looks like a share, else what the numbers span, with 0 in it.
function axisOf(values) {
  let low = Math.min(0, ...values);
  let high = Math.max(0, ...values);
  if (low === 0 && high <= 1 && (high > 0.1 || high === 0)) high = 1;
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const ticks = Array.from(
    { length: Math.round((high - low) / step) + 1 },
    (_, n) => low + n * step,
  );
  const clean = ticks.map((tick) => Number(tick.toPrecision(10)));
  const decimals =
    step >= 1 ? 0 : Math.min(3, Math.ceil(-Math.log10(step)) + (step / power === 2.5 ? 1 : 0));
  return { ticks: clean, decimals, at: (x) => (100 * (x - low)) / (high - low) };
}

function drawLegend(runs) {
  const entries = distinct(runs.map((run) => run.method)).map((method) =>
    el("span", {}, el("span", { className: `dot ${hue(method)}` }), method),
  );
  const shapes = distinct(runs.map((run) => run.intent)).map((intent) =>
    el("span", {}, el("span", { className: `dot ${intent}` }), `${intent} edits`),
  );
  byId("legend").replaceChildren(...entries, ...shapes);
}
