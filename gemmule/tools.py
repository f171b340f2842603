"""Tool use made by rule: declarations, requests, calls, responses and final answers.

A tool is one row of data: its declaration, how people ask for it, what it answers and how that is
said. The chat template of Gemma 4 renders the turns; nothing here knows a control token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tables import CITIES, GENRES, LANGUAGES, NAMES, THINGS, WORDS

Values = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """One callable tool.

    `params` maps a name to (json type, description); `draw` makes arguments, `reply` the response
    to them; `asks` and `says` are format strings over arguments and over arguments plus response.
    """

    name: str
    about: str
    params: dict[str, tuple[str, str]]
    draw: Callable[[random.Random], Values]
    reply: Callable[[random.Random, Values], Values]
    asks: tuple[str, ...]
    says: tuple[str, ...]

    def declaration(self) -> dict[str, Any]:
        """The tool as an OpenAI-style function declaration."""
        properties = {
            k: {"type": kind, "description": text} for k, (kind, text) in self.params.items()
        }
        parameters = {"type": "object", "properties": properties, "required": list(self.params)}
        function = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": function}


def _city(rng: random.Random) -> str:
    return rng.choice(CITIES)


TOOLS = (
    Tool(
        "get_weather",
        "Current weather of a city",
        {"city": ("string", "Name of the city")},
        lambda r: {"city": _city(r)},
        lambda r, a: {
            "sky": r.choice(["sunny", "cloudy", "rain", "snow", "fog", "wind"]),
            "celsius": r.randrange(-8, 36),
        },
        (
            "What is the weather in {city}?",
            "How warm is it in {city} now?",
            "Do I need a coat in {city} today?",
            "Tell me the weather for {city}.",
        ),
        (
            "In {city} it is {celsius} degrees with {sky}.",
            "The weather in {city}: {sky}, {celsius} degrees.",
        ),
    ),
    Tool(
        "get_time",
        "Local time of a city",
        {"city": ("string", "Name of the city")},
        lambda r: {"city": _city(r)},
        lambda r, a: {"time": f"{r.randrange(24)}:{r.randrange(60):02d}"},
        (
            "What time is it in {city}?",
            "Tell me the local time in {city}.",
            "How late is it in {city}?",
        ),
        ("It is {time} in {city}.", "The local time in {city} is {time}."),
    ),
    Tool(
        "convert_currency",
        "Convert an amount of money",
        {
            "amount": ("number", "Amount to convert"),
            "source": ("string", "Currency of the amount"),
            "target": ("string", "Currency wanted"),
        },
        lambda r: (
            dict(
                zip(
                    ("source", "target"),
                    r.sample(["EUR", "USD", "GBP", "JPY", "CHF", "INR"], 2),
                    strict=True,
                )
            )
            | {"amount": r.randrange(5, 900)}
        ),
        lambda r, a: {"value": round(a["amount"] * r.uniform(0.5, 2), 2)},
        (
            "How much is {amount} {source} in {target}?",
            "Convert {amount} {source} to {target}.",
            "I have {amount} {source}. What is that in {target}?",
        ),
        ("{amount} {source} are {value} {target}.", "That is {value} {target}."),
    ),
    Tool(
        "set_timer",
        "Start a timer",
        {"minutes": ("integer", "Length in minutes"), "label": ("string", "What the timer is for")},
        lambda r: {
            "minutes": r.randrange(1, 90),
            "label": r.choice(["tea", "pasta", "eggs", "bread", "laundry", "break", "rice"]),
        },
        lambda r, a: {"status": "started"},
        (
            "Set a timer of {minutes} minutes for the {label}.",
            "Wake me in {minutes} minutes, it is for the {label}.",
            "{minutes} minutes for {label}, please.",
        ),
        (
            "The {label} timer is running: {minutes} minutes.",
            "Done. {minutes} minutes for the {label}.",
        ),
    ),
    Tool(
        "search_books",
        "Search the library catalogue",
        {"query": ("string", "Words to look for"), "limit": ("integer", "Most results to return")},
        lambda r: {"query": " ".join(r.sample(WORDS, 2)), "limit": r.randrange(1, 6)},
        lambda r, a: {
            "count": r.randrange(1, 40),
            "best": f"The {r.choice(WORDS).title()} of {r.choice(NAMES)}",
        },
        (
            "Find up to {limit} books about {query}.",
            "Search the library for {query}, at most {limit} results.",
            "Is there a book on {query}? Show {limit}.",
        ),
        (
            "There are {count} books. The best match is '{best}'.",
            "I found {count}; the first is '{best}'.",
        ),
    ),
    Tool(
        "translate",
        "Translate a word",
        {"word": ("string", "Word to translate"), "language": ("string", "Target language")},
        lambda r: {"word": r.choice(WORDS), "language": r.choice(LANGUAGES)},
        lambda r, a: {
            "result": "".join(r.sample(a["word"], len(a["word"])))
            + r.choice(["a", "o", "en", "us", "ki"])
        },
        (
            "How do you say {word} in {language}?",
            "Translate '{word}' into {language}.",
            "What is {word} in {language}?",
        ),
        ("In {language}, {word} is '{result}'.", "It is '{result}'."),
    ),
    Tool(
        "send_message",
        "Send a short message to a contact",
        {"to": ("string", "Name of the contact"), "text": ("string", "Text to send")},
        lambda r: {
            "to": r.choice(NAMES),
            "text": r.choice(
                [
                    "I am late",
                    "See you soon",
                    "Call me back",
                    "Happy birthday",
                    "The door is open",
                    "Dinner is ready",
                    "Thank you for the " + r.choice(THINGS),
                ]
            ),
        },
        lambda r, a: {"delivered": r.random() < 0.8},
        (
            "Tell {to}: {text}.",
            "Send {to} the message '{text}'.",
            "Write to {to} that says '{text}'.",
        ),
        (
            "I sent '{text}' to {to}. Delivered: {delivered}.",
            "Message for {to}: '{text}'. Delivered: {delivered}.",
        ),
    ),
    Tool(
        "get_stock",
        "Number of items in a store",
        {"item": ("string", "Item to look up"), "store": ("string", "City of the store")},
        lambda r: {"item": r.choice(THINGS), "store": _city(r)},
        lambda r, a: {
            "count": r.choice([0, r.randrange(1, 300)]),
            "price": round(r.uniform(0.5, 40), 2),
        },
        (
            "Are there {item} in the {store} store?",
            "How many {item} does the store in {store} have?",
            "Check the stock of {item} in {store}.",
        ),
        (
            "The {store} store has {count} {item} at {price} each.",
            "{count} {item} in {store}, {price} each.",
        ),
    ),
    Tool(
        "book_table",
        "Reserve a table in a restaurant",
        {
            "people": ("integer", "Number of guests"),
            "hour": ("integer", "Hour of the day"),
            "name": ("string", "Name for the booking"),
        },
        lambda r: {
            "people": r.randrange(2, 12),
            "hour": r.randrange(11, 23),
            "name": r.choice(NAMES),
        },
        lambda r, a: {"table": r.randrange(1, 40), "confirmed": True},
        (
            "Book a table for {people} at {hour} under {name}.",
            "{name} needs a table for {people} people at {hour}.",
            "Reserve for {people} at {hour} o'clock, name {name}.",
        ),
        (
            "Table {table} is booked for {people} at {hour}, {name}.",
            "Confirmed: table {table} at {hour} for {people}.",
        ),
    ),
    Tool(
        "play_music",
        "Play music of a genre",
        {"genre": ("string", "Genre of music"), "volume": ("integer", "Volume from 0 to 100")},
        lambda r: {"genre": r.choice(GENRES), "volume": r.randrange(5, 100, 5)},
        lambda r, a: {"track": f"{r.choice(WORDS).title()} {r.choice(WORDS).title()}"},
        (
            "Play some {genre} at volume {volume}.",
            "I want to hear {genre}, volume {volume}.",
            "Put on {genre} music at {volume}.",
        ),
        ("Playing {genre}: '{track}' at volume {volume}.", "Now playing '{track}'."),
    ),
    Tool(
        "find_train",
        "Next train between two cities",
        {"start": ("string", "City of departure"), "end": ("string", "City of arrival")},
        lambda r: dict(zip(("start", "end"), r.sample(CITIES, 2), strict=True)),
        lambda r, a: {
            "departs": f"{r.randrange(5, 24)}:{r.randrange(60):02d}",
            "platform": r.randrange(1, 20),
        },
        (
            "When is the next train from {start} to {end}?",
            "I need to go from {start} to {end} by train.",
            "Find a train to {end} from {start}.",
        ),
        (
            "The next train from {start} to {end} leaves at {departs} from platform {platform}.",
            "It departs at {departs}, platform {platform}.",
        ),
    ),
    Tool(
        "read_sensor",
        "Read a sensor of the house",
        {"room": ("string", "Room of the sensor"), "kind": ("string", "What to measure")},
        lambda r: {
            "room": r.choice(["kitchen", "cellar", "attic", "office", "bedroom", "garage", "hall"]),
            "kind": r.choice(["temperature", "humidity", "light", "noise"]),
        },
        lambda r, a: {"reading": r.randrange(1, 99), "battery": r.choice(["low", "good", "full"])},
        (
            "What is the {kind} in the {room}?",
            "Read the {kind} of the {room}.",
            "Check {kind} in the {room}, please.",
        ),
        (
            "The {kind} in the {room} is {reading}. The battery is {battery}.",
            "{room}: {kind} {reading}, battery {battery}.",
        ),
    ),
)


def _values(args: Values) -> dict[str, str]:
    """Arguments as a person would say them (true and false in words)."""
    said = {True: "yes", False: "no"}
    return {k: said[v] if isinstance(v, bool) else str(v) for k, v in args.items()}


def _exchange(rng: random.Random, tool: Tool) -> list[dict[str, Any]]:
    """Request, call with response, and final answer."""
    args = tool.draw(rng)
    reply = tool.reply(rng, args)
    call = {"type": "function", "function": {"name": tool.name, "arguments": args}}
    answer = rng.choice(tool.says).format(**_values(args | reply))
    ask = rng.choice(tool.asks).format(**args)
    response = [{"name": tool.name, "response": reply}]
    return [
        {"role": "user", "content": ask},
        {"role": "assistant", "content": "", "tool_calls": [call], "tool_responses": response},
        {"role": "assistant", "content": answer},
    ]


def session(rng: random.Random) -> dict[str, Any]:
    """A chat document with one to three declared tools and one or two requests.

    A third of them stop at the call, a tenth ask for something no declared tool can do.
    """
    known = rng.sample(TOOLS, rng.choice([1, 1, 2, 3]))
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.3:
        systems = [
            "You are a helpful assistant.",
            "Answer briefly.",
            "Use the tools when they help.",
            "You run a smart home.",
        ]
        messages.append({"role": "system", "content": rng.choice(systems)})
    if rng.random() < 0.1:
        other = rng.choice([tool for tool in TOOLS if tool not in known])
        ask = rng.choice(other.asks).format(**other.draw(rng))
        names = " and ".join(f"{tool.name}" for tool in known)
        answer = f"I have no tool for that. I can only use {names}."
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    else:
        for _ in range(rng.choice([1, 1, 2])):
            messages += _exchange(rng, rng.choice(known))
        if rng.random() < 0.35:
            messages.pop()
            del messages[-1]["tool_responses"]
    return {"messages": messages, "tools": [tool.declaration() for tool in known]}


def log(rng: random.Random) -> dict[str, Any]:
    """Raw text: a call log in JSON lines, or a reference page of a few tools."""
    if rng.random() < 0.6:
        lines = []
        for number in range(rng.randrange(3, 7)):
            tool = rng.choice(TOOLS)
            args = tool.draw(rng)
            lines.append(json.dumps({"id": number, "call": tool.name, "arguments": args}))
            lines.append(json.dumps({"id": number, "response": tool.reply(rng, args)}))
        return {"text": "\n".join(lines)}
    pages = []
    for tool in rng.sample(TOOLS, 3):
        rows = [f"  {name} ({kind}): {text}" for name, (kind, text) in tool.params.items()]
        example = ", ".join(f"{k}={v!r}" for k, v in tool.draw(rng).items())
        pages.append(
            f"{tool.name}\n  {tool.about}.\n"
            + "\n".join(rows)
            + f"\n  Example: {tool.name}({example})"
        )
    return {"text": "\n\n".join(pages)}
