"""The file of measurements: nothing lost, nothing mixed up, whatever happens to it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from est_analysis.curvature.estimate import Sample
from est_analysis.curvature.samples import SampleFile, merge
from est_analysis.errors import InputError

IDENTITY = {"format": 1, "weights": "abc", "engine": "taylor", "seq_len": 64, "commit": None}


def sample(index, **changes):
    fields = {"batch": index, "weight": 63, "loss": 2.5, "pairs": 2, "values": (1 / 3, -0.1 * index), "seconds": 0.25}
    return Sample(index=index, **fields | changes)


SAMPLES = [sample(0), sample(1, blocks=(0.1, 1e-300)), sample(2, batch=0)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traces" / "one.jsonl"


@pytest.fixture
def write(path):
    """Writes samples to `path`, or to another one, and closes it."""

    def write(samples, path=path, identity=IDENTITY):
        file = SampleFile(path, identity)
        for one in samples:
            file.add(one)
        file.close()
        return path

    return write


def read(path, identity=IDENTITY):
    file = SampleFile(path, identity)
    file.close()
    return file.samples


def refused(path, message, identity=IDENTITY):
    with pytest.raises(InputError, match=message) as caught:
        SampleFile(path, identity)
    assert "\n" not in str(caught.value)


def test_what_is_added_is_there_when_opened_again(path, write):
    write(SAMPLES[:2])
    assert read(path) == SAMPLES[:2]  # every bit of every float
    file = SampleFile(path, IDENTITY)
    file.add(SAMPLES[2])
    assert file.samples == SAMPLES
    file.close()
    assert read(path) == SAMPLES
    assert len(path.read_text().splitlines()) == 4


def test_a_file_without_measurements(path, write):
    assert read(write([])) == []
    assert json.loads(path.read_text()) == IDENTITY


def test_each_measurement_is_on_disk_before_the_next_begins(path):
    file = SampleFile(path, IDENTITY)
    for number, one in enumerate(SAMPLES):
        file.add(one)
        assert len(path.read_text().splitlines()) == number + 2
    file.close()


@pytest.mark.parametrize("line", [0, 3])
def test_a_kill_at_every_byte_of_a_line_loses_that_line_at_most(path, write, line):
    """Line 0 is the identity: cut, the file is begun anew."""
    data = write(SAMPLES).read_bytes()
    lines = data.splitlines(keepends=True)
    start = sum(map(len, lines[:line]))
    for stop in range(start, start + len(lines[line])):
        path.write_bytes(data[:stop])
        file = SampleFile(path, IDENTITY)
        assert file.samples == SAMPLES[: max(line - 1, 0)]
        for one in SAMPLES[max(line - 1, 0) :]:
            file.add(one)
        file.close()
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"[]\n",
        b"3\n",
        b"null\n",
        b"\xff\xfe\x00\n",
        b"\n",
        json.dumps(IDENTITY).encode() + b"\n{}\n",
        json.dumps(IDENTITY).encode() + b"\n[1]\n",
        json.dumps(IDENTITY).encode() + b'\n{"index": 0}\n',
        json.dumps(IDENTITY).encode() + b'\n{"values": 3, "blocks": []}\n',
        b"a thesis without an end of line",
    ],
)
def test_foreign_and_damaged_files_are_left_alone(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    refused(path, "is no file of measurements, or damaged; give another --out")
    assert path.read_bytes() == content
    with pytest.raises(InputError, match="is no file of measurements"):
        merge([path])


def test_a_damaged_line_in_the_middle(path, write):
    data = write(SAMPLES).read_bytes()
    path.write_bytes(data.replace(b'"index": 1', b'"inde', 1))
    refused(path, "is no file of measurements, or damaged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 32}, r"\(seq_len 64 not 32\)"),
        ({"weights": "xyz", "engine": "hvp"}, r"\(engine 'taylor' not 'hvp', weights 'abc' not 'xyz'\)"),
        ({"blocks": True}, r"\(blocks None not True\)"),
    ],
)
def test_another_identity_is_named_and_the_file_left_alone(path, write, changes, message):
    before = write(SAMPLES).read_bytes()
    refused(path, f"holds another measurement {message}; give another --out or the same settings", IDENTITY | changes)
    assert path.read_bytes() == before
    assert read(path) == SAMPLES, "the lock was not given back"


def test_only_one_writes(path, write):
    file = SampleFile(path, IDENTITY)
    refused(path, "another process writes .*; wait for it or give another --out")
    file.close()
    write(SAMPLES)


def test_the_lock_of_another_process_goes_with_it(path):
    script = (
        "import sys; from pathlib import Path; from filelock import FileLock; path = Path(sys.argv[1]);"
        "path.parent.mkdir(); lock = FileLock(path.with_name(f'.{path.name}.lock')); lock.acquire(); print(flush=True);"
        "sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        other.stdout.readline()
        refused(path, "another process writes")
    finally:
        other.kill()
        other.communicate(timeout=30)
    assert read(path) == []


def test_places_that_cannot_be_written(path, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file" / "below.jsonl", r"cannot write .*; give another --out")
    path.mkdir(parents=True)
    refused(path, "cannot read .*Is a directory")
    refused(tmp_path / ("a" * 300), "cannot write .*File name too long")


def test_a_full_disk(path, monkeypatch):
    file = SampleFile(path, IDENTITY)
    file.add(SAMPLES[0])

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("est_analysis.curvature.samples.os.fsync", full)
        with pytest.raises(InputError, match=r"could not write .* \(No space left on device\); free some space"):
            file.add(SAMPLES[1])
    file.close()
    assert file.samples == SAMPLES[:1]


# --- shards -----------------------------------------------------------------------------------------------------------


def test_shards_come_together_in_order(write, tmp_path):
    paths = [
        write(part, path=tmp_path / f"{i}.jsonl") for i, part in enumerate(([SAMPLES[1]], [SAMPLES[2], SAMPLES[0]]))
    ]
    assert merge(paths) == merge(paths[::-1]) == (IDENTITY, SAMPLES)
    assert merge([write([], path=tmp_path / "empty.jsonl")]) == (IDENTITY, [])


def test_a_shard_still_being_written_is_read_up_to_its_last_whole_line(write, tmp_path):
    path = write(SAMPLES)
    path.write_bytes(path.read_bytes()[:-5])
    assert merge([path]) == (IDENTITY, SAMPLES[:2])


def test_shards_that_do_not_belong_together(write, tmp_path):
    one = write(SAMPLES[:2])
    with pytest.raises(InputError, match=r"no file .*absent.jsonl; give files that `est trace --out` wrote"):
        merge([one, tmp_path / "absent.jsonl"])
    with pytest.raises(InputError, match=r"no file "):
        merge([tmp_path])
    with pytest.raises(InputError, match="holds measurement 0 a second time; give each shard once"):
        merge([one, one])
    twin = write([replace(SAMPLES[1], loss=0.0)], path=tmp_path / "twin.jsonl")
    with pytest.raises(InputError, match=r"twin\.jsonl holds measurement 1 a second time"):
        merge([one, twin])
    other = write([SAMPLES[2]], path=tmp_path / "other.jsonl", identity=IDENTITY | {"weights": "xyz"})
    with pytest.raises(InputError, match=r"other.jsonl holds another measurement \(weights 'xyz' not 'abc'\)"):
        merge([one, other])
