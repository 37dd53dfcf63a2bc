"""What studies measure with: sweeps, sharpness, timings, importance, escapes, and how each is shown."""
