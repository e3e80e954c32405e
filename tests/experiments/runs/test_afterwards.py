"""What is measured of a finished run is measured once, unless what was kept is damaged or of another identity."""

from types import SimpleNamespace

import pytest

from est_analysis.experiments.runs import afterwards
from est_analysis.experiments.runs.afterwards import keep_rows

HEADER = "run_id,seed,step,metric,value\n"


@pytest.fixture
def keep(tmp_path, spec):
    """`keep(budget)` -> how often it measured; one value, the count."""
    counts = []

    def call(budget=(1, 2)):
        def measure():
            counts.append(len(counts))
            yield 4, "hessian_trace", counts[-1] + 0.1

        run = SimpleNamespace(folder=tmp_path, run_id="est-1")
        keep_rows("curvature", spec, run, identity={"budget": budget}, measure=measure)
        return len(counts)

    return call


def test_measured_once_for_an_identity(keep, tmp_path):
    assert [keep(), keep()] == [1, 1]
    assert (tmp_path / "curvature.csv").read_text() == f"{HEADER}est-1,0,4,hessian_trace,0.1\n"
    assert [keep((1, 3)), keep((1, 3))] == [2, 2]
    assert (tmp_path / "curvature.csv").read_text() == f"{HEADER}est-1,0,4,hessian_trace,1.1\n"


def test_what_another_process_measured_meanwhile_is_kept(keep, tmp_path, monkeypatch):
    """It held the run's lock: what it wrote is there when this one has it."""
    keep()
    note = (tmp_path / "curvature.json").read_text()
    (tmp_path / "curvature.json").unlink()

    class Lock:
        def __init__(self, path):
            assert path == tmp_path / ".lock"

        def __enter__(self):
            (tmp_path / "curvature.json").write_text(note)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(afterwards, "FileLock", Lock)
    assert keep() == 1


@pytest.mark.parametrize("text", [b"", b'{"budget": [1', b"\xff", b"null"])
def test_a_damaged_note_is_measured_again(keep, tmp_path, text):
    keep()
    note = tmp_path / "curvature.json"
    whole = note.read_text()
    note.write_bytes(text)
    assert [keep(), keep()] == [2, 2]
    assert note.read_text() == whole
