import csv
import json

import pytest

from analysis import summaries, table
from kn_sweeps.metrics.catalogue import described

HEADLINES = [one.name for one in described() if one.headline]


def estimate(value=0.5, low=0.4, high=0.6, n=40):
    return {"value": value, "low": low, "high": high, "n": n}


def write_run(folder, run_id, metrics=None, sweep="default", **given):
    summary = {
        "run_id": run_id,
        "model": "tiny_bert",
        "source": "bundled",
        "dataset": "pararel",
        "method": "rome",
        "intent": "replace",
        "seed": 0,
        "cases": 40,
        "metrics": {"reliability": estimate()} if metrics is None else metrics,
    } | given
    run = folder / sweep / run_id
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}\n")
    (run / "summary.json").write_text(json.dumps(summary))
    return summary


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_run_is_one_row_with_what_it_was_and_what_it_scored(tmp_path, capsys):
    write_run(tmp_path, "a")
    assert table.main([str(tmp_path)]) == 0
    head, row = lines(capsys)
    assert head.split() == [
        "model",
        "source",
        "dataset",
        "method",
        "intent",
        "cases",
        "reliability",
    ]
    assert row.split(maxsplit=6) == [
        *["tiny_bert", "bundled", "pararel", "rome", "replace", "40"],
        "0.50 [0.40, 0.60] n=40",
    ]


def test_runs_are_sorted_by_dataset_model_and_method_and_seeds_as_numbers(tmp_path, capsys):
    write_run(tmp_path, "1", seed=10)
    write_run(tmp_path, "2", seed=2)
    write_run(tmp_path, "3", method="kn")
    write_run(tmp_path, "4", model="gpt2_xl")
    write_run(tmp_path, "5", dataset="blimp", model="zeta")
    table.main([str(tmp_path)])
    found = [line.split()[:7] for line in lines(capsys)[1:]]
    assert [(r[2], r[0], r[3], r[6]) for r in found] == [
        ("blimp", "zeta", "rome", "0"),
        ("pararel", "gpt2_xl", "rome", "0"),
        ("pararel", "tiny_bert", "kn", "0"),
        ("pararel", "tiny_bert", "rome", "2"),
        ("pararel", "tiny_bert", "rome", "10"),
    ]


@pytest.mark.parametrize(
    ("other", "column"),
    [
        ({"seed": 1}, ["seed"]),
        ({"sweep": "later"}, ["sweep"]),
        ({}, ["run"]),
        ({"cases": 20}, []),
        ({"intent": "erase"}, []),
    ],
)
def test_a_column_that_tells_runs_apart_is_shown_only_where_needed(tmp_path, capsys, other, column):
    write_run(tmp_path, "0123456789")
    write_run(tmp_path, "abcdefghij", **other)
    table.main([str(tmp_path)])
    head, *rows = lines(capsys)
    assert head.split()[6:-1] == column
    assert len(rows) == 2
    if column == ["run"]:
        assert [row.split()[6] for row in rows] == ["01234567", "abcdefgh"]


def test_many_metrics_stay_within_120_columns_and_every_block_names_its_runs(tmp_path, capsys):
    metrics = {name: estimate() for name in HEADLINES}
    write_run(tmp_path, "a", metrics)
    write_run(tmp_path, "b", metrics, method="kn")
    table.main([str(tmp_path)])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert len(blocks) > 1
    assert [name for head, *_ in blocks for name in head.split() if name in metrics] == list(
        HEADLINES
    )
    for head, *rows in blocks:
        at = head.split().index("method")
        assert [row.split()[at] for row in rows] == ["kn", "rome"]


def test_columns_are_aligned(tmp_path, capsys):
    write_run(tmp_path, "a", model="m")
    write_run(tmp_path, "b", model="a_much_longer_name")
    table.main([str(tmp_path)])
    head, *rows = lines(capsys)
    assert {row.index("bundled") for row in rows} == {head.index("source")}
    assert {row.index("0.50 [") for row in rows} == {head.index("reliability")}


def test_later_blocks_leave_out_runs_that_have_none_of_their_metrics(tmp_path):
    metrics = [{"a": estimate()}, {"a": estimate(), "b": estimate()}]
    summaries = [
        write_run(tmp_path, str(i), m, seed=i, sweep="default") for i, m in enumerate(metrics)
    ]
    first, second = table.blocks(summaries, ["a", "b"], width=90)
    assert len(first) == 3
    assert second == [["seed", "b"], ["1", "0.50 [0.40, 0.60] n=40"]]


def test_the_headline_is_shown_and_other_metrics_are_asked_for(tmp_path, capsys):
    write_run(tmp_path, "a", {"known": estimate(), "reliability": estimate(), "tau": estimate()})
    table.main([str(tmp_path)])
    assert lines(capsys)[0].split()[6:] == ["reliability"]
    table.main([str(tmp_path), "--metrics", "tau, known"])
    assert lines(capsys)[0].split()[6:] == ["tau", "known"]


def test_a_metric_that_no_run_has_is_refused_with_the_choices(tmp_path, capsys):
    write_run(tmp_path, "a", {"known": estimate(), "tau": estimate()})
    assert table.main([str(tmp_path), "--metrics", "knwon"]) == 1
    assert "no run has the metric knwon; there are known, tau" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (estimate(0.954, 0.9, 0.98, 40), "0.95 [0.90, 0.98] n=40"),
        (estimate(None, None, None, 0), "- n=0"),
        (estimate(1.0, None, None, 1), "1.00 n=1"),
        (estimate(-1.5, -2, 0), "-1.50 [-2.00, 0.00] n=40"),
        (estimate(1.2e-7, None, None), "1.2e-07 n=40"),
        (None, "-"),
    ],
)
def test_a_cell_holds_value_interval_and_n(given, text):
    assert table.cell(given) == text


def test_the_files_hold_every_metric_of_every_run(tmp_path):
    write_run(tmp_path, "a", {"reliability": estimate(), "tau": estimate(None, None, None, 0)})
    write_run(tmp_path, "b", {"reliability": estimate(1 / 3)}, seed=1)
    table.main([str(tmp_path), "--metrics", "tau"])
    with (tmp_path / "table.csv").open() as file:
        one, other = csv.DictReader(file)
    parts = ["reliability", "reliability_low", "reliability_high", "reliability_n"]
    assert [float(one[part]) for part in parts] == [0.5, 0.4, 0.6, 40]
    assert float(other["reliability"]) == 1 / 3
    assert (one["tau"], one["tau_n"], other["tau_n"]) == ("", "0", "")
    assert (one["run_id"], one["sweep"], other["seed"]) == ("a", "default", "1")
    shown, meanings = (tmp_path / "table.md").read_text().split("\n\n")
    head, rule, *rows = shown.splitlines()
    assert "- `reliability`: the edit does what it is for on its own prompt" in meanings
    assert head.endswith("| seed | reliability | tau |")
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert rows[0].endswith("| 0.50 [0.40, 0.60] n=40 | - n=0 |")


def test_the_files_go_where_they_are_sent_and_no_draft_is_left(tmp_path):
    write_run(tmp_path / "results", "a")
    table.main([str(tmp_path / "results"), "--out", str(tmp_path / "new" / "out")])
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == ["table.csv", "table.md"]
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["default"]


def test_json_is_the_summaries_and_nothing_else(tmp_path, capsys):
    summaries = [write_run(tmp_path, "a"), write_run(tmp_path, "b", seed=1)]
    assert table.main([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [{"sweep": "default", "settings": {}} | summary for summary in summaries]


def test_nan_never_leaves_the_table(tmp_path, capsys):
    nan = float("nan")
    write_run(tmp_path, "a", {"reliability": estimate(nan, nan, float("inf"), 0)})
    table.main([str(tmp_path), "--json"])
    table.main([str(tmp_path)])
    text = capsys.readouterr().out + (tmp_path / "table.md").read_text()
    text += (tmp_path / "table.csv").read_text()
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[]", "expected a JSON object, got list"),
        ('{"model": "m"}', "lacks source, dataset, method, intent, cases, run_id, seed, metrics"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_a_broken_summary_is_named_and_hides_no_other_run(tmp_path, capsys, content, reason):
    write_run(tmp_path, "a")
    broken = tmp_path / "default" / "b" / "summary.json"
    broken.parent.mkdir()
    broken.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert table.main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"could not read {broken}: " in said.err
    assert reason in said.err
    assert len(said.out.splitlines()) == 2


@pytest.mark.parametrize(
    "metrics", [{"tau": 0.5}, {"tau": {"value": 1}}, [], {"tau": estimate("x")}]
)
def test_a_metric_that_is_no_estimate_is_a_broken_summary(tmp_path, capsys, metrics):
    write_run(tmp_path, "a", metrics)
    assert table.main([str(tmp_path)]) == 1
    assert "metric" in capsys.readouterr().err


def test_a_missing_folder_is_said(tmp_path, capsys):
    assert table.main([str(tmp_path / "nowhere")]) == 1
    assert f"there are no runs in {tmp_path / 'nowhere'}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_folder_without_a_finished_run_says_how_many_were_begun(tmp_path, capsys, arguments):
    for path in ("default/a", "default/b", "default/a/.hydra", "default/a/wandb/run/files"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "config.yaml").touch()
    assert table.main([str(tmp_path), *arguments]) == 1
    said = capsys.readouterr()
    assert f"no finished runs below {tmp_path}; 2 unfinished" in said.err
    assert said.out == ("[]\n" if arguments else "")


def test_unfinished_runs_are_counted_beside_the_finished(tmp_path, capsys):
    write_run(tmp_path, "a")
    (tmp_path / "default" / "b").mkdir()
    (tmp_path / "default" / "b" / "config.yaml").touch()
    assert table.main([str(tmp_path)]) == 0
    assert "not shown: 1 unfinished" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_after_the_table(tmp_path, capsys):
    write_run(tmp_path / "results", "a")
    (tmp_path / "file").touch()
    assert table.main([str(tmp_path / "results"), "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert "could not write the table" in said.err
    assert "tiny_bert" in said.out


def test_runs_that_differ_in_a_setting_are_told_apart_by_it(tmp_path):
    for layer in (3, 12):
        write_run(tmp_path, f"run{layer}")
        config = f"method: {{layer: {layer}, steps: 5}}\nregime: single\nbatch_size: {layer}\n"
        (tmp_path / "default" / f"run{layer}" / "config.yaml").write_text(config)
    found = summaries.find_runs(tmp_path).summaries
    assert summaries.identity_columns(found)[len(summaries.IDENTITY) :] == ["method.layer"]
    assert sorted(summaries.identity(s, "method.layer") for s in found) == ["12", "3"]


def configured(folder, run_id, text, **given):
    write_run(folder, run_id, **given)
    (folder / given.get("sweep", "default") / run_id / "config.yaml").write_text(text)


def test_rows_are_in_the_order_of_the_swept_values_and_told_apart_by_them(tmp_path):
    values = [(10, 0.5), (2, 0.5), (10, 0.05), (2, 1e-5), (2, 0.05)]
    for n, (layer, rate) in enumerate(values):
        configured(tmp_path, f"r{n}", f"method: {{layer: {layer}, rate: {rate}}}\n")
    head, *rows = next(table.blocks(summaries.find_runs(tmp_path).summaries, [], 200))
    assert head[-2:] == ["method.layer", "method.rate"]
    assert [tuple(map(float, row[-2:])) for row in rows] == sorted(values)


def test_checkpoints_of_one_label_are_told_apart_by_their_names(tmp_path):
    for name in ("before", "after"):
        configured(tmp_path, name, f"model: {{label: m, name: {name}}}\n")
    found = summaries.find_runs(tmp_path).summaries
    assert summaries.identity_columns(found)[-1] == "model.name"
    assert [summaries.identity(s, "model.name") for s in found] == ["after", "before"]


def test_several_sweeps_are_one_table_and_what_is_named_twice_is_there_once(tmp_path, capsys):
    for name in ("birds", "fish", "trees"):
        write_run(tmp_path, name[0], sweep=name)
    names = [str(tmp_path / name) for name in ("birds", "fish")]
    assert table.main([*names, names[0]]) == 0
    assert [line.split()[6] for line in lines(capsys)[1:]] == ["birds", "fish"]
    assert (tmp_path / "table.csv").read_text().count("\n") == 3
    assert len(summaries.find_runs(tmp_path, tmp_path / "fish").summaries) == 3


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "-")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_the_csv_is_taken_for_a_formula(tmp_path, text):
    write_run(tmp_path, "a", {text: estimate(-0.25)}, model=text, source=text)
    write_run(tmp_path, "b", {"tau": estimate(-0.25)}, model="m")
    table.main([str(tmp_path)])
    with (tmp_path / "table.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    risky = [c for row in (head, *rows) for c in row if c.startswith(tuple("=+-@\t"))]
    assert set(risky) == {"-0.25"}
    assert f"'{text}" in head
    assert f"'{text}" in [row[head.index("model")] for row in rows]


def test_numbers_of_the_csv_are_left_as_they_are(tmp_path):
    for n, rate in enumerate((-1, "-1e-5", 0.5)):
        configured(tmp_path, f"r{n}", f"method: {{rate: {rate}}}\n")
    table.main([str(tmp_path)])
    with (tmp_path / "table.csv").open() as file:
        assert [row["method.rate"] for row in csv.DictReader(file)] == ["-1", "-1e-05", "0.5"]


def test_no_text_breaks_the_markdown_table_or_the_screen(tmp_path, capsys):
    hostile = "a|b\\|c\r\nd\u2028e\x1b[2J<b>"
    write_run(tmp_path, "a", {hostile: estimate()}, model=hostile)
    table.main([str(tmp_path)])
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert len(out.splitlines()) == 2
    head, rule, row = (tmp_path / "table.md").read_text().splitlines()
    plain = [line.replace("\\\\", "").replace("\\|", "") for line in (head, rule, row)]
    assert len({line.count("|") for line in plain}) == 1
    assert "<b>" not in row


def test_protocols_that_differ_stand_with_the_methods_they_are_of(tmp_path, capsys):
    write_run(tmp_path, "a", protocol="scorer exact; alone")
    write_run(tmp_path, "b", protocol="scorer exact; alone", seed=1)
    write_run(tmp_path, "c", protocol="scorer token; alone", method="kn")
    table.main([str(tmp_path)])
    told = capsys.readouterr().err
    assert "protocol: rome: scorer exact; alone\n" in told
    assert "protocol: kn: scorer token; alone\n" in told
