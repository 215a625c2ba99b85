"""Where the files of published data come from: a folder, KN_SWEEPS_DATA, the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kn_sweeps.data.counterfact import CounterFact
from kn_sweeps.data.known import Known
from kn_sweeps.data.sources import Source
from kn_sweeps.data.zsre import ZsRE
from tests.data.test_benchmarks import FLAT, NATIVE, load, written
from tests.servers.hub import HubServer
from tests.sweeps.test_hub import BUNDLED, command


def test_where_files_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "editing" / "known_9", [], "x.json")
    written(tmp_path / "counterfact", [NATIVE])
    monkeypatch.setenv("KN_SWEEPS_DATA", str(tmp_path.parent / tmp_path.name))
    assert len(load(CounterFact()).cases) == 1
    assert Known().resolved().root == tmp_path / "editing" / "known_9"
    monkeypatch.delenv("KN_SWEEPS_DATA")
    for data, told in (
        (CounterFact(source="bundled"), "nothing of dataset=counterfact is bundled"),
        (Known(), "no repository of the hub is known for dataset=known"),
        (CounterFact(root=str(tmp_path / "gone")), "does not exist"),
        (CounterFact(root=str(tmp_path / "counterfact"), files=("ows",)), "did you mean own?"),
    ):
        with pytest.raises(ValueError, match=".") as error:
            load(data)
        assert told in str(error.value)


def test_the_hubs_files_are_there_when_the_hub_is_gone(hub: HubServer, tmp_path: Path) -> None:
    (row, *_) = (
        json.loads(line)
        for line in (BUNDLED / "pararel" / "facts" / "P36.jsonl").read_text().splitlines()
    )
    fact = {
        **{"subject": row["sub_label"], "src": f"The capital of {row['sub_label']} is"},
        **{"alt": row["obj_label"], "answers": []},
    }
    hub.add("lab/zsre", {"data/zsre-0.json": json.dumps([fact]).encode()}, kind="datasets")
    run = ("dataset=zsre", "dataset.repository=lab/zsre", "model=tiny_gpt2", "method=none")
    code, said = command(hub, tmp_path, "prefetch", *run)
    assert code == 0, said
    hub.stop()
    code, said = command(hub, tmp_path, "launch", *run, "tracker=none", HF_HUB_OFFLINE="1")
    assert code == 0, said
    assert "done:" in said


def test_of_a_repository_with_other_data_sets_those_of_this_name_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("ZsRE/test.json", "bio/test.json"):
        (tmp_path / "a" / place).parent.mkdir(parents=True)
        (tmp_path / "a" / place).write_text(json.dumps([FLAT]))
    (tmp_path / "a" / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    data = ZsRE(root=str(tmp_path / "a"))
    reports = {one.source: one for one in load(data).left_out}
    assert {name: one.used for name, one in reports.items()} == {
        "ZsRE_test": 1,
        "bio_test": 0,
        "dataset_infos": 0,
    }
    assert reports["bio_test"].reasons == {"listed before": 1}
    hub = Source("hub", None, "f" * 40)
    monkeypatch.setattr(ZsRE, "resolved", lambda _: hub)
    monkeypatch.setattr("kn_sweeps.data.benchmarks.hub_folder", lambda *_: tmp_path / "a")
    assert [one.source for one in load(ZsRE()).left_out] == ["ZsRE_test"]
