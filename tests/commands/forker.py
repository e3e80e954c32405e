"""Reads requests from stdin, a JSON object a line: start the command in a fork, or wait for one to end.

Importing torch and transformers takes seconds; a fork of a process that has done so takes none, and can be killed like
any other. This process itself computes nothing, so that its forks may use autograd.
"""

import json
import os
import sys

import pandas  # noqa: F401
import torch._dynamo  # noqa: F401 (an optimizer imports it at its first step)
from transformers import AutoTokenizer, GPT2Config  # noqa: F401

import est_analysis.experiments.runs.run  # noqa: F401
from est_analysis.__main__ import main


def child(folder: str, arguments: list[str]) -> None:
    os.chdir(folder)
    for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["est", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        print("Traceback", repr(error), file=sys.stderr)
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                child(**request)
        print(json.dumps(answer), flush=True)
