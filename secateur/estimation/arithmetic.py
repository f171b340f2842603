"""Work and rates to stages: the one place where time, memory and disk are reckoned.

Every function gives one stage. `Shape` is the model's side, `Rates` the machine's.

Memory is what was found to matter (benchmarks/estimate.json compares it with what was resident):
the libraries; the hidden states up to a limit, beyond which they lie in a file; the parts of the
groups in flight; the layer without its experts, in float32; stacks of experts up to the size to
which they are read whole; for every thread a matrix of an expert and a piece of logits; and what
solving `rerouted` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.calibration.block_error import GRAMS_LIMIT, OUTPUTS_LIMIT
from secateur.checkpoint.reader import Checkpoint
from secateur.estimation.rates import Rates
from secateur.estimation.stage import Amount, Stage
from secateur.estimation.work import (
    Answering,
    Calibrating,
    LayerWork,
    Scoring,
    Work,
    Writing,
    layers_of,
)
from secateur.evaluation.floor import TOKENS as FLOOR_TOKENS
from secateur.evaluation.memory import weight_bytes
from secateur.evaluation.tokens.teacher import TOP_K
from secateur.evaluation.tokens.teacher_forced import ROWS
from secateur.formats.ggml.types import TYPES
from secateur.forward.backends.cpu import LOGITS_BYTES, count_in_flight
from secateur.forward.batches import ON_CPU
from secateur.forward.stream import HIDDEN_LIMIT
from secateur.forward.weights import EAGER_STACK_BYTES
from secateur.outputs.feedback import FACTOR_BYTES, IN_USE
from secateur.rounding.ggml_types import FEEDBACK_GRIDS

LIBRARIES = 600 << 20
"""Bytes that torch and transformers take once they are loaded."""
_IN_FLIGHT = 5
"""How many times the hidden states of a group are held while it waits."""
_BLOCKS = 12 << 20
"""Bytes that a thread that writes holds."""
FEEDBACK = 4.5
"""How many times as long a type takes with feedback, of nearest: rows 3 (IQ2_S) to 6 (Q4_0; as
benchmarks/rounding_cost.json has them), whole files of Q4_K_M 4 (rounding_speed.json)."""
_GRAMS = 4
"""How many times a thread holds a Gram matrix in float64 while it makes a factor."""
_PIECES = 2
"""How many times a piece of logits is held while the model caps them."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides time and memory. Bytes are of files and of memory."""

    layers: tuple[LayerWork, ...]
    moe_layers: int
    hidden: int
    vocab: int
    ranks_bytes: int
    stack_bytes: int
    expert_elements: int
    sums: int
    bytes: int
    whole: int


def shape_of(checkpoint: Checkpoint) -> Shape:
    """From headers."""
    family, config = checkpoint.family, checkpoint.config
    experts = [
        (spec, checkpoint.matches[name].layer)
        for name, spec in checkpoint.specs.items()
        if checkpoint.matches[name].role.startswith("expert.") and len(spec.shape) > 1
    ]
    of_a_layer = [spec for spec, layer in experts if layer == checkpoint.moe_layers[0]]
    total = sum(spec.nbytes for spec in of_a_layer)
    largest = max(spec.elements for spec in of_a_layer)
    if len(of_a_layer) <= checkpoint.experts:
        largest //= checkpoint.experts  # all experts in one tensor
    hidden = family.number(config, "hidden")
    width = family.number(config, "expert_width")
    return Shape(
        layers=layers_of(checkpoint),
        moe_layers=len(checkpoint.moe_layers),
        hidden=hidden,
        vocab=family.number(config, "vocab"),
        ranks_bytes=4 * checkpoint.experts**2 * (2 if family.post_norm is not None else 1),
        stack_bytes=total if total <= 2 * EAGER_STACK_BYTES else 0,
        expert_elements=largest,
        sums=8 * checkpoint.experts * (hidden + width) * len(checkpoint.moe_layers),
        bytes=checkpoint.nbytes,
        whole=weight_bytes(checkpoint),
    )


def stages(shape: Shape, work: Work, rates: Rates, workers: int) -> tuple[Stage, ...]:
    """All stages of some work, in the order in which they come."""
    found = []
    if work.unhashed:
        found.append(hashing(work.unhashed, rates))
    if work.calibrating is not None:
        found.append(calibrating(shape, work.calibrating, rates, workers))
    found += [writing(one, rates, workers) for one in work.writing]
    if work.answering is not None:
        found.append(answering(shape, work.answering, rates, workers))
    if work.original is not None:
        found.append(knowing(shape, work.original, rates, workers))
        found.append(flooring(shape, work.original, rates, workers))
        found += [
            measuring(name, shape, work.original, rates, workers, (reports,))
            for name, reports in work.artefacts.items()
        ]
    return tuple(found)


def hashing(unhashed: int, rates: Rates) -> Stage:
    """Reading weights once, to know which model it is."""
    seconds = unhashed / min(rates.hash, rates.read)
    work = (Amount(unhashed, "bytes"),)
    return Stage("hash weights", work, seconds, LIBRARIES // 4, 0, ("hash weights",))


def calibrating(shape: Shape, work: Calibrating, rates: Rates, workers: int) -> Stage:
    """The calibration pass, and solving `rerouted` in every MoE layer. Gram matrices are written
    once, layer by layer."""
    per_token = sum(layer.flops for layer in shape.layers)
    computed = _pass_seconds(work.at_a_time, rates) + work.at_a_time * rates.gram * (work.gram > 0)
    passed = work.parts * (
        rates.start + max(computed, _read_seconds(shape, rates)) + work.gram_bytes / rates.write
    )
    solved = (rates.solve * work.sampled + rates.solve_layer) * shape.moe_layers
    flops = work.tokens * (per_token + work.gram) + work.sampled * work.solving * shape.moe_layers
    memory = _forward_memory(shape, work.at_a_time, workers) + 2 * shape.sums
    memory += (1 + _groups(shape, workers)) * work.gram_bytes // len(shape.layers)
    if work.sampled:
        grams = min(GRAMS_LIMIT, work.sampled * shape.ranks_bytes)
        memory += OUTPUTS_LIMIT + grams + 10 * work.sampled * shape.hidden
    return Stage(
        "calibrate",
        (Amount(work.tokens, "tokens"), Amount(flops / 1e12, "TFLOP")),
        passed + solved * (work.sampled > 0),
        memory,
        (1 if work.parts == 1 else 1 + work.parts) * (shape.sums + work.gram_bytes),
        ("calibrate",),
    )


def writing(work: Writing, rates: Rates, workers: int) -> Stage:
    """The passes over the weights that write outputs. Blocks are read ahead, and what is written
    is flushed, while others are encoded and hashed: what takes longer counts, disks or cores."""
    slowest = max(rates.encode.values(), default=0.0)
    computed = work.written / rates.hash + sum(
        n
        * rates.encode.get(kind, slowest)
        * (FEEDBACK if work.feedback and _takes_feedback(kind) else 1)
        for kind, n in work.elements.items()
    )
    seconds = max(computed, (work.read + work.written) / rates.copy)
    memory = LIBRARIES // 2 + workers * _BLOCKS
    if work.feedback:
        factor = 4 * work.feedback**2
        factors = IN_USE * len(set(map(_division_of, filter(_takes_feedback, work.elements))))
        memory += max(FACTOR_BYTES, factors * factor) + workers * _GRAMS * 2 * factor
    return Stage(
        f"write {work.name}",
        (Amount(work.written, "bytes"),),
        seconds,
        memory,
        work.written,
        (f"write {work.name}",),
    )


def answering(shape: Shape, work: Answering, rates: Rates, workers: int) -> Stage:
    """The original answers prompts, whole in memory; at most, since answers may end early."""
    batches = -(-work.prompts // work.batch)
    rounds = -(-batches // workers)
    seconds = rounds * work.answer_tokens * rates.step + shape.whole / rates.read
    seconds += _pass_seconds(work.prompt_tokens, rates)
    tokens = work.prompts * work.answer_tokens
    longest = work.answer_tokens + work.prompt_tokens // max(1, work.prompts)
    memory = LIBRARIES + shape.whole + workers * work.batch * longest * shape.hidden * 8
    return Stage(
        "answers", (Amount(tokens, "tokens"),), seconds, memory, 0, ("answers",), at_most=True
    )


def knowing(shape: Shape, work: Scoring, rates: Rates, workers: int) -> Stage:
    """What the original says of every token of the answers."""
    kept = work.scored * (8 * min(TOP_K, shape.vocab) + 16)
    return _scoring("original", shape, work, rates, workers, kept, ("original",))


def flooring(shape: Shape, work: Scoring, rates: Rates, workers: int) -> Stage:
    """The original in another kernel, over a part of the tokens."""
    share = min(1.0, FLOOR_TOKENS / max(1, work.scored))
    part = Scoring(int(share * work.tokens), int(share * work.scored))
    return _scoring("floor", shape, part, rates, workers, 40 * part.scored, ("floor",))


def measuring(
    name: str, shape: Shape, work: Scoring, rates: Rates, workers: int, reports: Sequence[str]
) -> Stage:
    """An artefact is run over the answers, and compared."""
    return _scoring(f"measure {name}", shape, work, rates, workers, 40 * work.scored, reports)


def _scoring(
    name: str,
    shape: Shape,
    work: Scoring,
    rates: Rates,
    workers: int,
    disk: int,
    reports: Sequence[str],
) -> Stage:
    each = max(_pass_seconds(work.at_a_time, rates), _read_seconds(shape, rates)) + rates.start
    seconds = work.parts * each + work.scored * rates.head
    flops = work.tokens * sum(layer.flops for layer in shape.layers)
    flops += 2.0 * work.scored * shape.vocab * shape.hidden
    memory = _forward_memory(shape, work.at_a_time, workers)
    memory += workers * _PIECES * min(LOGITS_BYTES, 4 * ROWS * shape.vocab)
    memory += work.scored * 8 * min(TOP_K, shape.vocab)
    return Stage(
        name,
        (Amount(work.tokens, "tokens"), Amount(flops / 1e12, "TFLOP")),
        seconds,
        memory,
        disk,
        tuple(reports),
    )


def hidden_file(shape: Shape, tokens: int) -> int:
    """Bytes of the file of hidden states; 0 where they stay in memory."""
    held = 4 * tokens * shape.hidden
    return held if held > HIDDEN_LIMIT else 0


def _takes_feedback(kind: str) -> bool:
    """Whether feedback chooses the codes of a type: those of MLX's all."""
    return kind in FEEDBACK_GRIDS or kind not in TYPES


def _division_of(kind: str) -> object:
    """How a type divides a row: each division has a factor of its own."""
    return FEEDBACK_GRIDS[kind].groups if kind in FEEDBACK_GRIDS else kind.rpartition("-")[2]


def kept_states(shape: Shape, tokens: int) -> int:
    """Bytes of the hidden states that a calibration keeps to go on after its last layer: those
    after two layers, for a moment (calibration.pass_folder)."""
    return 2 * 4 * tokens * shape.hidden


def _pass_seconds(tokens: int, rates: Rates) -> float:
    """Of all layers, without reading them."""
    if tokens >= rates.group:
        return sum(rates.layers.values()) * tokens / rates.group
    few = sum(rates.rest.values())
    fixed = sum(rates.layers.values()) - few * rates.group
    return max(0.0, fixed) * min(1, tokens) + few * tokens


def _read_seconds(shape: Shape, rates: Rates) -> float:
    """Of all weights. A worker that waits for the disk leaves the cores to others, and the system
    reads ahead: it is counted where it takes longer than computing."""
    return shape.bytes / rates.read


def _groups(shape: Shape, workers: int) -> int:
    """Groups on their way through a layer, where documents are short."""
    members = max(1, ON_CPU.group // ON_CPU.largest(shape.hidden))
    return count_in_flight(workers, members)


def _forward_memory(shape: Shape, tokens: int, workers: int) -> int:
    hidden = min(4 * tokens * shape.hidden, HIDDEN_LIMIT)
    group = min(tokens, _groups(shape, workers) * ON_CPU.group)
    return (
        LIBRARIES
        + hidden
        + _IN_FLIGHT * 4 * group * shape.hidden
        + 4 * max(layer.dense for layer in shape.layers)
        + shape.stack_bytes
        + 2 * workers * 4 * shape.expert_elements
    )
