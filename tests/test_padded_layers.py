"""transformers pads the layer numbers of per_layer_config: layer 5 of 30 is "05"."""

from __future__ import annotations

from secateur.formats.gguf.rules import find


def test_a_layer_is_found_under_its_padded_number() -> None:
    config = {"per_layer_config": {"05": {"head_dim": 512}, "11": {"head_dim": 256}}}
    assert find(config, ("per_layer_config.{layer}.head_dim",), 5) == 512
    assert find(config, ("per_layer_config.{layer}.head_dim",), 11) == 256
    assert find(config, ("per_layer_config.{layer}.head_dim",), 1) is None
