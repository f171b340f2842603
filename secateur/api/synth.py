"""`synth`: a checkpoint of random weights with a real model's names, types and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secateur.api.models import File
from secateur.checkpoint.companion_files import companion_files
from secateur.checkpoint.config_check import check_config
from secateur.checkpoint.hub import CONFIG, GEMMULE, gemmule_folder, refuse_revision, resolve
from secateur.checkpoint.reader import read_config
from secateur.checkpoint.synthetic.design import Form, design
from secateur.checkpoint.synthetic.fewer_layers import keep_layers
from secateur.checkpoint.synthetic.forms import (
    FORMS,
    choose_form,
    config_of_form,
    without_undescribed,
)
from secateur.checkpoint.synthetic.write import RandomModel, in_shards, write_random
from secateur.checkpoint.writer import SHARD_LIMIT
from secateur.errors import RequestError
from secateur.families.registry import family_of
from secateur.system.progress import Progress, no_progress
from secateur.system.resources import cores
from secateur.system.sizes import show_bytes, show_count
from secateur.system.workdir import refuse_existing


@dataclass(frozen=True)
class RandomWeights:
    """What a random checkpoint is like: how many of the config's layers it has (None: all), which
    `seed` its numbers follow from, and in which form it is stored.

    The forms are `published` (as the config's publisher stores it), `plain` (16 bits under the
    publisher's names), `stacked` (16 bits, the experts of a layer in one tensor), `fp8` and `mxfp4`
    where the family is published so. Shards take at most `shard_bytes`.
    """

    layers: int | None = None
    seed: int = 0
    form: Form = "published"
    shard_bytes: int = SHARD_LIMIT

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise RequestError(f"form {self.form!r}: expected one of {', '.join(FORMS)}")


def synth(
    config: str | Path,
    out: File,
    request: RandomWeights = RandomWeights(),  # noqa: B008 - frozen
    *,
    revision: str | None = None,
    family: File | None = None,
    workers: int | None = None,
    on_message: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> RandomModel:
    """Write random weights for a config into the new folder `out`, with the tokenizer and templates
    that lie next to it.

    `config` is a config.json, a folder or a hub id (of which only the small files are fetched).
    The same config, request and version give the same bytes. `on_message` is called with the size
    before anything is written. Raises CheckpointError for a config that no family describes,
    RequestError for layers or a form that it has not, OutputError when `out` exists, WriteError
    when the disk has not enough room.
    """
    out = Path(out)
    refuse_existing(out)
    file = _find_config(config, revision)
    read = read_config(file)
    described = family_of(read, None if family is None else Path(family), file)
    check_config(read, described, file)
    form = choose_form(described, read, request.form, file)
    whole, lacking = without_undescribed(described, read)
    cut = keep_layers(whole, described, request.layers)
    stored = config_of_form(described, cut, form, file)
    tensors, notes = design(described, config_of_form(described, cut, "plain", file), file, form)
    layers = described.number(cut, "layers")
    model = RandomModel(
        stored,
        in_shards(tensors, request.shard_bytes),
        request.seed,
        f"Random weights (seed {request.seed}, form {form}) with the shapes of "
        f"{described.title}, {show_count(layers, 'layer')}: made by `secateur synth` to try things "
        "with, it has learnt nothing.",
        file.parent,
    )
    on_message(
        f"{out}: {show_count(layers, 'layer')}, {show_count(len(tensors), 'tensor')}, "
        f"{show_bytes(model.nbytes)}"
    )
    for note in (*lacking, *notes):
        on_message(f"note: {note}")
    if not any(name.startswith("tokenizer") for name in companion_files(file.parent)):
        on_message(
            f"note: {file.parent} has no tokenizer: calibrate what is written with --rows of token "
            "numbers"
        )
    write_random(model, out, workers or cores(), progress)
    return model


def _find_config(source: str | Path, revision: str | None) -> Path:
    if Path(source).is_file():
        refuse_revision(source, revision)
        return Path(source)
    if str(source) == GEMMULE:
        refuse_revision(source, revision)
        return gemmule_folder() / CONFIG
    return resolve(source, revision, weights=False)[0] / CONFIG
