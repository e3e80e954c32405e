"""Labels of Python source, against what the source says."""

import io
import keyword
import token
import tokenize

import pytest

from est_analysis.data.corpus import library_files
from est_analysis.downstream import labels
from est_analysis.downstream.labels import KINDS, kind_texts, kinds_of, last_words, packages, snippets
from est_analysis.downstream.proxies import LONGEST, USUAL
from est_analysis.errors import InputError

SOURCE = 'def größe(x):  # a note\n    """Two\n    lines."""\n    return x.total + 12\n\nif größe:\n    print("if")\n'


def test_every_character_of_a_token_has_its_kind():
    kinds = kinds_of(SOURCE)
    named = {text: KINDS[kinds[SOURCE.index(text)]] for text in ("def", "größe", "(", "# a note", '"""Two', "12")}
    assert named == {
        "def": "keyword", "größe": "name", "(": "operator", "# a note": "comment", '"""Two': "string", "12": "number",
    }  # fmt: skip
    start, stop = SOURCE.index('"""'), SOURCE.index('."""') + 4
    assert set(kinds[start:stop]) == {KINDS.index("string")}  # over two lines
    assert KINDS[kinds[SOURCE.rindex("if")]] == "string"  # a word in a string is no keyword
    assert kinds[SOURCE.index("\n")] == len(KINDS)


def test_the_tokens_cut_out_by_kind_are_those_of_the_standard_library():
    words = [
        found.string
        for found in tokenize.generate_tokens(io.StringIO(SOURCE).readline)
        if found.type == token.NAME and keyword.iskeyword(found.string)
    ]
    kinds, cut = kinds_of(SOURCE), []
    for at, kind in enumerate(kinds):
        if kind == KINDS.index("keyword"):
            if at and kinds[at - 1] == kind:
                cut[-1] += SOURCE[at]
            else:
                cut.append(SOURCE[at])
    assert cut == words


def test_last_words_are_the_last_identifiers_of_lines_and_their_contexts_end_before_them():
    source = labels._Source(text=SOURCE, tokens=tuple(labels._tokens(SOURCE)))
    found = list(labels._last_words_of(source, reach=8, file=3))
    # x is one letter, 12 no identifier, and a comment or a string after an identifier ends no line with it.
    assert [(word.context, word.word) for word in found] == [(" 12\n\nif ", "größe")]
    other = "self.alpha = make(beta)\nfor item in things:\n    total += item.weight * 2\nclose(\n    handle\n)"
    source = labels._Source(text=other, tokens=tuple(labels._tokens(other)))
    found = list(labels._last_words_of(source, 5, 3))
    # `close` is its line's last identifier too: only an operator follows it.
    assert [(word.context, word.word) for word in found] == [
        ("make(", "beta"), ("m in ", "things"), (" * 2\n", "close"), ("\n    ", "handle"),
    ]  # fmt: skip


def test_drawn_texts_are_held_out_the_same_each_time_and_do_not_overlap():
    held_out = [path.read_bytes().decode() for split, _, path in library_files() if split == "validation"]
    for word in last_words(20, 100):
        assert any(word.context + word.word in text for text in held_out)
    for text in kind_texts("validation", 20, 100):
        assert any(text.text in whole for whole in held_out)
    assert not {text.text for text in kind_texts("train", 20, 100)} & {
        text.text for text in kind_texts("validation", 20, 100)
    }
    fresh = last_words.__wrapped__(20, 100)
    assert fresh == last_words(20, 100)


def test_packages_are_balanced_and_their_test_files_are_no_train_files():
    for package in packages():
        train, test = (set(labels._package_files(package, part)) for part in ("train", "validation"))
        assert train
        assert test
        assert not train & test
    found = snippets("train", 3, 200)
    assert [one.label for one in found] == [label for label in range(len(packages())) for _ in range(3)]
    assert {len(one.text) for one in found} == {200}


def test_more_than_there_is_is_refused_with_the_number_there_is():
    with pytest.raises(InputError, match=r"1000000 last words were asked for, the installed Python has \d+"):
        last_words(1_000_000, 100)
    with pytest.raises(InputError, match=r"1000000 pieces of package \w+ \(train\)"):
        snippets("train", 1_000_000, 100)


@pytest.mark.parametrize("tokens", [32, LONGEST])
def test_the_installed_python_has_what_the_proxies_ask_for(tokens):
    """Of every model: eight characters a token, windows of no more than `LONGEST` tokens."""
    length = 8 * tokens
    for split, pieces in (("train", USUAL.kind_train), ("validation", USUAL.kind_test)):
        assert len(labels.kind_texts(split, pieces, length)) == pieces
    for part, pieces in (("train", USUAL.library_train), ("validation", USUAL.library_test)):
        found = labels.snippets(part, pieces, length)
        assert {len(piece.text) for piece in found} == {length}
        counts = [sum(piece.label == label for piece in found) for label in range(labels.NUM_PACKAGES)]
        assert counts == [pieces] * labels.NUM_PACKAGES
    assert len(last_words(USUAL.words, length)) == USUAL.words


def test_texts_of_one_file_have_its_number_and_no_other_files():
    whole = [path.read_bytes().decode() for path in labels._package_files(packages()[0], "validation")]
    of_one = [one for one in snippets("validation", 8, 200) if one.label == 0]
    for one in of_one:
        assert one.text in whole[one.file]
    later = {one.file for one in snippets("validation", 8, 200) if one.label == 1}
    assert min(later) >= len(whole), "files are counted through all packages"
    for texts in (kind_texts("validation", 20, 2000), last_words(20, 100)):
        assert len({one.file for one in texts}) > 1
