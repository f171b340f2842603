"""A GGUF made by us is a model to llama.cpp: it loads, splits text as the tokenizer does, and
predicts what transformers predicts with the very weights that are in the file."""

import json
import random
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xllamacpp
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from secateur.checkpoint.reader import open_checkpoint
from secateur.checkpoint.tensors import to_float32
from secateur.formats.ggml.codec import decode, encode
from secateur.formats.gguf.metadata import model_metadata
from secateur.formats.gguf.reader import read_gguf
from secateur.formats.gguf.rules import gguf_rules
from secateur.formats.gguf.tensors import gguf_tensors
from secateur.formats.gguf.tokenizer import tokenizer_metadata
from secateur.formats.gguf.writer import TensorChunk, write_gguf
from secateur.recipes.llama_mixes import FILE_TYPES, ModelTraits
from secateur.recipes.llama_types import TypeRequest, choose_types

MODEL = Path(__file__).resolve().parents[1] / "secateur/gemmule"
DECISIVE = 1.0
"""Natural logarithms between the best and the second token from which both engines must agree."""


def convert(folder, ftype, path):
    """A GGUF of the whole checkpoint; returns the tensors by their checkpoint names."""
    checkpoint = open_checkpoint(folder)
    family, config = checkpoint.family, checkpoint.config
    tensors = gguf_tensors(family, config, {n: s.shape for n, s in checkpoint.specs.items()})
    infos = [tensor.info for tensor in tensors]
    traits = ModelTraits(checkpoint.layers, checkpoint.experts, heads=8, kv_heads=4)
    types = [choice.type for choice in choose_types(infos, traits, TypeRequest(ftype))]
    infos = [replace(info, type=kind) for info, kind in zip(infos, types, strict=True)]
    metadata = {
        **model_metadata(family, config, infos, "gemmule", FILE_TYPES[ftype].number),
        **tokenizer_metadata(folder, config, gguf_rules(family).tokenizer, 4096),
    }

    def chunks():
        for tensor, info in zip(tensors, infos, strict=True):
            values = tensor.values
            if values is None:
                values = to_float32(checkpoint.read(tensor.sources[0]))
            rows = np.ascontiguousarray(values).reshape(-1, info.shape[-1])
            yield TensorChunk(info.name, encode(rows, info.type, workers=2).reshape(-1))

    write_gguf(path, metadata, infos, chunks())
    return {tensor.sources[0]: tensor.info.name for tensor in tensors if tensor.sources}


class Host:
    """llama.cpp's server on a loopback port, in this process."""

    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
        params.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(params)

    def post(self, path, **content):
        request = urllib.request.Request(
            f"{self.server.listening_address}/{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def best(self, prompt):
        """(token, its log-probability) that follows the token ids of `prompt`."""
        reply = self.post("completion", prompt=prompt, n_predict=1, n_probs=1, temperature=0)
        first = reply["completion_probabilities"][0]
        return first["id"], first["logprob"]


@pytest.fixture(scope="module", params=["F16", "Q4_K_M"])
def pair(request, tmp_path_factory):
    """(llama.cpp, transformers) with the same weights: the second gets the file's, decoded."""
    path = tmp_path_factory.mktemp("gguf") / "gemmule.gguf"
    names = convert(MODEL, request.param, path)
    file = read_gguf(path)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name in names:
                info = file.tensor(names[name])
                decoded = decode(file.data(info.name), info.type, info.shape)
                value.copy_(torch.from_numpy(decoded).reshape(value.shape))
    return Host(path), model


def prompts():
    """Token ids of chat beginnings whose continuations the model knows: sums and tool calls."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    found = []
    for line in (MODEL / "sets/test.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        messages = record.get("messages", [{"role": "none"}])
        if record["domain"] in ("arithmetic", "tools") and messages[0]["role"] == "user":
            asked = messages[0]["content"]
            found.append(
                f"<|turn>user\n{asked}<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
            )
    return [tokenizer.encode(text).ids for text in found[:4]]


def test_llama_cpp_predicts_what_transformers_predicts(pair):
    host, model = pair
    gaps = []
    for prompt in prompts():
        made = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = made.sequences[0].tolist()
        for step, logits in enumerate(made.logits):
            (first, second), (token, _) = torch.log_softmax(logits[0].double(), -1).topk(2)
            if first - second > DECISIVE:
                got, logprob = host.best(ids[: len(prompt) + step])
                assert got == token
                gaps.append(abs(logprob - first.item()))
    assert len(gaps) >= 12
    # llama.cpp rounds activations to 8 bits for quantized weights; both sum in another order
    assert np.median(gaps) < 0.05


def test_llama_cpp_splits_text_as_the_tokenizer_does(tmp_path):
    path = tmp_path / "gemmule.gguf"
    convert(MODEL, "Q8_0", path)
    host = Host(path)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    chance = random.Random(1)
    letters = "abc XYZ  \n\n\t.,'\"0123é日本🎉▁<>|\u00a0\u200b"
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 80))) for _ in range(150)]
    texts += [f"<|turn>user\n{text}<turn|>\n<|channel>thought\n<channel|>" for text in texts[:50]]
    texts += (MODEL / "sets/test.jsonl").read_text("utf-8").splitlines()[:40]
    for text in texts:
        got = host.post("tokenize", content=text, add_special=True, parse_special=True)
        assert got["tokens"] == tokenizer.encode(text).ids, text
