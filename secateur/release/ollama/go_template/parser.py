"""A template's text to nodes, as Go's text/template parses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateur.release.ollama.go_template.lexer import Piece, Word, split_template, string_of
from secateur.release.ollama.go_template.nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Field,
    Function,
    GoTemplateError,
    Jump,
    Literal,
    Node,
    Operand,
    Pipeline,
    Template,
    Text,
    Variable,
)

_CONSTANTS = {"true": True, "false": False, "nil": None}
_BRANCHES = ("if", "range", "with")


def parse_template(text: str) -> Template:
    """The nodes of a template. Raises GoTemplateError where Go would refuse it, or where it
    leaves the subset of the package."""
    reader = _Nodes(list(split_template(text)))
    root, ended_by = reader.until(())
    assert ended_by == ""
    return Template(root, reader.defined, text)


class _Nodes:
    """The pieces that are left, and the templates that were defined on the way."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self.at = 0
        self.defined: dict[str, tuple[Node, ...]] = {}

    def until(self, ends: tuple[str, ...]) -> tuple[tuple[Node, ...], str]:
        """(nodes up to one of the words `ends`, that word); the end of the text is ""."""
        nodes: list[Node] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at += 1
            if piece.words is None:
                nodes.append(Text(piece.text))
                continue
            first = piece.words[0]
            word = first.text if first.kind == "name" else ""
            if word in ("end", "else"):
                if word not in ends:
                    raise _wrong(piece, f"{{{{ {word} }}}} that nothing opened")
                self.at -= word == "else"
                return tuple(nodes), word
            node = self._node(piece, word)
            if node is not None:
                nodes.append(node)
        if ends:
            raise GoTemplateError("the template ends before an {{ end }}")
        return tuple(nodes), ""

    def _node(self, piece: Piece, word: str) -> Node | None:
        words = _Words(piece)
        if word in _BRANCHES:
            words.next()
            return self._branch(word, words)
        if word in ("break", "continue"):
            return Jump(word)
        if word in ("define", "template"):
            words.next()
            name = words.next()
            if name.kind != "string":
                raise _wrong(piece, f"{word} needs a name in quotes")
            if word == "template":
                return Call(string_of(name), words.pipeline() if words.left else None)
            body, _ = self.until(("end",))
            self.defined[string_of(name)] = body
            return None
        return Action(words.pipeline())

    def _branch(self, kind: str, words: _Words) -> Branch:
        pipeline = words.pipeline()
        body, ended_by = self.until(("end", "else"))
        if ended_by == "end":
            return Branch(kind, pipeline, body, ())
        piece = self.pieces[self.at]
        self.at += 1
        rest = _Words(piece)
        rest.next()
        if rest.left:  # {{ else if ... }} shares its {{ end }} with what it follows
            nested = rest.next().text
            if nested not in ("if", "with"):
                raise _wrong(piece, f"{{{{ else {nested} }}}}")
            return Branch(kind, pipeline, body, (self._branch(nested, rest),))
        otherwise, _ = self.until(("end",))
        return Branch(kind, pipeline, body, otherwise)


class _Words:
    """The words of one action that are left to read."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.words = list(piece.words or ())

    @property
    def left(self) -> bool:
        return bool(self.words)

    def next(self) -> Word:
        if not self.words:
            raise _wrong(self.piece, "an action that ends too early")
        return self.words.pop(0)

    def _sees(self, *texts: str) -> bool:
        return bool(self.words) and self.words[0].kind == "sign" and self.words[0].text in texts

    def pipeline(self, inner: bool = False) -> Pipeline:
        declared, assigns = self._declaration()
        commands: list[Command] = []
        while True:
            command: list[Operand] = []
            while self.words and not self._sees("|", ")"):
                command.append(self._operand())
            if not command:
                raise _wrong(self.piece, "a command without a value")
            commands.append(tuple(command))
            if self._sees("|"):
                self.next()
                continue
            if self._sees(")") != inner:
                raise _wrong(self.piece, "parentheses that do not match")
            return Pipeline(tuple(commands), declared, assigns)

    def _declaration(self) -> tuple[tuple[str, ...], bool]:
        """The variables before `:=` or `=`, and whether it is the latter."""
        ahead = [word.text for word in self.words[:4]]
        for count, form in ((1, ahead[1:2]), (2, ahead[1:2] + ahead[3:4])):
            signs = form[-1:]
            if signs in ([":="], ["="]) and (count == 1 or form[0] == ","):
                names = [word.text[1:] for word in self.words[: 2 * count : 2]]
                if any(word.kind != "variable" for word in self.words[: 2 * count : 2]):
                    raise _wrong(self.piece, "a value set that is no variable")
                del self.words[: 2 * count]
                return tuple(names), signs == ["="]
        return (), False

    def _operand(self) -> Operand:
        word = self.next()
        if word.text == "(":
            return self._chain()
        read = _OPERANDS.get(word.kind)
        if read is None:
            raise _wrong(self.piece, f"{word.text!r} where a value should stand")
        return read(word)

    def _chain(self) -> Chain:
        inner = self.pipeline(inner=True)
        self.next()
        follows = self.words and self.words[0].kind == "field" and not self.words[0].apart
        return Chain(inner, _names(self.next().text) if follows else ())


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(".")))


def _variable(word: Word) -> Variable:
    name, *names = word.text[1:].split(".")
    return Variable(name, tuple(names))


def _name(word: Word) -> Operand:
    return Literal(_CONSTANTS[word.text]) if word.text in _CONSTANTS else Function(word.text)


_OPERANDS: Mapping[str, Callable[[Word], Operand]] = {
    "string": lambda word: Literal(string_of(word)),
    "number": lambda word: Literal(int(word.text)),
    "variable": _variable,
    "field": lambda word: Field(_names(word.text)),
    "name": _name,
}


def _wrong(piece: Piece, what: str) -> GoTemplateError:
    return GoTemplateError(f"line {piece.line} of the template: {what}")
