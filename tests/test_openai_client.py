"""The server as the official openai client sees it: gemmule in llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from transcripts import ROOT, blocks

from secateur.serving.engine_server import EngineServer

QUESTION: list[Any] = [{"role": "user", "content": "What is 12 + 7?"}]
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
ON = {"chat_template_kwargs": {"enable_thinking": True}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def client(gemmule_server: EngineServer) -> Iterator[openai.OpenAI]:
    # Without a retry, so that an error is seen at once.
    with openai.OpenAI(
        base_url=gemmule_server.url, api_key=gemmule_server.api_key, max_retries=0, timeout=120
    ) as found:
        yield found


def ask(client: openai.OpenAI, messages: list[Any] = QUESTION, **more: Any) -> Any:
    asked = {"model": "gemmule", "messages": messages, "temperature": 0, "max_tokens": 120}
    create: Any = client.chat.completions.create
    return create(**{**asked, **more})


def test_the_model_has_one_name(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "gemmule-Q8_0"


def test_a_conversation_is_answered(client: openai.OpenAI) -> None:
    found = ask(client, extra_body=OFF)
    assert found.choices[0].finish_reason == "stop"
    assert "=" in found.choices[0].message.content
    assert found.usage.completion_tokens > 0
    assert getattr(found.choices[0].message, "reasoning_content", None) is None
    again = ask(client, [*QUESTION, found.choices[0].message.to_dict(), *QUESTION], extra_body=OFF)
    assert again.usage.prompt_tokens > found.usage.prompt_tokens


@pytest.mark.parametrize("thinking", [OFF, ON])
def test_the_program_of_the_page_runs(
    thinking: dict[str, Any], client: openai.OpenAI, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With a thought and without one."""
    (block,) = (one for one in blocks(ROOT / "docs/how-to/serve.md") if one.language == "python")
    ours = client.chat.completions.create

    def create(**asked: Any) -> Any:
        return ours(**{**asked, "extra_body": thinking, "max_tokens": 120, "temperature": 0})

    monkeypatch.setattr(client.chat.completions, "create", create)
    monkeypatch.setattr(openai, "OpenAI", lambda **_: client)
    exec(block.text, {})
    answer, *thought = capsys.readouterr().out.strip().split("\n")
    assert "=" in answer
    assert bool("".join(thought).strip()) == (thinking is ON)


def test_a_thought_is_a_field_of_its_own(client: openai.OpenAI) -> None:
    message = ask(client, extra_body=ON).choices[0].message
    assert "12" in message.reasoning_content
    assert "<|channel>" not in message.content + message.reasoning_content


def test_streaming_gives_the_thought_and_then_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client, extra_body=ON).choices[0].message
    parts: list[tuple[str, str]] = []
    usage = None
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}, extra_body=ON):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            for kind in ("reasoning_content", "content"):
                if text := getattr(choice.delta, kind, None):
                    parts.append((kind, text))
    kinds = [kind for kind, _ in parts]
    assert kinds == sorted(kinds, reverse=True)
    assert len(parts) > 5
    for kind in ("reasoning_content", "content"):
        assert "".join(text for one, text in parts if one == kind) == getattr(whole, kind)
    assert usage is not None and usage.completion_tokens > len(parts) // 2


def test_a_tool_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    found = ask(client, asked, tools=[WEATHER], tool_choice="required", extra_body=OFF).choices[0]
    assert found.finish_reason == "tool_calls"
    (call,) = found.message.tool_calls
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temp": 20}'}
    after = ask(
        client, [*asked, found.message.to_dict(), result], tools=[WEATHER], extra_body=OFF
    ).choices[0]
    assert after.finish_reason == "stop"
    assert after.message.content


def test_a_stop_text_ends_an_answer_before_it(client: openai.OpenAI) -> None:
    whole = ask(client, extra_body=OFF).choices[0].message.content
    cut = ask(client, stop=[" = "], extra_body=OFF).choices[0]
    assert cut.finish_reason == "stop"
    assert whole.startswith(cut.message.content) and " = " not in cut.message.content


def test_the_same_seed_draws_the_same_answer(client: openai.OpenAI) -> None:
    drawn = [
        ask(client, temperature=1.5, seed=seed, extra_body={**OFF, "cache_prompt": False})
        for seed in (1, 1, 2, 3, 4)
    ]
    texts = [one.choices[0].message.content for one in drawn]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_an_answer_that_was_cut_says_so(client: openai.OpenAI) -> None:
    found = ask(client, max_tokens=3, extra_body=OFF)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 3


def test_a_prompt_longer_than_a_slot_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"exceeds the available context size"):
        ask(client, [{"role": "user", "content": "word " * 1500}])


@pytest.mark.parametrize("key", ["wrong", "secret-of-gemmul"])
def test_a_wrong_key_is_refused(gemmule_server: EngineServer, key: str) -> None:
    with (
        openai.OpenAI(base_url=gemmule_server.url, api_key=key, max_retries=0) as other,
        pytest.raises(openai.AuthenticationError, match=r"[Ii]nvalid API [Kk]ey"),
    ):
        ask(other)


@pytest.mark.parametrize(
    "odd", [{"messages": "no list"}, {"temperature": "hot"}, {"messages": []}, {"tools": [{}]}]
)
def test_a_request_that_cannot_be_is_an_error_and_not_the_end(
    client: openai.OpenAI, odd: dict[str, Any]
) -> None:
    with pytest.raises(openai.APIStatusError):
        ask(client, **odd)
    assert ask(client, max_tokens=1).choices


def test_requests_beyond_the_slots_wait(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: ask(client, extra_body=OFF), range(5)))
    assert len({one.choices[0].message.content for one in found}) == 1
