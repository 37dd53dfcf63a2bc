"""``fallline`` and ``python -m fallline``: the command line as a program of its own."""

import gc
import os
import sys

from fallline.cli import main

#: Commands that leave nothing behind but files that are closed. Their process ends at once, to take torch
#: apart takes two thirds of a second, and looks for no garbage in what it has read, which takes as long.
AT_ONCE = {"report"}


def run() -> None:
    """Run the command, and end with its exit code."""
    at_once = not AT_ONCE.isdisjoint(sys.argv[1:2])
    if at_once:
        gc.disable()
    try:
        main()
    except SystemExit as end:
        if not at_once or not isinstance(end.code, int):
            raise
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed
            stream.flush()
        os._exit(end.code)


if __name__ == "__main__":
    run()
