import hashlib
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from est_analysis.data import corpus as corpus_module
from est_analysis.data import open_corpus
from est_analysis.errors import InputError


def _texts(corpus, split):
    return [text for s, text in corpus.documents() if s == split]


def test_import_is_light():
    """Drawing a batch must not need (or wait for) the Hugging Face libraries."""
    heavy = {"datasets", "transformers", "tokenizers", "huggingface_hub"}
    code = f"import sys, est_analysis.data; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_python_corpus_is_the_library_without_its_tests():
    corpus = open_corpus("python")
    documents = list(corpus.documents())
    size = Counter()
    for split, text in documents:
        size[split] += len(text.encode())
    assert 8e6 < size.total() < 20e6
    assert 0.02 < size["validation"] / size.total() < 0.1
    assert not {text for s, text in documents if s == "train" and len(text) > 500} & set(_texts(corpus, "validation"))
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    all_text = {text for _, text in documents}
    assert (stdlib / "heapq.py").read_bytes().decode() in all_text
    assert (stdlib / "unittest" / "case.py").read_bytes().decode() in all_text
    for foreign in (stdlib / "test" / "test_heapq.py", stdlib / "site-packages" / "pip" / "__init__.py"):
        assert not foreign.exists() or foreign.read_bytes().decode() not in all_text
    names = [
        path.relative_to(stdlib).parts for path in corpus_module._walk(stdlib, (".py",), corpus_module._NOT_LIBRARY)
    ]
    assert not any({"test", "tests", "site-packages", "__pycache__"} & set(parts) for parts in names)
    assert names == sorted(names, key="/".join)


def test_folder_splits_by_hash_of_the_relative_path(folder):
    expected = {"train": [], "validation": []}
    for path in sorted(folder.rglob("*.txt"), key=lambda p: p.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20 == 0
        expected["validation" if held_out else "train"].append(path.read_bytes().decode())
    assert expected["validation"], "the fixture must hold out a file"
    corpus = open_corpus(str(folder))
    assert {split: _texts(corpus, split) for split in expected} == expected


def test_adding_a_file_moves_no_other(folder):
    before = _texts(open_corpus(str(folder)), "validation")
    (folder / "another.txt").write_text("one more")
    after = open_corpus(str(folder))
    assert set(before) <= set(_texts(after, "validation"))


def test_folder_holding_out_no_file_holds_out_the_smallest_hash(tmp_path):
    names = [f"{i}.md" for i in range(100) if int(hashlib.sha256(f"{i}.md".encode()).hexdigest(), 16) % 20][:3]
    for name in names:
        (tmp_path / name).write_text(f"I am {name}")
    chosen = min(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert _texts(open_corpus(str(tmp_path)), "validation") == [f"I am {chosen}"]


def test_folder_says_what_it_leaves_out(folder, capsys):
    open_corpus(str(folder))
    assert capsys.readouterr().err == ""
    for name in (b"latin.txt", b"caf\xe9.txt"):
        (folder / os.fsdecode(name)).write_bytes(b"\xe9t\xe9 \xff")
    corpus_module._warn_of.cache_clear()
    for _ in range(2):
        open_corpus(str(folder))
    left_out = f"'{folder}/caf\ufffd.txt' and 1 more in '{folder}' left out: not UTF-8 text"
    assert capsys.readouterr().err == f"est: warning: {left_out}\n"


def test_a_name_that_is_not_utf8_is_read(folder):
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("I am text")
    corpus = open_corpus(str(folder))
    assert "I am text" in [text for _, text in corpus.documents()]


@pytest.mark.parametrize("names", [("spec.json", ".lock"), ("report.html", "claims.csv")])
def test_folder_skips_what_we_wrote(folder, names):
    before = open_corpus(str(folder)).identity
    ours = folder / "deep" / "ours"
    ours.mkdir(parents=True)
    for name in (*names, "tokenizer.json", "report.md"):
        (ours / name).write_text("{}")
    assert open_corpus(str(folder)).identity == before
    (ours / names[1]).unlink()
    assert open_corpus(str(folder)).identity != before


def test_folder_skips_what_is_not_text(folder):
    before = open_corpus(str(folder)).identity
    (folder / "latin.txt").write_bytes(b"\xe9t\xe9 \xff")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "image.png").write_bytes(b"text, but of no text suffix")
    (folder / ".git").mkdir()
    (folder / ".git" / "note.txt").write_text("hidden")
    assert open_corpus(str(folder)).identity == before


def test_identity_is_of_content_not_of_place(folder, tmp_path):
    before = open_corpus(str(folder)).identity
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_corpus(str(moved)).identity == before
    path = moved / "0.txt"
    path.write_bytes(path.read_bytes().replace(b"e", b"a", 1))
    assert open_corpus(str(moved)).identity != before


def test_identity_is_of_splits_and_document_borders():
    documents = [
        [("train", "ab"), ("train", "c"), ("validation", "d")],
        [("train", "a"), ("train", "bc"), ("validation", "d")],
        [("train", "ab"), ("validation", "c"), ("train", "d")],
    ]
    assert len({corpus_module._identity("name", each) for each in documents}) == 3


def test_file_holds_out_its_last_lines(tmp_path):
    path = tmp_path / "a.txt"
    lines = [f"line {i:04d}\r\n" for i in range(1000)]
    path.write_bytes("".join(lines).encode())
    corpus = open_corpus(str(path))
    assert "".join(_texts(corpus, "train")) == "".join(lines[:950])
    assert "".join(_texts(corpus, "validation")) == "".join(lines[950:])


def test_file_of_one_line_is_cut_at_a_character(tmp_path):
    for shift in range(4):  # the cut falls on each byte of the 4-byte character
        text = "😀" * 200 + "a" * shift
        (tmp_path / "a.txt").write_bytes(text.encode())
        train, validation = (_texts(open_corpus(str(tmp_path / "a.txt")), s)[0] for s in ("train", "validation"))
        assert train + validation == text
        assert validation == ("😀" * (9 if shift else 10) + "a" * shift)


def test_long_file_becomes_pieces_that_end_at_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_PIECE", 100)
    text = "".join(f"été {i}\n" for i in range(500))
    (tmp_path / "a.txt").write_bytes(text.encode())
    documents = [text for _, text in open_corpus(str(tmp_path / "a.txt")).documents()]
    assert "".join(documents) == text
    assert len(documents) > 30
    assert all(piece.endswith("\n") and len(piece.encode()) < 120 for piece in documents)


def test_max_bytes_keeps_the_first_of_each_split(folder):
    whole, part = open_corpus(str(folder)), open_corpus(str(folder), max_bytes=2000)
    assert whole.identity != part.identity
    for split, share in (("train", 1900), ("validation", 100)):
        kept, text = "".join(_texts(part, split)), "".join(_texts(whole, split))
        assert text.startswith(kept)
        assert share - 3 <= len(kept.encode()) <= share  # at most one character (4 bytes) is cut


@pytest.mark.parametrize("content", [b"", b"tiny", b"\xff\xfe\x00binary" * 9])
def test_bad_file(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    match = {0: "empty", 4: "too short"}.get(len(content), "not UTF-8")
    with pytest.raises(InputError, match=match):
        open_corpus(str(tmp_path / "a.txt"))


def test_bad_specs(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'python'\? Known: hf:NAME, path.*, python"):
        open_corpus("pyton")
    with pytest.raises(InputError, match="no file or folder"):
        open_corpus(str(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="no UTF-8 text in folder"):
        open_corpus(str(tmp_path))
    with pytest.raises(InputError, match="max_bytes=3"):
        open_corpus("python", max_bytes=3)
    with pytest.raises(InputError, match="use hf:NAME"):
        open_corpus("python", dataset_config="en")
    with pytest.raises(InputError, match="unknown corpus ''"):
        open_corpus("")
