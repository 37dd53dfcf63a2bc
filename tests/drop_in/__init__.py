"""Is each class what it replaces? torch.optim's own class runs beside ours and is the oracle."""
