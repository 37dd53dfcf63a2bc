"""Run every benchmark, or those named: ``python -m benches steps overhead tuning``."""

import sys

from benches import (
    around,
    bandwidth,
    gpu,
    library,
    overhead,
    precision,
    sparse,
    startup,
    steps,
    tuning,
    verdicts,
)  # fmt: skip
from benches.timing import stamp

ALL = {
    "steps": steps.main,
    "bandwidth": bandwidth.main,
    "library": library.main,
    "gpu": gpu.main,
    "precision": precision.main,
    "around": around.main,
    "sparse": sparse.main,
    "startup": startup.main,
    "overhead": overhead.main,
    "tuning": tuning.main,
    "verdicts": verdicts.main,
}

if __name__ == "__main__":
    print(stamp())
    for name in sys.argv[1:] or ALL:
        ALL[name]()
