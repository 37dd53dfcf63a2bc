"""Where trainings run: in this process, in worker processes, on a Ray cluster; with the same results."""
