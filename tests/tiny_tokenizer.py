"""A tokenizer of single bytes, with Gemma 4's markers and a chat template in its manner."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>",
    "<|think|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
)  # fmt: skip

# Like Gemma 4's, it drops the thought that an answer holds.
TEMPLATE = (
    "{{ bos_token }}"
    "{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}"
    "{% for tool in tools or [] %}<|tool>{{ tool.function.name }}"
    "{{ tool.function.parameters.properties | default({}) | tojson }}<tool|>{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('no such role: ' + message.role) }}{% endif %}"
    "<|turn>{{ message.role }}\n"
    "{% for call in message.tool_calls or [] %}<|tool_call>{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}<tool_call|>{% endfor %}"
    "{% if message.content is string %}{{ message.content.split('<channel|>') | last | trim }}"
    "{% endif %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Write the tokenizer to a folder as a model has it."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    for letter in sorted(ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
