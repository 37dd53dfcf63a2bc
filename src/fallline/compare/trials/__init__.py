"""One training: a pure function of task, arm and spec."""
