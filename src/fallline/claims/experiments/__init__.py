"""What claims are judged on: each experiment runs once for all claims that need it."""
