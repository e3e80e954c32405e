"""Labelled text from the source of the installed Python: kinds of tokens, last identifiers of lines, packages.

Texts are drawn the same way for every checkpoint and every tokenizer, so that scores of two checkpoints are paired.
Test files are never train files. Those of kinds and last words are held out from a model trained on the corpus
`python` too; the packages' are not (too few are), so that such a model has read them, without their labels.
"""

import io
import keyword
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from math import inf
from pathlib import Path

import torch

from est_analysis.data.corpus import Split, library_files
from est_analysis.errors import InputError
from est_analysis.rng import stream

KINDS = ("name", "keyword", "operator", "number", "string", "comment")
_NONE = len(KINDS)  # of a character that belongs to no token: white space
_LONGEST_FILE = 200_000  # bytes; longer ones are tables
_FEWEST_FILES = 10  # of a package that is a class
NUM_PACKAGES = 10


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """An identifier that ends a line of code, but for punctuation, the text before it, and the number of its file."""

    context: str
    word: str
    file: int


@dataclass(frozen=True, kw_only=True)
class KindText:
    """A piece of source with the kind of each of its characters, an index into `KINDS` or len(KINDS) for none, and the
    number of its file."""

    text: str
    kinds: bytes
    file: int


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """A piece of source, the index of its package, and the number of its file among all packages'."""

    text: str
    label: int
    file: int


def kinds_of(source: str) -> bytes:
    """The kind of every character of `source`, as the standard library's tokenizer has it.

    >>> kinds_of("if a: 1")  # keyword, name, operator, number
    b'\\x01\\x01\\x06\\x00\\x02\\x06\\x03'

    Raises:
        SyntaxError, tokenize.TokenError: it is not Python.
    """
    return _painted(len(source), _tokens(source))


def _painted(length: int, tokens: Iterable[tuple[str, int, int]]) -> bytes:
    found = bytearray([_NONE]) * length
    for kind, start, stop in tokens:
        found[start:stop] = bytes([KINDS.index(kind)]) * (stop - start)
    return bytes(found)


def _tokens(source: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and stop (characters) of every token that has a kind."""
    starts = [0]
    for line in io.StringIO(source, newline=""):
        starts.append(starts[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(source, newline="").readline):
        name = tokenize.tok_name[token.type]
        kind = {"OP": "operator", "NUMBER": "number", "COMMENT": "comment"}.get(name)
        if name == "NAME":
            kind = "keyword" if keyword.iskeyword(token.string) else "name"
        elif name == "STRING" or name.startswith("FSTRING"):
            kind = "string"
        if kind:
            ends = [starts[line - 1] + column for line, column in (token.start, token.end)]
            yield kind, ends[0], ends[1]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A file that parses: its text and its tokens (kind, start, stop)."""

    text: str
    tokens: tuple[tuple[str, int, int], ...]


def _last_words_of(source: _Source, reach: int, file: int) -> Iterator[LastWord]:
    """The last identifier of every line, of two letters or more, where only operators follow it."""
    last, text = None, source.text
    for kind, start, stop in (*source.tokens, ("end", len(text), len(text))):
        if last and (kind == "end" or "\n" in text[last[1] : start]):
            yield LastWord(context=text[max(0, last[0] - reach) : last[0]], word=text[slice(*last)], file=file)
            last = None
        if kind == "name":
            last = (start, stop) if stop - start > 1 else None
        elif kind != "operator":
            last = None


_library = cache(library_files)


@cache
def _files(split: Split) -> tuple[Path, ...]:
    """Files of one split, without the longest, in the order of a hash of their path."""
    found = sorted((_order(name), path) for own, name, path in _library() if own == split)
    return tuple(path for _, path in found if path.stat().st_size <= _LONGEST_FILE)


def _order(name: str) -> str:
    return sha256(f"downstream {name}".encode()).hexdigest()


def _read(path: Path) -> str:
    return path.read_bytes().decode()


@cache
def _parsed(path: Path) -> _Source | None:
    text = _read(path)
    try:
        return _Source(text=text, tokens=tuple(_tokens(text)))
    except (SyntaxError, tokenize.TokenError):
        return None


def _sources(split: Split, characters: float) -> Iterator[_Source]:
    """Sources that parse, of one split, until there are so many characters."""
    for source in filter(None, map(_parsed, _files(split))):
        yield source
        characters -= len(source.text)
        if characters <= 0:
            return


def _draw(size: int, count: int, *names: str) -> list[int]:
    """Indices of `count` of `size` things, without repetition."""
    return torch.randperm(size, generator=stream(0, "downstream", *names))[:count].tolist()


@cache
def last_words(count: int, reach: int) -> tuple[LastWord, ...]:
    """Last identifiers of lines in held-out files.

    Args:
        count: how many.
        reach: characters of context.

    Raises:
        InputError: the library has fewer.
    """
    sources = _sources("validation", inf)
    found = [word for file, source in enumerate(sources) for word in _last_words_of(source, reach, file)]
    found = [word for word in found if len(word.context) == reach]
    if len(found) < count:
        raise InputError(f"{count} last words were asked for, the installed Python has {len(found)}; ask for fewer")
    return tuple(found[index] for index in _draw(len(found), count, "last words"))


@cache
def kind_texts(split: Split, count: int, length: int) -> tuple[KindText, ...]:
    """Pieces of `length` characters, each with the kinds of its characters, from files of one split.

    Raises:
        InputError: the library has fewer that do not overlap.
    """
    pieces = []
    for file, source in enumerate(_sources(split, 4 * count * length)):
        kinds = _painted(len(source.text), source.tokens)
        for start in range(0, len(kinds) - length + 1, length):
            piece = slice(start, start + length)
            pieces.append(KindText(text=source.text[piece], kinds=kinds[piece], file=file))
    return tuple(pieces[index] for index in _enough(len(pieces), count, f"source ({split})"))


def _enough(size: int, count: int, name: str) -> list[int]:
    if size < count:
        raise InputError(f"{count} pieces of {name} were asked for, the installed Python has {size}; ask for fewer")
    return _draw(size, count, name)


@cache
def packages() -> tuple[str, ...]:
    """The packages of the standard library with the most text among those of ten files or more, by name."""
    sizes: dict[str, list[int]] = {}
    for _, name, path in _library():
        if "/" in name:
            sizes.setdefault(name.split("/")[0], []).append(path.stat().st_size)
    large = {name: sum(files) for name, files in sizes.items() if len(files) >= _FEWEST_FILES}
    return tuple(sorted(sorted(large, key=large.__getitem__)[-NUM_PACKAGES:]))


@cache
def snippets(part: Split, count: int, length: int) -> tuple[Snippet, ...]:
    """Pieces of `length` characters, `count` from each of `packages`; a third of a package's files are for testing.

    Args:
        part: `train`, or `validation` for testing.
        count: of every package.
        length: in characters.

    They do not overlap, unless a package is too small for that: then by half, or by three quarters.

    Raises:
        InputError: a package has fewer even so.
    """
    found, files = [], 0
    for label, package in enumerate(packages()):
        texts = [_read(path) for path in _package_files(package, part)]
        pieces: list[tuple[str, int]] = []
        for stride in (length, length // 2, length // 4):
            if len(pieces) < count:
                pieces = [
                    (text[start : start + length], file)
                    for file, text in enumerate(texts, start=files)
                    for start in range(0, len(text) - length + 1, max(1, stride))
                ]
        chosen = _enough(len(pieces), count, f"package {package} ({part})")
        found += [Snippet(text=pieces[index][0], label=label, file=pieces[index][1]) for index in chosen]
        files += len(texts)
    return tuple(found)


def _package_files(package: str, part: Split) -> Sequence[Path]:
    files = sorted((_order(name), path) for _, name, path in _library() if name.startswith(f"{package}/"))
    cut = len(files) // 3
    return [path for _, path in (files[:cut] if part == "validation" else files[cut:])]
