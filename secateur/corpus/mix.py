"""A mix: the YAML file that says which texts calibrate a model, and how many of each.

    name: my-mix
    seed: 42
    sequence_length: 2048
    tokens: 48600
    sources:
      - {name: chat, path: chat.jsonl, weight: 0.7}
      - {name: code, hub: owner/name, fields: {text: content}, weight: 0.3}

A mix is named by its path or, if it comes with secateur, by its name; a job file may hold one.
Paths in it are relative to the file, or to the `folder` that it names. A .jsonl or .txt file in
the place of a mix is a mix of that one source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from secateur.corpus.fields import FIELDS, Fields, parse_fields
from secateur.errors import CorpusError
from secateur.system.settings import Settings, read_yaml

MIXES = Path(__file__).parent / "mixes"

Overlong = Literal["split", "truncate", "drop"]
MIX_KEYS = {
    "name": "what the mix is called; the file's name by default",
    "description": "for people",
    "folder": "what the paths of its sources are relative to; the file's folder by default",
    "seed": "decides which documents are taken, and their order; 42 by default",
    "sequence_length": "tokens of a row; 2048 by default",
    "overlong": "what becomes of longer documents: split (default), truncate or drop",
    "pack": "true (default): several documents in a row; false: one each",
    "tokens": "tokens in all, shared out by each source's `weight`",
    "thought": "how a thought before an answer is written, with {thought} once in it; by default "
    "as the model's chat template does",
    "sources": "the list of sources, at least one",
}
"""The keys of a mix, and what each holds."""

SOURCE_KEYS = {
    "name": "what the source is called; required, and unlike any other",
    "path": "a .jsonl file, a text file, or a folder that `datasets` reads; either this or `hub`",
    "hub": "a data set of the hub, owner/name (`pip install 'secateur[hub-data]'`)",
    "config": "the data set's configuration, where it has several",
    "split": "its split; train by default",
    "revision": "its commit, branch or tag",
    "category": "the category of all its documents; the source's name by default",
    "category_field": "the field of a record that names its category, instead",
    "fields": "which fields of a record are used, and how; see below",
    "samples": "documents to take; without `samples`, `tokens` and `weight` all of them",
    "tokens": "tokens to take, instead",
    "weight": "share of the mix's `tokens`, instead",
    "allow_short": "true: fewer than asked for is a warning; false (default): an error",
    "separator": "text files only: what stands between two documents",
    "thought_tags": "[opening, closing]: what stands around a thought inside an answer",
    "template": "arguments of the chat template, as in {enable_thinking: true}",
}
"""The keys of a source of a mix, and what each holds."""

_DEFAULT_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Source:
    """One named source. One of `path` and `hub` is set, one of `category` and `category_field`,
    and at most one of `samples` and `tokens`; neither means all of it. `location` is the path
    or the id as the mix gives it.
    """

    name: str
    location: str
    path: Path | None
    hub: str | None
    config: str | None
    split: str
    revision: str | None
    category: str | None
    category_field: str | None
    fields: Fields
    samples: int | None
    tokens: int | None
    allow_short: bool
    separator: str | None
    thought_tags: tuple[str, str] | None
    template: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of a record that are looked at."""
        category = () if self.category_field is None else (self.category_field,)
        return (*self.fields.columns, *category)


@dataclass(frozen=True, slots=True)
class Mix:
    """A checked mix; weights are resolved to tokens. `thought`: see `thoughts.py`.

    `folder`: what the paths of its sources are relative to.
    """

    name: str
    folder: Path
    seed: int
    sequence_length: int
    overlong: Overlong
    pack: bool
    thought: str | None
    sources: tuple[Source, ...]
    description: str = ""


def list_mixes() -> tuple[str, ...]:
    """The names of the mixes that come with secateur."""
    return tuple(sorted(path.stem for path in MIXES.glob("*.yaml")))


def read_mix(name: str | Path | Mix) -> Mix:
    """Read a mix by path or name. A .jsonl or .txt file is a mix of that one source.

    Raises CorpusError with the file, the source and the key that is wrong.
    """
    if isinstance(name, Mix):
        return name
    path = Path(name)
    if path.suffix in (".jsonl", ".txt"):
        return parse_mix({"sources": [{"name": path.stem, "path": path.name}]}, path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in list_mixes():
            raise CorpusError(
                f"no mix is called {str(name)!r}; give a .yaml, .jsonl or .txt file, or one of "
                f"{', '.join(list_mixes())}"
            )
        path = MIXES / f"{name}.yaml"
    return parse_mix(read_yaml(path, CorpusError), path)


class _Share(NamedTuple):
    source: Source
    weight: Fraction


def parse_mix(content: object, path: Path, where: str | None = None) -> Mix:
    """The mix in the content of a YAML file at `path`; `where` is what errors call it.

    Raises CorpusError as `read_mix` does.
    """
    where = where or str(path)
    for key in content if isinstance(content, dict) else ():
        if key in SOURCE_KEYS and key not in MIX_KEYS:
            raise CorpusError(f"{where}: `{key}` belongs in a source: put it under `sources`")
    given = Settings.of(content, where, MIX_KEYS, CorpusError)
    entries = given.listing("sources")
    if not entries:
        raise CorpusError(f"{where}: no sources; list at least one under `sources`")
    total = given.whole("tokens", 1)
    folder = path.parent / (given.text("folder") or "")
    shares = [
        _parse_source(entry, f"{where}: sources[{index}]", folder, total)
        for index, entry in enumerate(entries)
    ]
    names = [share.source.name for share in shares]
    for name in names:
        if names.count(name) > 1:
            raise CorpusError(f"{where}: two sources are called {name!r}; names must differ")
    thought = given.text("thought")
    if thought is not None and thought.count("{thought}") != 1:
        raise CorpusError(f"{where}: thought is {thought!r:.60}, expected {{thought}} once in it")
    return Mix(
        name=given.text("name") or path.stem,
        folder=folder,
        seed=42 if (seed := given.whole("seed", 0)) is None else seed,
        sequence_length=given.whole("sequence_length", 1) or 2048,
        overlong=cast(Overlong, given.choice("overlong", ("split", "truncate", "drop"))),
        pack=given.flag("pack", True),
        thought=thought,
        sources=_share_out(total, shares, where),
        description=" ".join((given.text("description") or "").split()),
    )


def _share_out(total: int | None, shares: list[_Share], where: str) -> tuple[Source, ...]:
    """The sources, with `total` tokens divided by weight; the parts add up to it exactly."""
    if total is None:
        return tuple(share.source for share in shares)
    sum_of_weights = sum((share.weight for share in shares), Fraction())
    sources: list[Source] = []
    before = Fraction()
    for source, weight in shares:
        start = round(total * before / sum_of_weights)
        before += weight
        tokens = round(total * before / sum_of_weights) - start
        if tokens < 1:
            raise CorpusError(
                f"{where}: source {source.name!r}: its weight leaves it none of {total} tokens"
            )
        sources.append(replace(source, tokens=tokens))
    return tuple(sources)


def _parse_source(entry: object, where: str, folder: Path, total: int | None) -> _Share:
    for key in entry if isinstance(entry, dict) else ():
        if key in MIX_KEYS and key not in SOURCE_KEYS:
            raise CorpusError(f"{where}: `{key}` is of the whole mix: put it above `sources`")
    given = Settings.of(entry, where, SOURCE_KEYS, CorpusError)
    name = given.text("name")
    if name is None:
        raise CorpusError(f"{given.where}: no name; every source needs one")
    where = f"{where.rpartition(': ')[0]}: source {name!r}"
    given = replace(given, where=where)
    path, hub = given.text("path"), given.text("hub")
    location = path if hub is None else hub
    if location is None or (path is not None and hub is not None):
        raise CorpusError(f"{where}: give either `path` or `hub`")
    if hub is None and "revision" in given.values:
        raise CorpusError(f"{where}: `revision` goes with `hub`; a path is pinned by its hash")
    if path is not None and path.endswith(".jsonl"):
        named = {key: value for key, value in given.values.items() if value != _DEFAULT_SPLIT}
        if odd := [key for key in ("separator", "config", "split") if key in named]:
            raise CorpusError(
                f"{where}: `{odd[0]}` decides nothing for a .jsonl file: leave it out"
            )
    category, category_field = given.text("category"), given.text("category_field")
    if category is not None and category_field is not None:
        raise CorpusError(f"{where}: give `category` or `category_field`, not both")
    source = Source(
        name=name,
        location=location,
        path=None if path is None else folder / path,
        hub=hub,
        config=given.text("config"),
        split=given.text("split") or _DEFAULT_SPLIT,
        revision=given.text("revision"),
        category=name if category is None and category_field is None else category,
        category_field=category_field,
        fields=parse_fields(given.pairs("fields") or FIELDS, where),
        samples=given.whole("samples", 1),
        tokens=given.whole("tokens", 1),
        allow_short=given.flag("allow_short", False),
        separator=given.text("separator"),
        thought_tags=_parse_tags(given),
        template=given.pairs("template") or {},
    )
    return _Share(source, _parse_weight(given, total))


def _parse_weight(given: Settings, total: int | None) -> Fraction:
    amounts = [key for key in ("samples", "tokens", "weight") if key in given.values]
    if len(amounts) > 1:
        raise CorpusError(f"{given.where}: give {amounts[0]} or {amounts[1]}, not both")
    if total is not None and amounts != ["weight"]:
        raise CorpusError(f"{given.where}: the mix shares out `tokens`, so give its `weight`")
    if total is None and amounts == ["weight"]:
        raise CorpusError(f"{given.where}: `weight` is a share of the mix's `tokens`; give those")
    weight = given.values.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
        raise CorpusError(f"{given.where}: weight is {weight!r:.60}, expected a number above 0")
    return Fraction(str(weight))


def _parse_tags(given: Settings) -> tuple[str, str] | None:
    tags = given.listing("thought_tags")
    if tags is None:
        return None
    if len(tags) != 2 or not all(isinstance(tag, str) and tag for tag in tags):
        raise CorpusError(
            f"{given.where}: thought_tags is {tags!r:.60}, expected [opening, closing]"
        )
    return (tags[0], tags[1])
