"""Text sources: a corpus gives documents one at a time, each with its split, and a hash of all of them.

How validation text is held out, so that it depends on the text alone and never on a seed:

- a folder, and the `python` corpus: by file, one in twenty by the hash of its relative path (the file with the smallest
  hash where that would hold out none); adding a file moves no other one;
- a single file: its last twentieth, from the first line start in there;
- a Hugging Face data set: its own `validation` split, else one document in twenty by the hash of its text;
- a synthetic language: a stream of its own, a twentieth of the tokens.
"""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Literal

from est_analysis.data import hub, synthetic
from est_analysis.errors import InputError, expanded, unknown_name

Split = Literal["train", "validation"]
Document = tuple[Split, str]

SPLITS: tuple[Split, Split] = ("train", "validation")
_PROSE = (".txt", ".text", ".md", ".rst", ".tex", ".html", ".json", ".jsonl")
_CODE = (".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs")

_HELD_OUT = 20  # one part in twenty is validation
_PIECE = 1 << 20  # bytes; a longer file becomes several documents, cut at line ends, so that memory stays constant
_OURS = (("spec.json", ".lock"), ("report.html", "claims.csv"))  # what a run's folder holds, and a report's
_NOT_LIBRARY = frozenset(("site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A source of text.

    Attributes:
        name: what the user called it.
        identity: sha256 (hex) over what it contains and how it is split; equal text under another path is equal.
        documents: starts a pass over the `(split, text)` documents, in a fixed order; no text is empty.
    """

    name: str
    identity: str
    documents: Callable[[], Iterator[Document]]


def open_corpus(
    spec: str, *, dataset_config: str | None = None, text_column: str = "text", max_bytes: int | None = None
) -> Corpus:
    """The corpus that `spec` names.

    Args:
        spec: `python` (the source of the running interpreter's standard library, about 11 MB), the path of a UTF-8 file
            or of a folder of text files, `hf:NAME`, `hf:NAME@REVISION` or `hf:FOLDER` for Hugging Face `datasets`, or
            `hmm:STATES,VOCAB,SEED[,TOKENS]` for text whose least loss is known (see `synthetic.HmmText`).
        dataset_config: configuration of a Hugging Face data set, such as `wikitext-103-raw-v1`.
        text_column: the column of a Hugging Face data set that holds the text.
        max_bytes: keep only the first bytes of each split: 19/20 of `max_bytes` for train, 1/20 for validation.

    Returns:
        The corpus. Local text is read once here, to hash it; a hub data set is named by its commit and read later.

    Raises:
        InputError: the source does not exist, is not text, or is too short to have both splits.
    """
    if max_bytes is not None and max_bytes < _HELD_OUT:
        raise InputError(f"max_bytes={max_bytes} leaves no validation text; use at least {_HELD_OUT}")
    if spec.startswith("hf:"):
        return _hub_corpus(spec, dataset_config, text_column, max_bytes)
    if dataset_config is not None:
        raise InputError(f"dataset_config='{dataset_config}' needs a Hugging Face data set, not '{spec}'; use hf:NAME")
    try:
        documents = partial(_limited, _local_documents(spec), max_bytes)
        return Corpus(name=spec, identity=_identity(spec, documents()), documents=documents)
    except OSError as error:
        raise InputError(f"cannot read '{error.filename}': {error.strerror}; give a readable file or folder") from error


def _local_documents(spec: str) -> Callable[[], Iterator[Document]]:
    if spec.startswith("hmm:"):
        return synthetic.parse(spec).documents
    path = expanded(spec)
    if spec == "python":
        return _folder_documents(Path(sysconfig.get_paths()["stdlib"]), (".py",), _NOT_LIBRARY)
    if spec and path.is_dir():
        return _folder_documents(path, _PROSE + _CODE, ("__pycache__",))
    if path.is_file():
        return _file_documents(path)
    if os.sep in spec or path.suffix:
        raise InputError(f"no file or folder '{spec}'; give an existing path, 'python' or 'hf:NAME'")
    known = ["python", "hf:NAME", "path (an existing file or folder)", "synthetic text hmm:STATES,VOCAB,SEED"]
    raise unknown_name("corpus", spec, known)


def _hub_corpus(spec: str, config: str | None, text_column: str, max_bytes: int | None) -> Corpus:
    source = hub.resolve(spec.removeprefix("hf:"), config)

    def documents() -> Iterator[Document]:
        texts = hub.texts(source, text_column)
        if "validation" not in texts:
            yield from _limited(lambda: ((_hashed_split(text), text) for text in texts["train"]), max_bytes)
            return
        for split in SPLITS:
            yield from _limited(lambda split=split: ((split, text) for text in texts[split]), max_bytes, (split,))

    if source.commit is None:
        return Corpus(name=spec, identity=_identity(spec, documents()), documents=documents)
    # A commit says what the data set contains; hashing its text would mean to download it all first.
    pinned = repr((source.name, source.commit, config, text_column, max_bytes, _HELD_OUT))
    return Corpus(name=spec, identity=hashlib.sha256(pinned.encode()).hexdigest(), documents=documents)


def library_files() -> list[tuple[Split, str, Path]]:
    """The files of the corpus `python`: the split of each, its path within the library, and where it is."""
    return _split_files(Path(sysconfig.get_paths()["stdlib"]), (".py",), _NOT_LIBRARY)


def _split_files(root: Path, suffixes: tuple[str, ...], skip: Container[str]) -> list[tuple[Split, str, Path]]:
    found = [path for path in _walk(root, suffixes, skip) if path.stat().st_size]
    other = {path for path in found if not _is_text(path)}
    files = [path for path in found if path not in other]
    if other and skip is not _NOT_LIBRARY:
        _warn_of(root, min(other), len(other))
    if not files:
        raise InputError(f"no UTF-8 text in folder '{root}'; it needs non-empty files ending in {', '.join(suffixes)}")
    names = {path: path.relative_to(root).as_posix() for path in files}
    held_out = {path for path in files if _hashed_split(names[path]) == "validation"}
    held_out = held_out or {min(files, key=lambda path: _hash(names[path]))}
    return [("validation" if path in held_out else "train", names[path], path) for path in files]


@cache  # once a folder
def _warn_of(root: Path, first: Path, count: int) -> None:
    if parent_process() is None:  # a worker's main process has said so
        name = str(first).encode(errors="surrogateescape").decode(errors="replace")
        more = f" and {count - 1} more in '{root}'" if count > 1 else ""
        print(f"est: warning: '{name}'{more} left out: not UTF-8 text", file=sys.stderr)


def _folder_documents(root: Path, suffixes: tuple[str, ...], skip: Container[str]) -> Callable[[], Iterator[Document]]:
    files = _split_files(root, suffixes, skip)
    if len(files) == 1:
        return _file_documents(files[0][2])

    def documents() -> Iterator[Document]:
        for split, _, path in files:
            yield from ((split, text) for text in _pieces(path, 0, path.stat().st_size))

    return documents


def _file_documents(path: Path) -> Callable[[], Iterator[Document]]:
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"file '{path}' is empty; give a file with text")
    if not _is_text(path):
        raise InputError(f"file '{path}' is not UTF-8 text; convert it or give another file")
    cut = _last_part(path, size)

    def documents() -> Iterator[Document]:
        yield from (("train", text) for text in _pieces(path, 0, cut))
        yield from (("validation", text) for text in _pieces(path, cut, size))

    return documents


def _walk(root: Path, suffixes: tuple[str, ...], skip: Container[str]) -> list[Path]:
    """Files below `root` in the order of their relative path.

    Left out are hidden folders, those in `skip`, and what we write: a run in there would change the text of the next.
    """
    found = []
    for folder, subfolders, names in os.walk(root):
        # Pruned in place: an interpreter's site-packages can hold far more files than its library.
        subfolders[:] = [
            name
            for name in subfolders
            if name not in skip and not name.startswith(".") and not _is_written_by_us(Path(folder, name))
        ]
        paths = (Path(folder, name) for name in names if name.endswith(suffixes) and not name.startswith("."))
        found += [path for path in paths if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _is_written_by_us(folder: Path) -> bool:
    """Whether `folder` is that of a run or of a report."""
    return any(all((folder / name).exists() for name in names) for names in _OURS)


def _pieces(path: Path, start: int, stop: int) -> Iterator[str]:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(_PIECE, stop - file.tell())):
            yield (block + file.readline(stop - file.tell())).decode()


def _is_text(path: Path) -> bool:
    try:
        return all(_pieces(path, 0, path.stat().st_size))
    except UnicodeDecodeError:
        return False


def _last_part(path: Path, size: int) -> int:
    """The byte at which the last twentieth starts: at a line, or at a character where no line starts in there."""
    cut = size - size // _HELD_OUT
    with path.open("rb") as file:
        file.seek(cut - 1)
        file.readline()
        if file.tell() < size:
            return file.tell()
        file.seek(cut)
        tail = file.read(4)
    continuation = len(tail) - len(tail.lstrip(bytes(range(0x80, 0xC0))))
    return cut + continuation


def _limited(
    documents: Callable[[], Iterable[Document]], max_bytes: int | None, splits: tuple[Split, ...] = SPLITS
) -> Iterator[Document]:
    """The first bytes of each split; stops reading as soon as all `splits` have their share."""
    if max_bytes is None:
        yield from documents()
        return
    share = {"train": max_bytes - max_bytes // _HELD_OUT, "validation": max_bytes // _HELD_OUT}
    left = {split: share[split] for split in splits}
    for split, text in documents():
        data = text.encode()[: left[split]]
        left[split] -= len(data)
        if kept := data.decode(errors="ignore"):  # the cut may fall inside a character
            yield split, kept
        if not any(left.values()):
            return


def _identity(name: str, documents: Iterable[Document]) -> str:
    digest = hashlib.sha256()
    seen = set()
    for split, text in documents:
        data = text.encode()
        digest.update(f"{split} {len(data)}\n".encode())
        digest.update(data)
        seen.add(split)
    require_splits(name, seen)
    return digest.hexdigest()


def require_splits(name: str, seen: Container[str]) -> None:
    """Raise unless both splits were `seen` in the corpus called `name`.

    Raises:
        InputError: one of the splits has no text.
    """
    for split in SPLITS:
        if split not in seen:
            raise InputError(f"corpus '{name}' is too short: it has no {split} text; give more text (or max_bytes)")


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest(), "big")


def _hashed_split(key: str) -> Split:
    return "validation" if _hash(key) % _HELD_OUT == 0 else "train"
