"""One `Claim` for each assertion of a paper; `judge` measures them in a tidy frame. Loads no torch."""

from .claim import Claim, Measured, NotMeasured, Verdict, check_frame, decide, judge
from .registry import CLAIMS, find_claim
from .statistics import final, final_pair, run_seconds, runs_of, saving, speed_up, t_interval

__all__ = [
    "CLAIMS",
    "Claim",
    "Measured",
    "NotMeasured",
    "Verdict",
    "check_frame",
    "decide",
    "final",
    "final_pair",
    "find_claim",
    "judge",
    "run_seconds",
    "runs_of",
    "saving",
    "speed_up",
    "t_interval",
]
