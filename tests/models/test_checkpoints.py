"""A checkpoint is read whole or refused by name; nothing in it is ever run."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kn_sweeps.models.checkpoints import Described, describe
from kn_sweeps.models.families import FAMILIES
from tests.models.folders import TINY, WEIGHTS, configure, folder, model, weights, write

CPU = torch.device("cpu")


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    bert, gpt2 = folder(tmp_path / "a", "tiny_bert"), folder(tmp_path / "b")
    write(bert, {k: v for k, v in weights(bert).items() if not k.startswith("cls.")})
    with pytest.raises(ValueError, match=r"model mine.*lacks weights.*cls\.predictions\."):
        model(bert).load(CPU, "float32")
    write(gpt2, {k: v for k, v in weights(gpt2).items() if ".h.2." not in k})
    with pytest.raises(ValueError, match=r"lacks weights.*h\.2\.attn.* and \d+ more"):
        model(gpt2).load(CPU, "float32")


def test_a_tied_head_is_not_missing_and_an_untied_one_is(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    assert "lm_head.weight" not in weights(at)
    model(at).load(CPU, "float32")
    configure(at, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lacks weights.*lm_head\.weight"):
        model(at).load(CPU, "float32")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    tensors = weights(at)
    name = next(k for k in tensors if k.endswith("h.1.mlp.c_fc.bias"))
    write(at, tensors | {name: tensors[name][:-1]})
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.bias"):
        model(at).load(CPU, "float32")


def test_weights_the_model_does_not_have_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = folder(tmp_path / "m")
    write(at, weights(at) | {"probe.weight": torch.ones(2)})
    with caplog.at_level(logging.WARNING):
        model(at).load(CPU, "float32")
    assert "does not have are ignored: probe.weight" in caplog.text


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_a_wrappers_prefix_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str, name: str
) -> None:
    at = folder(tmp_path / "m", name)
    plain = model(at).load(CPU, "float32").model.state_dict()
    write(at, {prefix + k: v for k, v in weights(at).items()})
    with caplog.at_level(logging.WARNING):
        found = model(at).load(CPU, "float32").model.state_dict()
    assert f"begin with '{prefix}'" in caplog.text
    assert all(torch.equal(value, plain[key]) for key, value in found.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    at = folder(tmp_path / "m")
    tensors = weights(at)
    name = next(k for k in tensors if k.endswith("h.3.mlp.c_proj.weight"))
    tensors[name][5, 7] = value
    write(at, tensors)
    with pytest.raises(ValueError, match=r"NaN or infinite: transformer\.h\.3\.mlp\.c_proj\.wei"):
        model(at).load(CPU, "bfloat16")


def test_a_weight_too_large_for_half_precision_says_so(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    tensors = weights(at)
    tensors[next(iter(tensors))].view(-1)[0] = 1e5
    write(at, tensors)
    with pytest.raises(ValueError, match=r"NaN or infinite.*try dtype=float32"):
        model(at).load(CPU, "float16")


def test_a_folder_without_a_tokenizer_is_refused_as_such(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    (at / "tokenizer.json").unlink()
    for ask in (model(at).fingerprint, model(at).fetch, model(at).described):
        with pytest.raises(ValueError, match="tried that folder: it has no tokenizer"):
            ask()


@pytest.mark.parametrize("family", ["t5", "mamba", "of_my_own"])
def test_an_unknown_family_is_called_that_without_loading(tmp_path: Path, family: str) -> None:
    at = folder(tmp_path / "m")
    configure(at, model_type=family)
    for ask in (model(at).described, lambda: model(at).load(CPU, "float32")):
        with pytest.raises(ValueError, match=f"family '{family}' is not known; known are bert"):
            ask()


def test_another_number_of_layers_than_said_is_told_by_the_config(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    with pytest.raises(ValueError, match="has 5 layers, its config says 7"):
        model(at, layers=7).described()


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    at = folder(tmp_path / "m")
    for name in ("modeling_x", "configuration_x", "tokenization_x", "custom_generate/generate"):
        (at / f"{name}.py").parent.mkdir(exist_ok=True)
        (at / f"{name}.py").write_text(code + "class C: pass\n")
    own = {"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.C"}
    configure(at, auto_map=own | {"AutoTokenizer": ["tokenization_x.C", "tokenization_x.C"]})
    told = '{"auto_map": {"AutoTokenizer": ["tokenization_x.C", "tokenization_x.C"]}}'
    (at / "tokenizer_config.json").write_text(told)
    assert model(at).described().kind == "causal"
    model(at).fetch()
    lm = model(at).load(CPU, "float32")
    assert type(lm.model).__module__.startswith("transformers.")
    configure(at, model_type="x")
    for ask in (model(at).described, lambda: model(at).load(CPU, "float32")):
        with pytest.raises(ValueError, match="family 'x' is not known"):
            ask()
    assert not mark.exists()
    configure(at, model_type="gpt2", attn_implementation="someone/kernel")
    with pytest.raises(ValueError, match="names code of a hub"):
        model(at).described()


def test_pickles_and_adapters_beside_the_weights_are_not_seen(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    before = model(at).load(CPU, "float32").model.state_dict()
    (at / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    (at / "pytorch_model.bin").write_bytes(b"not a pickle")
    (at / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    after = model(at).load(CPU, "float32").model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    configure(at, transformers_weights="../elsewhere.safetensors")
    with pytest.raises(ValueError, match="model mine could not be loaded"):
        model(at).load(CPU, "float32")


def test_shards_are_all_read_and_a_lost_one_is_named(tmp_path: Path) -> None:
    at = folder(tmp_path / "whole")
    lm = model(at).load(CPU, "float32")
    sharded = tmp_path / "sharded"
    lm.model.save_pretrained(sharded, max_shard_size="2MB")
    lm.tokenizer.save_pretrained(sharded)
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    again = model(sharded).load(CPU, "float32").model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in lm.model.state_dict().items())
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"files that are not there: {shards[1].name}"):
        model(sharded).fingerprint()


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    (at / WEIGHTS).write_bytes((at / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match="model mine could not be loaded") as error:
        model(at).load(CPU, "float32")
    assert "\n" not in str(error.value)
    (at / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        model(at).described()


def test_every_family_is_known_to_transformers_without_a_checkpoints_code() -> None:
    from transformers import CONFIG_MAPPING

    assert set(FAMILIES) <= set(CONFIG_MAPPING)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_is_read_as_transformers_reads_it(tmp_path: Path, family: str) -> None:
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[family]
    cls(num_hidden_layers=7).save_pretrained(tmp_path)
    assert describe(tmp_path / "config.json") == Described(FAMILIES[family].kind, 7)
    assert FAMILIES[family].layers in json.loads((tmp_path / "config.json").read_text())
    # Where it is not said, transformers has a default of its own.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    assert describe(tmp_path / "config.json").layers == cls().num_hidden_layers


@pytest.mark.parametrize("layers", ["five", None, [5], True])
def test_a_number_of_layers_that_is_none_is_refused_or_read_as_transformers_does(
    tmp_path: Path, layers: object
) -> None:
    at = folder(tmp_path / "m")
    configure(at, n_layer=layers)
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        model(at).described()


def test_naming_and_describing_a_checkpoint_imports_no_model_library() -> None:
    code = f"""
import sys
import kn_sweeps.models.gguf, kn_sweeps.models.last_loaded
from kn_sweeps.models.pretrained import Bundled, Pretrained
bundled = Bundled(label="tiny_gpt2")
for model in bundled, Pretrained(label="mine", name={str(TINY / "tiny_gpt2")!r}):
    print(model.described().layers, model.fingerprint())
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("5 ")


def test_quantised_weights_are_refused_before_any_is_read(tmp_path: Path) -> None:
    at = folder(tmp_path / "m")
    configure(at, quantization_config={"quant_method": "gptq", "bits": 4})
    for ask in (model(at).described, lambda: model(at).load(CPU, "float32"), model(at).check):
        with pytest.raises(
            ValueError, match=r"quantised \(gptq\), which is not read: .*model\.quantization=8bit"
        ):
            ask()
