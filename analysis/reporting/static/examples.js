// The example browser: one case, all its probes, every run side by side.

function startExamples() {
  const found = dataOf("examples");
  byId("examples-note").textContent = examplesNote(found);
  if (!found.cases.length) return;
  const { cases } = found;
  const texts = cases.map(searchable);
  const parts = exampleControls(cases, { list, show, move });
  const picked = parts.picker;

  function move(by) {
    const place = picked.selectedIndex + by;
    if (place < 0 || place >= picked.options.length) return;
    picked.selectedIndex = place;
    show();
  }
  function list() {
    const wanted = parts.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = cases
      .map((one, n) => [n, one])
      .filter(([, one]) => parts.group.value === "" || groupOf(one) === parts.group.value)
      .filter(([n]) => wanted.every((word) => texts[n].includes(word)))
      .map(([n, one]) => [n, caseName(one)]);
    fill(picked, found);
    picked.selectedIndex = found.length ? 0 : -1;
    show();
  }
  function show() {
    const [place, count] = [picked.selectedIndex, picked.options.length];
    parts.previous.disabled = place <= 0;
    parts.next.disabled = place >= count - 1;
    const one = place < 0 ? null : cases[Number(picked.value)];
    const shown = one ? `Case ${place + 1} of ${count}: ${caseName(one)}` : "No case matches.";
    parts.status.textContent = shown;
    byId("case").replaceChildren(...(one ? drawnCase(one, parts.model.value) : []));
  }
  onceOpen(list);
}

// The controls, put into the page; their elements by name.
function exampleControls(cases, { list, show, move }) {
  const all = (values) => [["", "all"], ...values.map((value) => [value, value])];
  const models = distinct(comparison.runs.map((run) => run.model));
  const groups = all(distinct(cases.map(groupOf)));
  const group = choice("Relation or paradigm", groups, list, { id: "example-source" });
  const model = choice("Model", all(models), show, { id: "example-model" });
  const search = el("input", { type: "search", id: "example-search", on: { input: list } });
  const picker = choice("Case", [], show, { id: "example-case", size: 12 });
  const status = el("p", { className: "status", role: "status", "aria-live": "polite" });
  const previous = step("Previous (p)", () => move(-1), "p");
  const next = step("Next (n)", () => move(1), "n");
  byId("picker").append(
    group.field,
    ...(models.length > 1 ? [model.field] : []),
    el("label", {}, "Search prompts and answers", search),
    picker.field,
    el("div", { className: "steps" }, previous, next),
    status,
  );
  byId("examples").addEventListener("keydown", (event) => {
    // A letter in a list or a search box means that letter.
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n" || event.key === "p") move(event.key === "n" ? 1 : -1);
  });
  const selects = { group: group.select, model: model.select, picker: picker.select };
  return { ...selects, search, status, previous, next };
}

function step(textContent, click, key) {
  return el("button", { type: "button", textContent, "aria-keyshortcuts": key, on: { click } });
}

function examplesNote({ cases, total, runs, of }) {
  if (!total) return "No run has rows that can be read.";
  const part =
    cases.length < total
      ? `${cases.length} of ${total} cases, evenly from all sources,`
      : `All ${total} cases`;
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
