// One case: every probe with its prompt, and what each run says of it before and after.

const INTENDED = {
  neighbour: ["✓ unchanged", "✗ changed"],
  other: ["✓ success", "✗ no success"],
};

function drawnCase(one, model) {
  const runs = one.runs.filter(({ run }) => model === "" || comparison.runs[run].model === model);
  const title = el("h3", { textContent: caseName(one) });
  const about = el("p", { className: "note", textContent: `${groupOf(one)}, case ${one.id}` });
  const failed = runs
    .filter(({ failure }) => failure)
    .map(({ run, failure }) =>
      el("p", {
        className: "error",
        textContent: `${nameIn(run)} could not edit this case: ${failure}`,
      }),
    );
  const probes = one.probes.map((probe, n) => drawnProbe(one, probe, n, runs));
  return [title, about, ...failed, ...probes.filter(Boolean)];
}

function drawnProbe(one, probe, n, runs) {
  const asked = runs.filter(({ readings }) => readings[n]);
  if (!asked.length) return null;
  const group = probe.group
    ? [el("span", { className: "chip", textContent: probe.group.replaceAll("_", " ") })]
    : [];
  const sentence = probe.kind === "sentence";
  const targets = targetsOf(probe);
  return el(
    "div",
    { className: "card probe" },
    el("h4", {}, el("span", { textContent: probe.kind }), ...group),
    sentence
      ? el("p", { className: "prompt", textContent: "Which whole sentence is the more probable?" })
      : prompt(probe),
    targets && el("p", { className: "targets", textContent: targets }),
    el(
      "div",
      { className: "methods" },
      ...asked.map(({ run, readings }) => drawnRun(one, probe, run, readings[n])),
    ),
  );
}

function targetsOf(probe) {
  if (probe.kind === "continuation") return null;
  return probe.old === probe.new
    ? `answer: ${probe.old}`
    : `old: ${probe.old}, new: ${probe.new}`;
}

function prompt(probe) {
  const slot = el(
    "span",
    { className: "slot" },
    el("span", { className: "hidden", textContent: "(answer)" }),
    "\u00a0",
  );
  const before = marked(probe.prefix, probe.subject);
  const inside = probe.prefix.includes(probe.subject);
  return el(
    "p",
    { className: "prompt" },
    ...before,
    slot,
    ...marked(probe.suffix, inside ? "" : probe.subject),
  );
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

// One run's card under a probe.
function drawnRun(one, probe, run, reading) {
  const { method, intent } = comparison.runs[run];
  const times = reading[8] === null ? 2 : 3; // a sequence is asked again after all its edits
  const heads = ["", "before", "after", "after all"].slice(0, times + 1);
  const [yes, no] = INTENDED[probe.kind] ?? INTENDED.other;
  const verdict = reading[9];
  const mark = el("span", { className: verdict ? "yes" : "no", textContent: verdict ? yes : no });
  const name = nameIn(run);
  return el(
    "div",
    { className: `method ${hue(method)}`, role: "group", "aria-label": `${name}, ${intent}` },
    el(
      "header",
      {},
      el("span", {}, el("b", { textContent: name }), ` ${intent}`),
      verdict === null ? null : mark,
    ),
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el("tr", {}, ...heads.map((text) => el("th", { scope: "col", textContent: text }))),
      ),
      el("tbody", {}, ...readingRows(one, probe, reading, times)),
    ),
  );
}

function readingRows(one, probe, reading, times) {
  const sentence = probe.kind === "sentence";
  const at = [0, 1, 2].slice(0, times);
  const free = [["says freely", at.map((t) => words(reading[10 + t] || "(nothing)"))]];
  if (probe.kind === "continuation") return drawnRows(free);
  const [old, changed] = [at.map((t) => reading[2 * t]), at.map((t) => reading[2 * t + 1])];
  const cell = sentence ? logarithm : share;
  const rows = [[sentence ? "log P(old)" : "P(old)", old.map(cell)]];
  if (probe.old !== probe.new) {
    rows.push([sentence ? "log P(new)" : "P(new)", changed.map(cell)]);
  }
  if (one.task === "syntax") {
    rows.push(["prefers", at.map((t) => words(preferred(old[t], changed[t])))]);
  }
  if (!sentence) rows.push(["answers", at.map((t) => words(reading[6 + t] || "(nothing)"))]);
  return drawnRows(reading[10] === null ? rows : [...rows, ...free]);
}

function drawnRows(rows) {
  return rows.map(([name, cells]) =>
    el("tr", {}, el("th", { scope: "row", textContent: name }), ...cells),
  );
}

function preferred(old, changed) {
  if (old === changed) return "neither";
  return old > changed ? "old" : "new";
}

const words = (text) => el("td", { textContent: text });
const logarithm = (log) => words(log === null ? "-" : log.toFixed(2));

function share(log) {
  if (log === null) return words("-");
  const bar = el("i", { "aria-hidden": "true" });
  bar.style.width = `calc(${Math.min(1, Math.exp(log))} * (100% - 10px))`;
  const text = el("span", { textContent: number(Math.exp(log), 3) });
  return el("td", { className: "share" }, bar, text);
}
