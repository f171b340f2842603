"""Rows hold every token once, no longer than asked, and no document sees another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.corpus.packing import Document, pack
from secateur.corpus.rows import Row

DOCUMENTS = st.lists(
    st.tuples(st.sampled_from(["chat", "code", "tools"]), st.integers(1, 40)), min_size=1
)


def _documents(shapes: list[tuple[str, int]]) -> list[Document]:
    """Documents whose token ids are all different, so that each token can be found again."""
    documents, start = [], 0
    for sample, (category, length) in enumerate(shapes):
        documents.append(Document(sample, category, np.arange(start, start + length)))
        start += length
    return documents


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 24), st.booleans())
def test_every_token_is_in_exactly_one_place(shapes, length, together):
    documents = _documents(shapes)
    rows = list(pack(documents, length, together=together))
    tokens = np.concatenate([row.input_ids for row in rows])
    assert sorted(tokens.tolist()) == list(range(sum(size for _, size in shapes)))
    owner = np.concatenate([np.full(len(d.input_ids), d.sample) for d in documents])
    for row in rows:
        assert 1 <= len(row.input_ids) <= length
        assert len(row.input_ids) == len(row.documents) == len(row.positions)
        assert owner[row.input_ids].tolist() == np.array(row.samples)[row.documents].tolist()


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 24))
def test_positions_restart_with_each_document_and_pieces_stay_in_order(shapes, length):
    pieces: dict[int, list[int]] = {}
    for row in pack(_documents(shapes), length):
        assert row.documents.tolist() == sorted(row.documents.tolist())
        for document, sample in enumerate(row.samples):
            members = np.flatnonzero(row.documents == document)
            assert row.positions[members].tolist() == list(range(len(members)))
            pieces.setdefault(sample, []).extend(row.input_ids[members].tolist())
    for tokens in pieces.values():
        assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 24))
def test_a_row_holds_one_category(shapes, length):
    for row in pack(_documents(shapes), length):
        assert {shapes[sample][0] for sample in row.samples} == {row.category}


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 24))
def test_packing_leaves_no_two_neighbouring_rows_that_fit_in_one(shapes, length):
    last: dict[str, Row] = {}
    for row in pack(_documents(shapes), length):
        first_piece = int(np.count_nonzero(row.documents == 0))
        if row.category in last:
            assert len(last[row.category].input_ids) + first_piece > length
        last[row.category] = row


def test_without_packing_each_document_is_a_row():
    rows = list(pack(_documents([("a", 3), ("a", 2), ("a", 7)]), 5, together=False))
    assert [len(row.input_ids) for row in rows] == [3, 2, 5, 2]
    assert [row.samples for row in rows] == [(0,), (1,), (2,), (2,)]


def _gemma4(attention: str):
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    config = Gemma4TextConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
        num_global_key_value_heads=1, sliding_window=8, enable_moe_block=True, num_experts=8,
        top_k_experts=2, moe_intermediate_size=32, hidden_size_per_layer_input=0,
        attention_k_eq_v=True, num_kv_shared_layers=0, final_logit_softcapping=30.0,
    )  # fmt: skip
    config._attn_implementation = attention
    return Gemma4ForCausalLM(config).eval()


def _qwen3_moe(attention: str):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, moe_intermediate_size=32,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    config._attn_implementation = attention
    return Qwen3MoeForCausalLM(config).eval()


def _gpt_oss(attention: str):
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=128, hidden_size=64, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=8,
        num_experts_per_tok=2, sliding_window=8,
    )  # fmt: skip
    config._attn_implementation = attention
    return GptOssForCausalLM(config).eval()


def _logits(model, ids, positions):
    """The call of `rows.py`, over rows of equal length; logits [row, token, vocab]."""
    import torch

    with torch.no_grad():
        return model(
            input_ids=torch.tensor(np.stack(ids)),
            position_ids=torch.tensor(np.stack(positions)),
            attention_mask=None,
            use_cache=False,
        ).logits


def _some_rows() -> tuple[Row, list[Row]]:
    """One packed row, and its documents as rows of their own."""
    generator = np.random.default_rng(1)
    documents = [
        Document(index, "a", generator.integers(1, 128, length))
        for index, length in enumerate((7, 20, 1, 1, 12))
    ]
    (packed,) = pack(documents, 64)
    return packed, list(pack(documents, 64, together=False))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [_gemma4, _qwen3_moe])
def test_a_packed_row_gives_each_document_the_logits_it_has_alone(make, attention):
    import torch

    torch.manual_seed(0)
    model = make(attention)
    packed, documents = _some_rows()
    alone = torch.cat([_logits(model, [row.input_ids], [row.positions])[0] for row in documents])
    together = _logits(model, [packed.input_ids], [packed.positions])[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    running_on = _logits(model, [packed.input_ids], [np.arange(len(alone))])[0]
    assert (running_on - alone).abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "attention"),
    [(_gemma4, "eager"), (_gemma4, "sdpa"), (_qwen3_moe, "eager"), (_qwen3_moe, "sdpa"),
     (_gpt_oss, "eager")],
)  # fmt: skip
def test_lines_filled_up_on_the_right_give_the_logits_of_each_document_alone(make, attention):
    import torch

    torch.manual_seed(0)
    model = make(attention)
    packed, documents = _some_rows()
    longest = max(len(row.input_ids) for row in documents)
    filled = [np.pad(row.input_ids, (0, longest - len(row.input_ids))) for row in documents]
    lines = _logits(model, filled, [np.arange(longest)] * len(filled))
    for line, row in zip(lines, documents, strict=True):
        alone = _logits(model, [row.input_ids], [row.positions])[0]
        torch.testing.assert_close(line[: len(alone)], alone, rtol=0, atol=1e-5)
