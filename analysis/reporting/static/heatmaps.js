// Heat maps of attributions: layers by neurons, with the neurons that were located.

const STEPS = 9999; // a score is a whole number of 1/STEPS of the peak
const ROW = 44; // pixels of a layer, fewer where there are many

function startHeatMaps() {
  if (!byId("heat-maps")) return;
  const { maps, total } = dataOf("heat-maps");
  byId("heat-note").textContent =
    `Mean attribution of every neuron over the prompts of one source. ` +
    (maps.length < total
      ? `${maps.length} of ${total} heat maps are in this page; the others would make it too big.`
      : `${total} heat maps.`);
  if (!maps.length) return;
  const runs = distinct(maps.map((map) => map.run)).map((n) => [n, runName(comparison.runs[n])]);
  const run = choice("Run", runs, sources, { id: "heat-run" });
  const source = choice("Source", [], draw, { id: "heat-source" });
  byId("heat-controls").append(run.field, source.field);

  function sources() {
    const own = maps.filter((map) => map.run === Number(run.select.value));
    fill(
      source.select,
      own.map((map) => [map.source, map.source]),
    );
    draw();
  }
  function draw() {
    const chosen = maps.find(
      (map) => map.run === Number(run.select.value) && map.source === source.select.value,
    );
    byId("heat").replaceChildren(heatMap(chosen), strongest(chosen));
  }
  onceOpen(sources);
}

function runName(run) {
  return `${run.label}: ${run.dataset} (${run.source}), ${run.model}`;
}

function heatMap(map) {
  const columns = map.scores.length / map.layers;
  const located = locatedIn(map, columns);
  const status = el("p", { className: "status", role: "status", "aria-live": "polite" });
  status.textContent = "Point at a cell, or focus the map and use the arrow keys.";
  const picture = cells(map, columns, located);
  explore(picture, columns, map, (cell) => {
    status.textContent = described(map, columns, located, cell);
  });
  const every = Math.ceil(map.layers / 24);
  const layerName = (n) => el("span", { textContent: n % every ? "" : `layer ${n}` });
  const names = Array.from({ length: map.layers }, (_, n) => map.layers - 1 - n);
  const ends = ["neuron 0", `neuron ${map.neurons - 1}`];
  return el(
    "div",
    { className: "map" },
    el("div", { className: "layers", "aria-hidden": "true" }, ...names.map(layerName)),
    picture,
    el("div", { className: "ends" }, ...ends.map((text) => el("span", { textContent: text }))),
    status,
    scale(map),
  );
}

// The located neurons of every cell, as [neuron, edits].
function locatedIn(map, columns) {
  const located = new Map();
  for (const [layer, neuron, edits] of map.located) {
    const cell = layer * columns + Math.floor(neuron / map.width);
    located.set(cell, [...(located.get(cell) ?? []), [neuron, edits]]);
  }
  return located;
}

function cells(map, columns, located) {
  const size = `${map.layers} layers by ${map.neurons} neurons`;
  const picture = svg("svg", {
    viewBox: `0 0 ${columns} ${map.layers}`,
    preserveAspectRatio: "none",
    "shape-rendering": "crispEdges",
    tabindex: "0",
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label": `Heat map of ${map.source}, ${size}. Arrow keys move.`,
  });
  picture.style.height = `${map.layers * Math.max(6, Math.min(ROW, 480 / map.layers))}px`;
  const rectangle = (cell, kind) => {
    const [x, y] = [cell % columns, map.layers - 1 - Math.floor(cell / columns)];
    return svg("rect", { x, y, width: 1, height: 1, class: kind });
  };
  map.scores.forEach((score, cell) => {
    if (score === 0) return;
    const box = rectangle(cell, score > 0 ? "positive" : "negative");
    // The root spreads the many small scores; a heat map of one bright cell says little.
    box.style.fillOpacity = Math.sqrt(Math.abs(score) / STEPS).toFixed(3);
    picture.append(box);
  });
  for (const cell of located.keys()) picture.append(rectangle(cell, "located"));
  return picture;
}

function described(map, columns, located, cell) {
  const [layer, column] = [Math.floor(cell / columns), cell % columns];
  const first = column * map.width;
  const last = Math.min(first + map.width, map.neurons) - 1;
  const score = number((map.scores[cell] / STEPS) * map.peak, 4);
  const among = map.width > 1 ? `, the strongest of ${first} to ${last}` : "";
  const here = (located.get(cell) ?? []).map(([n, k]) => `${n} in ${k} of ${map.edits} edits`);
  const found = here.length ? `located: ${here.join(", ")}` : "none located here";
  const neuron = first + map.places[cell];
  return `Layer ${layer}, neuron ${neuron}${among}: mean score ${score}; ${found}.`;
}

function scale(map) {
  const keys = [
    ["plus", `raises the answer's probability (strongest ${number(map.peak, 4)})`],
    ["minus", "lowers it"],
    ["ring", `located in some of ${map.edits} edits`],
  ];
  const entries = keys.map(([kind, text]) =>
    el("span", {}, el("span", { className: `swatch ${kind}` }), text),
  );
  return el("p", { className: "scale" }, ...entries);
}

// Move a cursor over the cells by pointer and by keyboard.
function explore(picture, columns, map, tell) {
  const cursor = svg("rect", { width: 1, height: 1, class: "cursor", visibility: "hidden" });
  picture.append(cursor);
  const at = { layer: map.layers - 1, column: 0 };
  const moves = {
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    ArrowUp: [1, 0],
    ArrowDown: [-1, 0],
    Home: [0, -columns],
    End: [0, columns],
  };
  const within = (x, end) => Math.max(0, Math.min(end - 1, x));
  function go(layer, column) {
    at.layer = within(layer, map.layers);
    at.column = within(column, columns);
    cursor.setAttribute("x", at.column);
    cursor.setAttribute("y", map.layers - 1 - at.layer);
    cursor.setAttribute("visibility", "visible");
    tell(at.layer * columns + at.column);
  }
  function pointed(event) {
    const box = picture.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * map.layers);
    go(map.layers - 1 - row, Math.floor(((event.clientX - box.left) / box.width) * columns));
  }
  picture.addEventListener("pointermove", pointed);
  picture.addEventListener("pointerdown", pointed);
  picture.addEventListener("focus", () => go(at.layer, at.column));
  picture.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(at.layer + moves[event.key][0], at.column + moves[event.key][1]);
  });
}

function strongest(map) {
  const rows = map.strongest.map(([layer, neuron, score, edits]) => {
    const cells = [layer, neuron, number(score, 4), `${edits} of ${map.edits}`];
    return el("tr", {}, ...cells.map((text) => el("td", { textContent: text })));
  });
  const heads = ["layer", "neuron", "mean score", "located in edits"];
  return el(
    "table",
    {},
    el("caption", { textContent: `The ${rows.length} strongest` }),
    el(
      "thead",
      {},
      el("tr", {}, ...heads.map((head) => el("th", { scope: "col", textContent: head }))),
    ),
    el("tbody", {}, ...rows),
  );
}
