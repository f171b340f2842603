"""Templates of a stranger in the bounded sandbox; sound ones write what they always did."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secateur.corpus import bounded_templates
from secateur.corpus.bounded_templates import BoundedEnvironment, bound_environment

MESSAGES = [
    {"role": "user", "content": "  What is <b>? "},
    {
        "role": "assistant",
        "content": "It is.",
        "tool_calls": [{"name": "f", "arguments": {"a": 1}}],
    },
]

ENDLESS = {
    "loops": "{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop that only asks": "{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(30) }}",
    "filters": "{% for a in r %}{{ 'a' | upper | lower | upper | lower }}{% endfor %}",
}
LARGE = {
    "repeats": "{{ 'a' * 10 ** 12 }}",
    "repeats a list": "{{ [1, 2] * 10 ** 12 }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "pads": "{{ 'a' | center(10 ** 11) }}",
    "pads by a method": "{{ 'a'.ljust(10 ** 11) }}",
    "formats": "{{ '%99999999999d' % 1 }}",
    "formats by a star": "{{ '%*d' % (10 ** 11, 1) }}",
    "formats by a method": "{{ '{:99999999999}'.format(1) }}",
    "formats by a field": "{{ '{:{}}'.format(1, 10 ** 11) }}",
    "formats by a filter": "{{ '%99999999999d' | format(1) }}",
    "doubles text": "{% set n = namespace(x='a') %}{% for i in r %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubles lists": "{% set n = namespace(x=[1]) %}{% for i in r %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "nests": "{% set n = namespace(x=[1]) %}{% for i in r %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x }}",
    "replaces": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "replaces by a filter": "{% set x = 'a' * 1000000 %}{{ x | replace('a', x) }}",
    "joins": "{% set x = 'a' * 1000000 %}{{ x.join(x) }}",
    "indents": "{{ r | list | tojson(indent=1000000) }}",
    "writes": "{% set x = 'a' * 1000000 %}{% for i in r %}{{ x }}{% endfor %}",
    "cuts": "{% set x = 'a' * 1000000 %}{% for i in r %}{% set y = x[1:] %}{% endfor %}",
    "keeps": "{% set n = namespace(x=[]) %}{% for i in r %}{% set n.x = [n.x, 'a' * 1000000] %}"
    "{% endfor %}",
    "is long": "a" * (bounded_templates.LONGEST_TEMPLATE + 1),
}  # fmt: skip
REACHES = (
    "{{ ''.__class__ }}", "{{ ''['__class__'] }}", "{{ ''|attr('__class__') }}", "{{ r.__init__ }}",
    "{{ cycler.__init__.__globals__ }}", "{{ self.__init__ }}", "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}", "{{ '{0.__class__}'.format(1) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}", "{{ ''.format.__self__ }}",
)  # fmt: skip
SOUND = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | trim }}"
    "{{ loop.index }}\n{% endfor %}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages[::-1][0].content[2:5] }}",
    "{% set n = namespace(a=0) %}{% for m in messages %}"
    "{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
    "{{ '%05d' % 42 }}{{ '{:>8}'.format('x') }}{{ 7 // 2 }}"
    "{{ 2 ** 10 }}{{ 7 % 3 }}{{ [1] + [2] * 2 }}",
    "{% macro f(x, y=1) %}<{{ x }}{{ y }}>{% endmacro %}{{ f(2) }}{{ f('a', y='b') }}",
    "{% for k, v in messages[1].tool_calls[0].arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    "{{ messages | tojson }}{{ messages | length }}{{ none }}"
    "{{ true }}{{ (1, 2) }}{{ {'a': [1]} }}",
    "{% for m in messages if m.role != 'user' %}{{ m.content | replace('is', 'was') }}"
    "{% else %}-{% endfor %}",
    "{% if messages[0].content is string and 'What' in messages[0]['content'] %}y{% endif %}",
    "{{ messages[0].content.split('<')[0].strip() }}{{ messages | list }}",
)  # fmt: skip


def render(template: str, **more: Any) -> str:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=MESSAGES, r=range(99_999), **more)


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_templates, "STEPS", 20_000)
    with pytest.raises(SecurityError, match="it takes more than 20,000 steps"):
        render(ENDLESS[name])


def test_what_takes_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_templates, "SECONDS", 0.05)
    with pytest.raises(SecurityError, match="it takes more than 0.05 seconds"):
        render(ENDLESS["loops"])


@pytest.mark.parametrize("name", LARGE)
def test_what_grows_is_ended_before_it_has_grown(name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(bounded_templates, "TOTAL", 1 << 24)
    monkeypatch.setattr(bounded_templates, "LARGEST", 1 << 20)
    with pytest.raises(SecurityError, match="characters|bits|arguments|width|deeply"):
        render(LARGE[name])


@pytest.mark.parametrize("template", REACHES)
def test_nothing_outside_is_reached(template: str) -> None:
    try:
        written = render(template)
    except SecurityError as error:
        assert "unsafe" in str(error)
    else:
        assert written == ""  # jinja's word for what there is not


@pytest.mark.parametrize("template", SOUND)
def test_sound_templates_write_the_same(template: str) -> None:
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    words = {"messages": MESSAGES, "r": range(9)}
    expected = plain.from_string(template).render(**words)
    assert (
        BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(**words)
        == expected
    )
    assert bound_environment(plain).from_string(template).render(**words) == expected


def test_a_count_ends_with_its_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_templates, "STEPS", 150)
    template = BoundedEnvironment().from_string("{% for i in r %}{{ i }}{% endfor %}")
    for _ in range(5):
        assert template.render(r=range(100))
    with pytest.raises(SecurityError):
        template.render(r=range(1000))


@pytest.mark.slow
def test_transformers_renders_in_bounds(tmp_path: Any) -> None:
    from tiny_tokenizer import save_tokenizer

    from secateur.corpus.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(save_tokenizer(tmp_path))
    with pytest.raises(SecurityError, match="characters"):
        tokenizer.apply_chat_template(MESSAGES, chat_template=LARGE["repeats"], tokenize=False)
    written = tokenizer.apply_chat_template(
        MESSAGES,
        chat_template="{% for m in messages %}{% generation %}{{ m.role }}"
        "{% endgeneration %}{% endfor %}"
        "{{ messages | tojson }}{{ dict(a=1) }}",
        tokenize=False,
    )
    assert str(written).startswith('userassistant[{"role": "user"')
