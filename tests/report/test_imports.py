"""Reading results must not cost the import of what only drawing needs."""

import subprocess
import sys


def test_rich_and_plotly_are_imported_on_use():
    code = (
        "import sys, fallline.report.terminal, fallline.report.html, fallline.compare.judgement.verdict;"
        "print(*sorted({'rich', 'plotly'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
