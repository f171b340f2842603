"""Random checkpoints: every form runs in transformers, the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, load, logits

import secateur
from secateur import Calibration, RandomWeights
from secateur.api.models import File
from secateur.checkpoint.reader import Checkpoint, open_checkpoint
from secateur.checkpoint.synthetic.numbers import CHUNK, Distribution, Stream, draw
from secateur.errors import CheckpointError, OutputError, RequestError, WriteError
from secateur.families.registry import families
from secateur.forward.weights import CheckpointWeights
from secateur.system import workdir

SPLIT = [family.name for family in families() if any(row.per_expert for row in family.rows)]
PACKED = [(family.name, rule.method) for family in families() for rule in family.packed]


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def config_of(checkpoint: Checkpoint, folder: Path) -> Path:
    """Only the config of a checkpoint, in a folder without weights."""
    folder.mkdir()
    (folder / "config.json").write_bytes(checkpoint.config_file.read_bytes())
    return folder / "config.json"


@pytest.mark.parametrize("form", [*FAMILIES, "gemma4_wrapper"])
def test_transformers_loads_every_tensor_and_its_forward_is_finite(
    form: str, tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    made = secateur.synth(tiny(form).path, tmp_path / "random", workers=1)
    opened = open_checkpoint(tmp_path / "random")
    assert opened.nbytes == made.nbytes
    assert (tmp_path / "random/tokenizer.json").exists()
    found = logits(load(tmp_path / "random"))  # asserts that nothing is missing or left over
    assert torch.isfinite(found).all()
    assert 0.05 < float(found.std()) < 20


@pytest.mark.parametrize("name", SPLIT)
def test_stacked_experts_are_those_that_are_kept_apart(
    name: str, tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    config = config_of(tiny(name), tmp_path / "config")
    for form in ("plain", "stacked"):
        secateur.synth(config, tmp_path / form, RandomWeights(form=form), workers=1)
    plain, stacked = (
        CheckpointWeights(open_checkpoint(tmp_path / form)) for form in ("plain", "stacked")
    )
    assert set(plain.names()) == set(stacked.names())
    for tensor in plain.names():
        assert torch.equal(plain.tensor(tensor), stacked.tensor(tensor)), tensor


@pytest.mark.parametrize(("name", "form"), PACKED)
def test_a_packed_form_is_one_that_transformers_dequantizes(
    name: str, form: str, tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    config = config_of(tiny(name), tmp_path / "config")
    if form == "mxfp4":
        with pytest.raises(
            RequestError, match="down_proj has 16 inputs, expected a multiple of 32"
        ):
            secateur.synth(config, tmp_path / "packed", RandomWeights(form=form))
        config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 64}))
    for one in ("plain", form):
        target = tmp_path / ("plain" if one == "plain" else "packed")
        secateur.synth(config, target, RandomWeights(form=one), workers=1)
    packed = load(tmp_path / "packed").state_dict()
    plain = load(tmp_path / "plain").state_dict()
    assert packed.keys() == plain.keys()
    different = [key for key in plain if not torch.equal(packed[key], plain[key])]
    assert any("experts" in key for key in different)
    for key in different:
        got, expected = packed[key].flatten(), plain[key].flatten()
        assert 0.7 < float(got.std() / expected.std()) < 1.4, key
        if form == "fp8":
            assert float(torch.corrcoef(torch.stack([got, expected]))[0, 1]) > 0.98, key
    with pytest.raises(CheckpointError, match="dequantize the checkpoint to 16 bits"):
        open_checkpoint(tmp_path / "packed")


def test_a_published_config_says_its_own_form(
    tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    file = config_of(tiny("deepseek_v3"), tmp_path / "config")
    said = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": said}))
    secateur.synth(file, tmp_path / "random", workers=1)
    config = json.loads((tmp_path / "random/config.json").read_text())
    assert config["quantization_config"] == said
    secateur.synth(file, tmp_path / "plain", RandomWeights(form="plain"), workers=1)
    open_checkpoint(tmp_path / "plain")
    file.write_text(file.read_text().replace('"fp8"', '"gptq"'))
    with pytest.raises(CheckpointError, match=r"'gptq', which no \[\[packed\]\] table"):
        secateur.synth(file, tmp_path / "other")
    with pytest.raises(RequestError, match="form mxfp4: DeepSeek V3 is not published in it"):
        secateur.synth(file, tmp_path / "other", RandomWeights(form="mxfp4"))


def test_the_same_seed_gives_the_same_bytes_whatever_the_shards(
    tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    model = tiny("qwen3_moe").path
    for folder, seed, workers in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        secateur.synth(model, tmp_path / folder, RandomWeights(seed=seed), workers=workers)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert (
        hashes(tmp_path / "a")["model.safetensors"] != hashes(tmp_path / "c")["model.safetensors"]
    )
    secateur.synth(model, tmp_path / "d", RandomWeights(seed=3, shard_bytes=20_000), workers=1)
    one, many = open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "d")
    assert len(many.shards) > 3
    for name in one.specs:
        assert np.array_equal(one.read(name).array, many.read(name).array), name


def test_fewer_layers_are_the_first_ones_and_the_last(real: Path, tmp_path: Path) -> None:
    from secateur.checkpoint.reader import open_shape
    from secateur.checkpoint.synthetic.fewer_layers import keep_layers

    shape = open_shape(real / "config.json")
    config = keep_layers(shape.config, shape.family, 7)
    part = config["text_config"]
    assert part["num_hidden_layers"] == 7
    assert [kind[:4] for kind in part["layer_types"]] == ["slid"] * 5 + ["full"] * 2
    assert shape.config["text_config"]["num_hidden_layers"] == 30
    for wrong in (0, 31):
        with pytest.raises(RequestError, match=f"{wrong} layers of a model that has 30"):
            keep_layers(shape.config, shape.family, wrong)


def test_layers_named_by_number_are_numbered_anew(tiny: Callable[[str], Checkpoint]) -> None:
    from secateur.checkpoint.synthetic.fewer_layers import keep_layers

    shape = tiny("qwen3_moe")
    config = {**shape.config, "mlp_only_layers": [0, 1, 2]}
    assert keep_layers(config, shape.family, 2)["mlp_only_layers"] == [0, 1]


def test_layers_with_padded_numbers_keep_what_is_their_own(
    tiny: Callable[[str], Checkpoint],
) -> None:
    """As transformers writes the numbers of 30 layers: layer 5 is "05"."""
    from secateur.checkpoint.synthetic.fewer_layers import keep_layers

    shape = tiny("gemma4")
    own = {f"{layer:02d}": {"head_dim": 32 + layer} for layer in range(5, 30, 6)}
    kinds = [("sliding", "full")[layer % 6 == 5] + "_attention" for layer in range(30)]
    config = {
        **shape.config,
        "num_hidden_layers": 30,
        "layer_types": kinds,
        "per_layer_config": own,
    }
    found = keep_layers(config, shape.family, 12)["per_layer_config"]
    assert found == {"5": {"head_dim": 37}, "11": {"head_dim": 61}}


def test_the_whole_line_runs_and_routing_is_not_degenerate(
    tiny: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    config = config_of(tiny("gemma4"), tmp_path / "config")
    changed = json.loads(config.read_text()) | {"hidden_size": 128, "num_experts": 16}
    config.write_text(json.dumps(changed))
    secateur.synth(config, tmp_path / "random", workers=1)
    rows = tmp_path / "rows.jsonl"
    ids = np.random.default_rng(0).integers(4, 56, (40, 32)).tolist()
    rows.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    found = secateur.calibrate(
        tmp_path / "random", tmp_path / "stats", Calibration(rows=rows, reroute_tokens=0), workers=1
    )
    for layer in range(3):
        share = found.count(layer).sum(0) / (40 * 32 * 2)
        assert share.min() > 0.005 and share.max() < 0.3, (layer, share)


def test_what_was_written_of_a_killed_run_is_not_written_again(
    tiny: Callable[[str], Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.checkpoint.synthetic import write

    request = RandomWeights(shard_bytes=20_000)
    secateur.synth(tiny("mixtral").path, tmp_path / "whole", request, workers=1)
    written: list[str] = []
    real_write = write._write_shard

    def stop_at_the_third(path: Path, *rest: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        real_write(path, *rest)
        written.append(path.name)

    monkeypatch.setattr(write, "_write_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        secateur.synth(tiny("mixtral").path, tmp_path / "again", request, workers=1)
    assert (tmp_path / f"again{workdir.SUFFIX}").exists()
    with pytest.raises(OutputError, match="unfinished work of another"):  # of other shards
        other = RandomWeights(shard_bytes=30_000)
        secateur.synth(tiny("mixtral").path, tmp_path / "again", other, workers=1)
    monkeypatch.setattr(
        write,
        "_write_shard",
        lambda path, *rest: (written.append(path.name), real_write(path, *rest)),
    )
    secateur.synth(tiny("mixtral").path, tmp_path / "again", request, workers=1)
    assert len(written) == len(set(written)) == len(list((tmp_path / "again").glob("*.safet*s")))
    assert hashes(tmp_path / "again") == hashes(tmp_path / "whole")


def test_refusals(real: Path, tiny: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    def make(source: File, **more: object) -> None:
        secateur.synth(Path(source), tmp_path / "new", RandomWeights(**more))  # type: ignore[arg-type]

    said: list[str] = []
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        secateur.synth(real, tmp_path / "there", on_message=said.append)
    assert not said
    with pytest.raises(RequestError, match="expected one of published, plain"):
        make(real, form="fp16")
    with pytest.raises(CheckpointError, match=r"config.json"):
        make(tmp_path / "there")


def test_a_disk_without_room_is_said_before_anything_is_written(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000_000))
    said: list[str] = []
    with pytest.raises(WriteError, match=r"50\.00 GB free, but the checkpoint takes 50\.\d\d GB"):
        secateur.synth(real, tmp_path / "big", on_message=said.append)
    assert said[0].endswith("30 layers, 657 tensors, 50.47 GB")
    assert not (tmp_path / "big").exists()


def test_a_stream_is_one_sequence_whatever_the_chunks_and_workers() -> None:
    stream = Stream("a", CHUNK + 10, Distribution("BF16", 0.0, 1.0))
    one, two = (np.concatenate(list(draw([stream], 5, workers))) for workers in (1, 3))
    assert np.array_equal(one, two)
    short = Stream("a", 1001, Distribution("BF16", 0.0, 1.0))
    assert np.array_equal(next(draw([short], 5, 1)), one[:1001])
    # What PCG64 and the table gave when this was written: another version must not change it.
    assert hashlib.sha256(one[:1000].tobytes()).hexdigest()[:16] == "379f3cfd93ee3ac5"
