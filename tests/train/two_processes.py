"""What the distributed test runs in each of two processes: some methods, and a run that is killed on the way."""

import os
import signal
import sys
from pathlib import Path

from est_analysis.data.batches import Batches
from est_analysis.experiments.runs.run import run
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.train.settings import Execution, Settings

METHODS = "est", "raptr", "dropout"
EXECUTION = Execution(threads=1)
SETTINGS = Settings(steps=12, lr=1e-3, log_every=1, eval_every=4, save_every=5)


def spec(corpus: str, **fields) -> TrainSpec:
    return TrainSpec(
        **{
            "corpus": corpus,
            "batch_size": 4,
            "seq_len": 32,
        }
        | fields
    )


def dying(step: int, batch):
    def wrapper(self, number, **place):
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, number, **place)

    return wrapper


if __name__ == "__main__":
    folder, corpus, ports = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    for name, method, port in zip((*METHODS, "killed"), (*METHODS, "est"), ports, strict=True):
        # A port each: a rank that is early must not meet the other one's server of the run before.
        os.environ["MASTER_PORT"] = port
        if name == "killed":
            Batches.batch = dying(8, Batches.batch)
        run(spec(corpus, method=method, settings=SETTINGS), EXECUTION, out=folder / name)
