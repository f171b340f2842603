"""Whether a server does what `thinking: {enabled, budget, message}` says, found out by asking it.

Three questions, each at temperature 0, of the same prompt: without a limit, with a budget, and as
the server was set (not where every request says it). Of a server that gives the ids of all tokens
(llama.cpp's, with `verbose`) the ids are compared: with a budget of B the thought must be the first
B tokens of the one without a limit, then the message, then the mark that ends it, then an answer.
Of any other server only the text of the thought and `usage.completion_tokens` can be compared, and
the result says so.

A thought that is too short proves nothing, so the probe tries several prompts and says when none
made the model think for long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from secateur.errors import EngineError
from secateur.serving.answer_facts import WHOLE, message_of, thought_of
from secateur.serving.engine_server import EngineServer
from secateur.serving.settings import Thinking
from secateur.serving.thought_marks import ThoughtMarks, find_marks, tokenize
from secateur.system.sizes import show_count

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Sends the body of a chat completion and gives the answer."""

Verdict = Literal["yes", "no", "unknown"]

PROMPTS = (
    "What is 12 + 7?",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey? Check your answer.",
    "Multiply 347 by 86 step by step, then check the result in another way.",
)
TOKENS = 512
"""Tokens of an answer of the probe at most."""
SHORT = 8
"""Tokens of the budget that is tried where the one that is set is longer."""
_ON = "thinking on"
_NO_LIMIT = 1 << 20
"""A budget that no answer of the probe reaches. A server's own budget is not lifted by -1."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was asked for, whether the server does it, and what was seen."""

    what: str
    holds: Verdict
    seen: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe found; `compared` says of what: the ids of "tokens", or "text and usage"."""

    compared: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """ "no" when anything does not hold, "yes" when all does."""
        found = {finding.holds for finding in self.findings}
        return "no" if "no" in found else "unknown" if "unknown" in found else "yes"

    @property
    def broken(self) -> tuple[str, ...]:
        """What the server does not do. A model that does not think breaks nothing."""
        return tuple(one.what for one in self.findings if one.holds == "no" and one.what != _ON)

    def sentences(self) -> tuple[str, ...]:
        """For people, one a finding."""
        words = {"yes": "holds", "no": "DOES NOT HOLD", "unknown": "not proven"}
        return tuple(
            f"{finding.what}: {words[finding.holds]}, by {self.compared} ({finding.seen})"
            for finding in self.findings
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"verdict": self.verdict, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Seen:
    """An answer of the probe: the ids of all its tokens where the server gives them, its thought
    and what was counted."""

    tokens: tuple[int, ...]
    thought: str
    completion_tokens: int


def read_probe(data: Mapping[str, Any]) -> Probe:
    """What `to_json` gave. Raises KeyError and TypeError for anything else."""
    return Probe(str(data["compared"]), tuple(Finding(**one) for one in data["findings"]))


def probe_thinking(server: EngineServer, thinking: Thinking, *, as_set: bool = True) -> Probe:
    """Probe a server of ours, by the ids of tokens where it gives them; `as_set` says whether it
    was started with this budget, else every request has it. Raises EngineError."""

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = server.ask("/v1/chat/completions", body)
        return found

    if server.identity.engine != "llama.cpp":
        return probe_by_text(ask, thinking)
    marks = find_marks(server)
    if marks is None:
        seen = "none of the known marks of thoughts are tokens of this model"
        return Probe("tokens", (Finding("thinking", "unknown", seen),))
    message = tokenize(server, thinking.message) if thinking.message else ()
    return Probe("token ids", tuple(_by_tokens(ask, thinking, marks, message, as_set)))


def probe_by_text(ask: Ask, thinking: Thinking) -> Probe:
    """Probe any server that speaks OpenAI's protocol. Raises EngineError."""
    return Probe("text and usage", tuple(_by_text(ask, thinking)))


def _by_tokens(
    ask: Ask, thinking: Thinking, marks: ThoughtMarks, message: tuple[int, ...], as_set: bool
) -> Iterator[Finding]:
    if thinking.enabled is False:
        yield _is_off(_try(ask, thinking, PROMPTS[0]), marks)
        return
    budget = min(SHORT if thinking.budget is None else thinking.budget, SHORT)
    prompt, free = _longest(ask, thinking, lambda seen: len(_thought(seen, marks)), 2 * budget)
    length = len(_thought(free, marks))
    if marks.split(free.tokens) is None:
        holds: Verdict = "no" if thinking.enabled else "unknown"
        yield Finding(_ON, holds, "the model answers without a thought")
        return
    yield Finding(_ON, "yes", f"a thought of {show_count(length, 'token')}")
    if thinking.budget is None:
        return
    if length <= budget:
        seen = f"thoughts of the probe had at most {show_count(length, 'token')}"
        yield Finding(f"budget of {budget}", "unknown", seen)
        return

    def expected(tokens: int) -> tuple[int, ...]:
        return (*marks.opening, *_thought(free, marks)[:tokens], *message, marks.closing)

    if thinking.budget != budget or not as_set:
        limited = _try(ask, replace(thinking, budget=budget), prompt)
        yield _same_tokens(f"budget of {budget}", limited.tokens, expected(budget))
    if not as_set:
        return
    what = f"budget of {thinking.budget} as the server is set"
    if length <= thinking.budget:
        yield Finding(what, "unknown", f"not reached by thoughts of {show_count(length, 'token')}")
    else:
        yield _same_tokens(what, _as_set(ask, prompt).tokens, expected(thinking.budget))


def _same_tokens(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> Finding:
    """Whether an answer begins with the tokens expected, and goes on."""
    if got[: len(expected)] == expected and len(got) > len(expected):
        return Finding(
            what, "yes", f"{show_count(len(expected), 'token')} as forced, then an answer"
        )
    pairs = zip(got, expected, strict=False)
    other = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), None)
    if other is None:
        return Finding(
            what, "no", f"the answer ends after {show_count(len(got), 'token')}, expected more"
        )
    return Finding(what, "no", f"token {other} is not the one expected")


def _is_off(seen: _Seen, marks: ThoughtMarks) -> Finding:
    parts = marks.split(seen.tokens)
    thought = 0 if parts is None else len(parts[0])
    holds: Verdict = "no" if thought or seen.thought else "yes"
    return Finding("thinking off", holds, f"a thought of {show_count(thought, 'token')}")


def _by_text(ask: Ask, thinking: Thinking) -> Iterator[Finding]:
    if thinking.enabled is False:
        seen = _try(ask, thinking, PROMPTS[0])
        holds: Verdict = "no" if seen.thought else "yes"
        yield Finding(
            "thinking off", holds, f"a thought of {show_count(len(seen.thought), 'character')}"
        )
        return
    prompt, free = _longest(ask, thinking, lambda seen: len(seen.thought), 8 * SHORT)
    if not free.thought:
        holds = "no" if thinking.enabled else "unknown"
        yield Finding(_ON, holds, "no thought is given apart from the answer")
        return
    yield Finding(_ON, "yes", f"a thought of {show_count(len(free.thought), 'character')}")
    if thinking.budget is None:
        return
    budget = min(thinking.budget, SHORT)
    limited = _try(ask, replace(thinking, budget=budget), prompt)
    own = limited.thought.removesuffix(thinking.message)
    seen_ = (
        f"{len(own)} instead of {len(free.thought)} characters of thought, "
        f"{limited.completion_tokens} instead of {free.completion_tokens} tokens in all"
    )
    shorter = len(own) < len(free.thought) and free.thought.startswith(own.rstrip())
    yield Finding(f"budget of {budget}", "yes" if shorter else "no", seen_)


def _longest(
    ask: Ask, thinking: Thinking, length: Callable[[_Seen], int], enough: int
) -> tuple[str, _Seen]:
    """The first prompt whose thought is long enough, or the one with the longest, and its answer
    without a limit."""
    free = replace(thinking, budget=_NO_LIMIT, message="")
    tried: list[tuple[str, _Seen]] = []
    for prompt in PROMPTS:
        tried.append((prompt, _try(ask, free, prompt)))
        if length(tried[-1][1]) >= enough:
            break
    return max(tried, key=lambda one: length(one[1]))


def _thought(seen: _Seen, marks: ThoughtMarks) -> tuple[int, ...]:
    parts = marks.split(seen.tokens)
    return () if parts is None else parts[0]


def _as_set(ask: Ask, prompt: str) -> _Seen:
    """An answer by the server's own settings."""
    return _try(ask, Thinking(), prompt)


def _try(ask: Ask, thinking: Thinking, prompt: str) -> _Seen:
    answer = ask(
        {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "cache_prompt": False,
            **WHOLE,
            **thinking.request(),
        }
    )
    try:
        tokens = (answer.get("__verbose") or {}).get("tokens") or ()
        used = int(answer["usage"]["completion_tokens"])
        return _Seen(tuple(map(int, tokens)), thought_of(message_of(answer)), used)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EngineError("the server's answer to the probe is no chat completion") from None
