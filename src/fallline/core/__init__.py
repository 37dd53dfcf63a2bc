"""The engine: transforms, plans, the step loop, hyperparameters and the registry; no optimizer by name."""
