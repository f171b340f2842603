"""The rerouted criterion against brute force: the model's own layers with their router masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_experts import Masked
from tiny_models import EXPERTS, FAMILIES, HIDDEN, TOP_K, VOCAB, load

from secateur.calibration import routing as routing_file
from secateur.calibration.block_error import (
    GRAMS_LIMIT,
    BlockError,
    against_original,
    make_grams,
    most_tokens,
    read_norm,
)
from secateur.calibration.removal_kernels import list_candidates, update
from secateur.calibration.removal_search import (
    LayerSample,
    Objective,
    Search,
    balance_weights,
    count_flops,
    solve_layer,
)
from secateur.calibration.removal_state import list_holders
from secateur.calibration.routing import Routing, apply_rule, rank_experts, routing_of
from secateur.checkpoint.reader import Checkpoint
from secateur.errors import FamilyError, NumericError

TINY = Callable[[str], Checkpoint]
TOKENS = 40


@pytest.fixture(autouse=True)
def all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every expert is run on every token, so that any set can be compared with the model's own."""
    monkeypatch.setattr(routing_file, "SPARE_RANKS", EXPERTS)


@dataclass(frozen=True)
class Layer:
    """One MoE layer of a loaded model, and what 40 tokens brought to it."""

    router: torch.nn.Module
    router_input: torch.Tensor
    experts: torch.nn.Module
    post_norm: torch.nn.Module | None
    routing: Routing
    sample: LayerSample
    bias: torch.Tensor | None

    def output(self, alive: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What the branch gives when the router cannot choose the others, by the model's code."""
        weight = next(p for p in self.router.parameters() if p.shape == (EXPERTS, HIDDEN))
        dropped = np.flatnonzero(~alive).tolist()
        saved = None if self.bias is None else self.bias.clone()
        try:
            if self.bias is not None:
                self.bias[dropped] = -torch.inf
            with torch.no_grad(), Masked({weight.data_ptr(): dropped}) as masked:
                _, gates, chosen = self.router(self.router_input)
                assert masked.calls == 1
                assert not set(chosen.reshape(-1).tolist()) & set(dropped)
                result = self.experts(self.sample.inputs, chosen, gates)
                if self.post_norm is not None:
                    result = self.post_norm(result)
        finally:
            if self.bias is not None and saved is not None:
                self.bias.copy_(saved)
        return np.asarray(result.numpy(), np.float64)

    def error(self, workers: int = 1) -> BlockError:
        sample = self.sample
        ranked = rank_experts(self.routing, sample.scores, sample.experts)
        scored = apply_rule(self.routing, ranked, sample.scores, sample.experts, sample.gates)
        norm = read_norm(self.post_norm)
        order = ranked.order[:, : self.routing.ranks(EXPERTS)]
        grams = make_grams(self.experts, norm, sample.inputs, order, workers)
        return against_original(grams, (self.routing, scored), HIDDEN, norm)()


def observe(checkpoint: Checkpoint, layer: int, **changes: Any) -> Layer:
    """Run the model and note what one of its MoE layers sees and chooses."""
    model: Any = load(checkpoint.path)
    family = checkpoint.family
    router = model.get_submodule(family.fill(family.router.module, layer))
    for name, value in changes.items():
        setattr(router, name, value)
    seen: dict[str, Any] = {}
    experts = next(
        module
        for name, module in model.named_modules()
        if name.endswith("experts") and f"layers.{layer}." in name
    )
    router.register_forward_hook(lambda _, given, got: seen.update(x=given[0], router=got))
    experts.register_forward_hook(lambda _, given, __: seen.update(inputs=given[0]))
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCAB - 8, (TOKENS // 10, 10), generator=generator)
    with torch.no_grad():
        model(input_ids=ids)
    first, gates, chosen = seen["router"]
    bias = None
    if family.router.bias is not None:
        path = family.fill(family.router.bias, layer)
        bias = model.get_submodule(path.rpartition(".")[0])._buffers[path.rpartition(".")[2]]
    routing = routing_of(family, checkpoint.config, None if bias is None else bias.double())
    norm = model.get_submodule(family.fill(family.post_norm, layer)) if family.post_norm else None
    sample = LayerSample(
        inputs=seen["inputs"].reshape(-1, HIDDEN),
        scores=first.log() if family.router.output == "probabilities" else first,
        experts=chosen,
        gates=gates,
        categories=torch.arange(TOKENS) % 3,
        weights=torch.ones(TOKENS),
    )
    shaped = seen["x"].reshape(-1, HIDDEN)
    return Layer(router, shaped, experts, norm, routing, sample, bias)


def survivors(seed: int, routing: Routing) -> Iterator[NDArray[np.bool_]]:
    """Random sets, groups of equal size."""
    generator = np.random.default_rng(seed)
    size = EXPERTS // routing.groups
    for members in range(-(-routing.fewest // routing.groups), size + 1):
        for _ in range(4):
            alive = np.zeros((routing.groups, size), np.bool_)
            for group in alive:
                group[generator.permutation(size)[:members]] = True
            yield alive.reshape(-1)


def expected_errors(layer: Layer, alive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Relative squared error per category, by running the layer."""
    original = layer.output(np.ones(EXPERTS, np.bool_))
    changed = ((layer.output(alive) - original) ** 2).sum(-1)
    energy = (original**2).sum(-1)
    category = layer.sample.categories.numpy()
    weights = balance_weights(layer.sample)
    return np.array(
        [
            (weights * changed)[category == c].sum() / (weights * energy)[category == c].sum()
            for c in range(3)
        ]
    )


def search_of(layer: Layer) -> Search:
    return Search(layer.error(), layer.sample.categories.numpy(), balance_weights(layer.sample), 3)


@pytest.mark.parametrize("form", FAMILIES)
def test_error_of_any_survivors_is_that_of_the_masked_layer(form: str, tiny: TINY) -> None:
    layer = observe(tiny(form), 2)
    search = search_of(layer)
    for alive in survivors(1, layer.routing):
        got, _ = search.errors(search.state(alive))
        np.testing.assert_allclose(got, expected_errors(layer, alive), rtol=1e-4, atol=2e-6)


def test_softmax_over_all_experts_rescales_the_untouched(tiny: TINY) -> None:
    layer = observe(tiny("qwen3_moe"), 2, norm_topk_prob=False)
    layer = replace(layer, routing=replace(layer.routing, normalise="all"))
    search = search_of(layer)
    for alive in survivors(1, layer.routing):
        got, _ = search.errors(search.state(alive))
        np.testing.assert_allclose(got, expected_errors(layer, alive), rtol=1e-4, atol=2e-6)
        if alive.sum() > TOP_K:
            check_removals(search, alive)


def test_ranks_beyond_the_first_change_no_token_that_finds_its_experts(
    tiny: TINY, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = observe(tiny("gemma4"), 2)
    whole = search_of(layer)
    monkeypatch.setattr(routing_file, "SPARE_RANKS", 2)
    part = search_of(layer)
    assert [len(one.tokens.raw[0]) for one in (whole, part)] == [EXPERTS + 1, 5]
    for alive in survivors(3, layer.routing):
        expected, got = whole.state(alive), part.state(alive)
        covered = alive[whole.tokens.order[:, :4]].sum(-1) >= TOP_K
        np.testing.assert_allclose(
            got.terms[covered, :, 0], expected.terms[covered, :, 0], rtol=1e-5, atol=1e-9
        )
        assert np.isfinite(part.errors(got)[1]).all()


@pytest.mark.parametrize("form", FAMILIES)
def test_price_of_a_removal_is_the_error_after_it(form: str, tiny: TINY) -> None:
    layer = observe(tiny(form), 2)
    search = search_of(layer)
    for alive in survivors(2, layer.routing):
        if alive.sum() > layer.routing.fewest:
            check_removals(search, alive)


def check_removals(search: Search, alive: NDArray[np.bool_]) -> None:
    _, errors = search.errors(search.state(alive))
    for expert in np.flatnonzero(list_candidates(alive, search.routing.groups)):
        less = alive.copy()
        less[expert] = False
        expected, _ = search.errors(search.state(less))
        np.testing.assert_allclose(errors[:, expert], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FAMILIES)
def test_prices_kept_from_step_to_step_are_those_made_anew(form: str, tiny: TINY) -> None:
    search = search_of(observe(tiny(form), 2))
    keep = search.remove("pooled").keep
    state = search.state(keep[EXPERTS])
    for kept in range(EXPERTS - 1, search.routing.fewest - 1, -1):
        gone = int(np.flatnonzero(keep[kept + 1] & ~keep[kept])[0])
        state.alive[gone] = False
        candidates = list_candidates(state.alive, search.routing.groups)
        update(search.tokens, search.rule, state, candidates, gone)
        anew = search.state(keep[kept])
        assert np.array_equal(state.relevant, anew.relevant)
        of_all = np.insert(anew.relevant >= 0, 0, True, -1)
        assert np.array_equal(state.errors[of_all], anew.errors[of_all])
        (now, less), (now_anew, less_anew) = search.errors(state), search.errors(anew)
        np.testing.assert_allclose(now, now_anew, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            less[:, state.alive], less_anew[:, state.alive], rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize("form", FAMILIES)
@pytest.mark.parametrize("objective", ["pooled", "worst"])
def test_the_least_missed_goes_first(form: str, objective: Objective, tiny: TINY) -> None:
    search = search_of(observe(tiny(form), 2))
    removal = search.remove(objective)
    alive = np.ones(EXPERTS, np.bool_)
    for kept in range(EXPERTS, search.routing.fewest, -1):
        assert np.array_equal(removal.keep[kept], alive)
        now, errors = search.errors(search.state(alive))
        np.testing.assert_allclose(removal.errors_by_category[kept], now, rtol=1e-10, atol=1e-13)
        pooled = search.share @ errors
        price = pooled if objective == "pooled" else errors.max(0)
        candidates = np.flatnonzero(list_candidates(alive, search.routing.groups))
        gone = min(candidates.tolist(), key=lambda one: (price[one], pooled[one], one))
        assert removal.scores[gone] == EXPERTS - kept
        alive[gone] = False
    assert np.array_equal(removal.keep[search.routing.fewest], alive)


@pytest.mark.parametrize("one_category", [False, True])
def test_objectives_solved_together_are_those_solved_alone(one_category: bool, tiny: TINY) -> None:
    layer = observe(tiny("gemma4"), 2)
    if one_category:  # they never part
        categories = torch.zeros(TOKENS, dtype=torch.int64)
        layer = replace(layer, sample=replace(layer.sample, categories=categories))
    search = search_of(layer)
    for objective, together in search.solve(2).items():
        alone = search.remove(objective)
        for name, value in vars(alone).items():
            assert getattr(together, name).tobytes() == value.tobytes(), name


def test_holders_of_an_expert_are_the_tokens_that_rank_it() -> None:
    order = np.array([[2, 0], [3, 2], [0, 2]], np.int16)
    starts, holders, held = list_holders(order, 5)
    assert starts.tolist() == [0, 2, 2, 5, 6, 6]
    assert holders.tolist() == [0, 2, 0, 1, 2, 1]
    assert held.tolist() == [1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("form", FAMILIES)
def test_removal_is_solved_for_every_count(form: str, tiny: TINY) -> None:
    layer = observe(tiny(form), 2)
    removals = solve_layer(
        layer.experts,
        read_norm(layer.post_norm),
        layer.routing,
        layer.sample,
        categories=3,
        workers=2,
    )
    for removal in removals.values():
        fewest = layer.routing.fewest
        assert removal.keep.sum(-1).tolist() == [0] * fewest + list(range(fewest, EXPERTS + 1))
        assert np.isnan(removal.errors[:fewest]).all()
        assert removal.errors[EXPERTS] < 1e-12
        assert sorted(removal.scores.tolist()) == list(range(EXPERTS))
        for kept in range(fewest, EXPERTS + 1, layer.routing.groups):
            groups = removal.keep[kept].reshape(layer.routing.groups, -1).sum(-1)
            assert len(set(groups.tolist())) == 1
            expected = expected_errors(layer, removal.keep[kept])
            np.testing.assert_allclose(
                removal.errors_by_category[kept], expected, rtol=1e-4, atol=2e-6
            )
            by_score = removal.scores.reshape(layer.routing.groups, -1).argsort(-1).argsort(-1)
            in_group = EXPERTS // layer.routing.groups
            stay = by_score >= in_group - kept // layer.routing.groups
            assert np.array_equal(removal.keep[kept], stay.reshape(-1))
    kept = EXPERTS // 2
    assert removals["pooled"].errors[kept] <= removals["worst"].errors[kept] + 1e-12


def test_greedy_is_close_to_the_best_of_all_sets(tiny: TINY) -> None:
    search = search_of(observe(tiny("gemma4"), 1))
    removal = search.remove("pooled")
    for kept in range(TOP_K, EXPERTS):
        errors = []
        for members in combinations(range(EXPERTS), kept):
            alive = np.isin(np.arange(EXPERTS), members)
            state = search.state(alive)
            errors.append(float(search.errors(state)[0] @ search.share))
        assert min(errors) <= removal.errors[kept] + 1e-12
        assert removal.errors[kept] <= 1.05 * min(errors)
        assert removal.errors[kept] < np.median(errors)


def test_result_does_not_depend_on_workers_or_torch_threads(tiny: TINY) -> None:
    layer = observe(tiny("gemma4"), 1)
    threads = torch.get_num_threads()
    results = []
    try:
        for workers, inside in ((1, 1), (2, 2), (5, 1)):
            torch.set_num_threads(inside)
            results.append(layer.error(workers))
            assert torch.get_num_threads() == inside
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert other.plain.tobytes() == results[0].plain.tobytes()
        assert other.weighted.tobytes() == results[0].weighted.tobytes()


@pytest.mark.parametrize("form", ["mixtral", "deepseek_v3"])
def test_removals_do_not_depend_on_workers_or_torch_threads(form: str, tiny: TINY) -> None:
    layer = observe(tiny(form), 2)
    many = {name: torch.cat([value] * 64) for name, value in vars(layer.sample).items()}
    threads, results = torch.get_num_threads(), []
    try:
        for workers, inside in ((1, 1), (2, 2), (3, 4)):
            torch.set_num_threads(inside)
            found = solve_layer(
                layer.experts,
                read_norm(layer.post_norm),
                layer.routing,
                LayerSample(**many),
                categories=3,
                workers=workers,
            )
            results.append([a.tobytes() for one in found.values() for a in vars(one).values()])
            assert torch.get_num_threads() == inside
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_weights_and_categories_count_as_repeated_tokens(tiny: TINY) -> None:
    layer = observe(tiny("gemma4"), 1)
    twice = torch.cat([torch.arange(TOKENS), torch.arange(10)])
    fields = {name: value[twice] for name, value in vars(layer.sample).items()}
    repeated = replace(layer, sample=LayerSample(**fields))
    found = []
    for one in (layer, repeated):
        weights = np.ones(len(one.sample.weights))
        weights[:10] *= 2.0 if one is layer else 1.0
        search = Search(one.error(), one.sample.categories.numpy(), weights, 3)
        found.append(search.remove("worst"))
    assert np.array_equal(found[0].keep, found[1].keep)
    np.testing.assert_allclose(
        found[0].errors_by_category, found[1].errors_by_category, rtol=1e-6, atol=1e-9
    )


def test_tokens_of_rare_experts_count_more() -> None:
    experts = torch.tensor([[0, 1], [0, 1], [0, 1], [2, 3]])
    sample = LayerSample(
        inputs=torch.zeros(4, HIDDEN),
        scores=torch.zeros(4, 4),
        experts=experts,
        gates=torch.tensor([[1.0, 3.0]] * 4),
        categories=torch.zeros(4, dtype=torch.int64),
        weights=torch.tensor([1.0, 1.0, 2.0, 1.0]),
    )
    often, seldom = (3 * 4 / 8) ** -0.5, (1 * 4 / 8) ** -0.5
    np.testing.assert_allclose(balance_weights(sample), [often, often, 2 * often, seldom])


@pytest.mark.parametrize(
    "wrong",
    [
        {"normalise": "none"},
        {"score": "sigmoid"},
        {"constants": torch.linspace(1.0, 2.0, EXPERTS).double()},
    ],
)
def test_a_rule_that_is_not_the_routers_is_an_error(wrong: dict[str, Any], tiny: TINY) -> None:
    layer = observe(tiny("mixtral"), 2)
    with pytest.raises(NumericError, match="family file is wrong"):
        replace(layer, routing=replace(layer.routing, **wrong)).error()


def test_a_wrong_choice_rule_is_an_error(tiny: TINY) -> None:
    layer = observe(tiny("deepseek_v3"), 2)
    with pytest.raises(NumericError, match="but the model chose"):
        replace(layer, routing=replace(layer.routing, groups=1, used_groups=1)).error()


def test_an_unseen_experts_factor_must_be_given(tiny: TINY) -> None:
    layer = observe(tiny("gemma4"), 1)
    few = {name: value[:1] for name, value in vars(layer.sample).items()}
    lonely = replace(layer, sample=LayerSample(**few))
    with pytest.raises(NumericError, match="pass them as constants"):
        lonely.error()
    router: Any = layer.router
    scale = router.per_expert_scale.detach().double()
    replace(lonely, routing=replace(lonely.routing, constants=scale)).error()


def test_a_norm_that_adds_one_to_its_weight_is_refused() -> None:
    class OnePlus(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(HIDDEN))
            self.eps = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (1 + self.weight) * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    with pytest.raises(FamilyError, match="does not compute"):
        read_norm(OnePlus())
    with pytest.raises(FamilyError, match="does not compute"):
        read_norm(torch.nn.Linear(3, 3))
    assert read_norm(None) is None


def test_cost_counts_experts_and_grams() -> None:
    assert count_flops(8, 10, 32, 16, gated=True, norm=False) == 10 * (
        8 * 6 * 32 * 16 + 2 * 64 * 32
    )
    assert count_flops(8, 10, 640, 16, gated=True, norm=True) == 10 * (
        8 * 2 * 16 * (2 * 640 + 2 * 64) + 2 * 64 * 128
    )


def test_ranks_run_are_the_chosen_and_a_few_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_file, "SPARE_RANKS", 2)
    one = Routing("softmax", "selected", 1)
    ranks = [replace(one, top_k=top_k).ranks(64) for top_k in (1, 4, 8, 16, 63)]
    assert ranks == [3, 6, 10, 20, 64]
    assert replace(one, top_k=4, groups=8).ranks(64) == 64


def test_the_largest_sample_fits_the_limit() -> None:
    assert 8 * 33**2 * most_tokens(32, norm=True) <= GRAMS_LIMIT
    assert 4 * 257**2 * (most_tokens(256, norm=False) + 1) > GRAMS_LIMIT
