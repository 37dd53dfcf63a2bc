"""The page on claims: its example runs and says what it prints."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/claims.md").read_text()


def test_the_example_prints_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.rsplit("# ", 1)[1].strip()
