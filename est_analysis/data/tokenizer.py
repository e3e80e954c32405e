"""Tokenizers: bytes (default), byte-level BPE trained on the corpus, or any fast Hugging Face tokenizer."""

import copy
import errno
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from est_analysis.data.cache import cache_root, cached_folder
from est_analysis.data.corpus import Corpus
from est_analysis.errors import InputError, expanded, reason, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

_NUM_BYTES = 256
_KNOWN = ("bytes", "bpe:SIZE", "a folder", "a hub name")


def build_tokenizer(
    spec: "str | PreTrainedTokenizerFast", corpus: Corpus, cache_dir: str | Path | None = None
) -> "PreTrainedTokenizerFast":
    """The tokenizer that `spec` names.

    Args:
        spec: `bytes`: 256 entries, the id of a byte is its value, documents are separated by the NUL byte;
            `bpe:SIZE`: byte-level BPE of exactly SIZE entries, 256 bytes and `<|endoftext|>` (id 0) included, trained
            on the train split of `corpus`; else a folder or hub name that `AutoTokenizer` loads, local files first. A
            tokenizer that has been loaded is taken as it is.
        corpus: what `bpe:SIZE` learns from.
        cache_dir: where a trained tokenizer is kept; see `cache_root`.

    Returns:
        A tokenizer that decodes exactly what it encoded (for `bytes` and `bpe:SIZE`), also after a round trip through
        `save_pretrained` and `AutoTokenizer.from_pretrained`.

    Raises:
        InputError: nothing of that name, SIZE is out of range, or the tokenizer is not a fast one.
    """
    if spec == "bytes":
        return _wrap(_byte_backend())
    if isinstance(spec, str) and spec.startswith("bpe:"):
        size = _bpe_size(spec)
        key = hashlib.sha256(repr((1, corpus.identity, size)).encode()).hexdigest()
        folder = cache_root(cache_dir) / "tokenizers" / key
        cached_folder(folder, lambda new: _save_bpe(new, size, corpus))
        return load_saved(folder)
    return _pretrained(spec)


def tokenizer_key(spec: "str | PreTrainedTokenizerFast") -> str:
    """What decides what is kept of a corpus: the spec itself, or a hash of a loaded tokenizer's definition and roles.

    Raises:
        InputError: as `build_tokenizer`.
    """
    if spec == "bytes":
        return spec
    if isinstance(spec, str) and spec.startswith("bpe:"):
        return f"bpe:{_bpe_size(spec)}"
    tokenizer = _pretrained(spec)
    roles = sorted((role, str(token)) for role, token in tokenizer.special_tokens_map.items())
    definition = repr((_backend(tokenizer).to_str(), separator_id(tokenizer), roles))
    return hashlib.sha256(definition.encode()).hexdigest()


def save(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """`save_pretrained`, with a full disk as the `OSError` that it is.

    Raises:
        OSError: it cannot be written.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers library has no type of its own, but names the system's error
        if "os error" not in str(error):
            raise
        raise OSError(errno.EIO, reason(error)) from error


def load_saved(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer that `save_pretrained` wrote into `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def separator_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """The id that ends each document: the NUL byte of `bytes`, else the end-of-sequence token or BERT's separator.

    Raises:
        InputError: the tokenizer has none of them.
    """
    if _is_bytes(tokenizer):  # whatever special tokens an objective has added
        return 0
    for found in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if found is not None:
            return found
    name = tokenizer.name_or_path or type(tokenizer).__name__
    raise InputError(f"tokenizer '{name}' has no eos token to separate documents with; set one or use 'bytes'")


def encode(tokenizer: "PreTrainedTokenizerFast", texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The ids of each text, without special tokens of the tokenizer's own; reads `texts` about 1 MB ahead.

    Text that spells out a special token is text like any other: `Generic[S]` holds no mode token of UL2. (A NUL byte is
    the separator of `bytes` all the same.)

    Args:
        tokenizer: from `build_tokenizer`.
        texts: documents.

    Yields:
        A 1-D integer array for each text.
    """
    if _is_bytes(tokenizer):
        # 100 times faster than the general way below, and equal to it.
        yield from (np.frombuffer(text.encode(), dtype=np.uint8) for text in texts)
        return
    backend = copy.deepcopy(_backend(tokenizer))  # the caller's stays as it is
    backend.encode_special_tokens = True
    for batch in _batched(texts, max_characters=1 << 20):
        for encoding in backend.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, dtype=np.int64)


def _batched(texts: Iterable[str], *, max_characters: int) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= max_characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _wrap(backend: Any, **special_tokens: str) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    # The clean-up would rewrite " ," and " n't" while decoding.
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special_tokens)


def _byte_level(model: Any, *, use_regex: bool) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_backend() -> Any:
    from tokenizers import models

    return _byte_level(models.BPE(vocab=_byte_characters(), merges=[]), use_regex=False)


@cache
def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte -> the byte: itself where printable, else the next from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(_NUM_BYTES) if byte not in printable)
    stand_ins = {chr(byte): byte for byte in printable} | {chr(_NUM_BYTES + i): byte for i, byte in enumerate(others)}
    return dict(sorted(stand_ins.items(), key=lambda item: item[1]))


def _is_bytes(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether it is `bytes`, with or without special tokens added after its 256 entries."""
    ours, theirs = _byte_backend(), _backend(tokenizer)
    if theirs.get_vocab_size(with_added_tokens=False) != _NUM_BYTES:
        return False
    if any(index < _NUM_BYTES for index in theirs.get_added_tokens_decoder()):
        return False
    ours, theirs = (json.loads(backend.to_str()) for backend in (ours, theirs))
    return all(ours[part] == theirs[part] for part in ("normalizer", "pre_tokenizer", "model"))


def _bpe_size(spec: str) -> int:
    text = spec.removeprefix("bpe:")
    if not text.isascii() or not text.isdigit() or int(text) <= _NUM_BYTES:
        raise InputError(f"tokenizer '{spec}': the size must be a whole number >= {_NUM_BYTES + 1}, such as bpe:4096")
    return int(text)


def _save_bpe(folder: Path, size: int, corpus: Corpus) -> dict[str, Any]:
    save(_train_bpe(size, corpus), folder)
    return {"corpus": corpus.name, "vocab_size": size}


def _train_bpe(size: int, corpus: Corpus) -> "PreTrainedTokenizerFast":
    from tokenizers import models, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    backend = _byte_level(models.BPE(), use_regex=True)
    texts = (text for split, text in corpus.documents() if split == "train")
    backend.train_from_iterator(texts, trainer)
    learnt = backend.get_vocab_size()
    if learnt != size:
        raise InputError(f"corpus '{corpus.name}' supports only {learnt} entries, not {size}; use bpe:{learnt} or less")
    return _wrap(backend, eos_token=END_OF_TEXT)


def _pretrained(spec: "str | PreTrainedTokenizerFast") -> "PreTrainedTokenizerFast":
    tokenizer = _load_pretrained(spec) if isinstance(spec, str) else spec
    if not tokenizer.is_fast:
        name = spec if isinstance(spec, str) else tokenizer.name_or_path
        raise InputError(f"tokenizer '{name}' has no fast (Rust) version; give one with a tokenizer.json")
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_ids)):
        # Asked for one that is not there, transformers makes up an empty one.
        raise InputError(f"tokenizer '{spec}' has no vocabulary; give one with a tokenizer.json, or use 'bytes'")
    return tokenizer


def _load_pretrained(spec: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    folder = expanded(spec)
    if spec and folder.is_dir():
        name, places = str(folder), (True,)
    elif spec and not _misspelt(spec):
        name, places = spec, (True, False)
    else:
        raise unknown_name("tokenizer", spec, _KNOWN)
    for local_files_only in places:
        try:
            return AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
        except Exception as error:  # it raises nearly anything for a name or folder that holds no tokenizer
            why = reason(error)
    raise InputError(f"cannot load tokenizer '{spec}' ({why}); use one of: {', '.join(_KNOWN)}")


def _misspelt(spec: str) -> bool:
    """Whether `spec` is surely a slip for one of our own: asking the hub for it may take a minute of retries."""
    return "/" not in spec and (spec.lower().startswith("bpe") or bool(get_close_matches(spec, ["bytes"], cutoff=0.8)))


def _backend(tokenizer: "PreTrainedTokenizerFast") -> Any:
    """The tokenizer's Rust core, with the truncation and padding that its file may ask for turned off."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend
