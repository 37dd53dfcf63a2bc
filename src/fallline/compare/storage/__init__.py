"""What is kept: the folder of a comparison, its lock and fingerprint, and a mirror in an Optuna storage."""
