// The example browser: one case, all its probes, every run side by side.

const INTENDED = {
  neighbour: ["✓ unchanged", "✗ changed"],
  other: ["✓ success", "✗ no success"],
};

function startExamples() {
  const found = dataOf("examples");
  byId("examples-note").textContent = examplesNote(found);
  if (!found.cases.length) return;
  const { cases } = found;
  const texts = cases.map(searchable);
  const models = distinct(comparison.runs.map((run) => run.model));
  const groups = distinct(cases.map((one) => groupOf(one)));
  const group = choice("Relation or paradigm", [["", "all"], ...groups.map((g) => [g, g])], list, { id: "example-source" });
  const model = choice("Model", [["", "all"], ...models.map((m) => [m, m])], show, { id: "example-model" });
  const search = el("input", { type: "search", id: "example-search", on: { input: list } });
  const picker = choice("Case", [], show, { id: "example-case", size: 12 });
  const status = el("p", { className: "status", role: "status", "aria-live": "polite" });
  const previous = step("Previous", -1, "p");
  const next = step("Next", 1, "n");
  byId("picker").append(
    group.field,
    ...(models.length > 1 ? [model.field] : []),
    el("label", {}, "Search prompts and answers", search),
    picker.field,
    el("div", { className: "steps" }, previous, next),
    status,
  );

  function step(name, by, key) {
    const act = () => move(by);
    return el("button", { type: "button", textContent: `${name} (${key})`, "aria-keyshortcuts": key, on: { click: act } });
  }
  function move(by) {
    const place = picker.select.selectedIndex + by;
    if (place < 0 || place >= picker.select.options.length) return;
    picker.select.selectedIndex = place;
    show();
  }
  function list() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = cases
      .map((one, n) => [n, one])
      .filter(([, one]) => group.select.value === "" || groupOf(one) === group.select.value)
      .filter(([n]) => words.every((word) => texts[n].includes(word)));
    fill(picker.select, wanted.map(([n, one]) => [n, caseName(one)]));
    picker.select.selectedIndex = wanted.length ? 0 : -1;
    show();
  }
  function show() {
    const place = picker.select.selectedIndex;
    const count = picker.select.options.length;
    previous.disabled = place <= 0;
    next.disabled = place >= count - 1;
    const one = place < 0 ? null : cases[Number(picker.select.value)];
    status.textContent = one ? `Case ${place + 1} of ${count}: ${caseName(one)}` : "No case matches.";
    byId("case").replaceChildren(...(one ? drawnCase(one, model.select.value) : []));
  }
  byId("examples").addEventListener("keydown", (event) => {
    // A letter in a list or a search box means that letter.
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n" || event.key === "p") move(event.key === "n" ? 1 : -1);
  });
  whenInView(byId("examples"), list);
}

function examplesNote({ cases, total, runs, of }) {
  const part = cases.length < total ? `${cases.length} of ${total} cases, evenly from all sources,` : `All ${total} cases`;
  const which = runs < of ? ` ${runs} of ${of} runs are shown.` : "";
  return (
    `${part} are in this page.${which} Probabilities are of the whole answer, before and after the edit; ` +
    "the mark says whether the edit did on that prompt what it should: replace makes the model answer new, " +
    "erase no longer old. A fact is judged by its exact answer, syntax by the preferred form."
  );
}

const groupOf = (one) => `${one.dataset}: ${one.source}`;

function caseName(one) {
  const edit = one.probes.find((probe) => probe.kind === "edit") ?? one.probes[0];
  if (!edit) return one.id;
  const about = edit.subject || edit.prefix.trim() || one.id;
  return `${about}: ${edit.old} → ${edit.new}`;
}

function searchable(one) {
  const texts = one.probes.flatMap((p) => [p.prefix, p.suffix, p.old, p.new]);
  const answers = one.runs.flatMap((run) => run.readings.flatMap((r) => (r ? [r[6], r[7]] : [])));
  return [one.id, one.source, ...distinct(texts), ...distinct(answers)].join(" ").toLowerCase();
}

function drawnCase(one, model) {
  const runs = one.runs.filter(({ run }) => model === "" || comparison.runs[run].model === model);
  const title = el("h3", { textContent: caseName(one) });
  const about = el("p", { className: "note", textContent: `${groupOf(one)}, case ${one.id}` });
  const failed = runs.filter(({ failure }) => failure).map(({ run, failure }) =>
    el("p", { className: "error", textContent: `${nameIn(run)} could not edit this case: ${failure}` }),
  );
  const probes = one.probes.map((probe, n) => drawnProbe(one, probe, n, runs));
  return [title, about, ...failed, ...probes.filter(Boolean)];
}

function drawnProbe(one, probe, n, runs) {
  const asked = runs.filter(({ readings }) => readings[n]);
  if (!asked.length) return null;
  const group = probe.group ? [el("span", { className: "chip", textContent: probe.group.replaceAll("_", " ") })] : [];
  const sentence = probe.kind === "sentence";
  const targets = probe.old === probe.new ? `answer: ${probe.old}` : `old: ${probe.old}, new: ${probe.new}`;
  return el(
    "div",
    { className: "card probe" },
    el("h4", {}, el("span", { textContent: probe.kind }), ...group),
    sentence ? el("p", { className: "prompt", textContent: "Which whole sentence is the more probable?" }) : prompt(probe),
    el("p", { className: "targets", textContent: targets }),
    el("div", { className: "methods" }, ...asked.map(({ run, readings }) => drawnRun(one, probe, run, readings[n]))),
  );
}

function prompt(probe) {
  const slot = el("span", { className: "slot" }, el("span", { className: "hidden", textContent: "(answer)" }), "\u00a0");
  const before = marked(probe.prefix, probe.subject);
  const inside = probe.prefix.includes(probe.subject);
  return el("p", { className: "prompt" }, ...before, slot, ...marked(probe.suffix, inside ? "" : probe.subject));
}

function marked(text, subject) {
  const at = subject ? text.indexOf(subject) : -1;
  if (at < 0) return [text];
  return [text.slice(0, at), el("mark", { textContent: subject }), text.slice(at + subject.length)];
}

function nameIn(run) {
  const { label, model } = comparison.runs[run];
  const several = comparison.runs.some((other) => other.model !== model);
  return several ? `${label}, ${model}` : label;
}

function drawnRun(one, probe, run, reading) {
  const { method, intent } = comparison.runs[run];
  const [preOld, preNew, postOld, postNew, endOld, endNew, preSays, postSays, endSays, verdict] = reading;
  const sequence = endSays !== null;
  const times = (...values) => (sequence ? values : values.slice(0, 2));
  const sentence = probe.kind === "sentence";
  const rows = [row(sentence ? "log P(old)" : "P(old)", times(preOld, postOld, endOld).map(share))];
  if (probe.old !== probe.new) {
    rows.push(row(sentence ? "log P(new)" : "P(new)", times(preNew, postNew, endNew).map(share)));
  }
  if (one.task === "syntax") {
    const pairs = times([preOld, preNew], [postOld, postNew], [endOld, endNew]);
    rows.push(row("prefers", pairs.map(([a, b]) => el("td", { textContent: a === b ? "neither" : a > b ? "old" : "new" }))));
  }
  if (!sentence) {
    rows.push(row("answers", times(preSays, postSays, endSays).map((text) => el("td", { textContent: text || "(nothing)" }))));
  }
  function share(log) {
    if (log === null) return el("td", { textContent: "-" });
    if (sentence) return el("td", { textContent: log.toFixed(2) });
    const bar = el("i", { "aria-hidden": "true" });
    bar.style.width = `calc(${Math.min(1, Math.exp(log))} * (100% - 10px))`;
    return el("td", { className: "share" }, bar, el("span", { textContent: number(Math.exp(log), 3) }));
  }
  const heads = ["", ...times("before", "after", "after all")].map((text) => el("th", { scope: "col", textContent: text }));
  const name = nameIn(run);
  const [yes, no] = INTENDED[probe.kind] ?? INTENDED.other;
  const mark = verdict === null ? null : el("span", { className: verdict ? "yes" : "no", textContent: verdict ? yes : no });
  return el(
    "div",
    { className: `method ${hue(method)}`, role: "group", "aria-label": `${name}, ${intent}` },
    el("header", {}, el("span", {}, el("b", { textContent: name }), ` ${intent}`), mark),
    el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows)),
  );
}

function row(name, cells) {
  return el("tr", {}, el("th", { scope: "row", textContent: name }), ...cells);
}
