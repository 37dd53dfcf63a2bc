"""``python -m fallline``: the command line, by whichever Python runs it."""

from fallline.cli import main

if __name__ == "__main__":
    main()
