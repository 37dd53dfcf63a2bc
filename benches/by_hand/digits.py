"""Training on digits as a user of torch writes it, with a `DataLoader` or with tensors in memory."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH_SIZE, VALID_SAMPLES = 20, 32, 360


def load():
    """Return training inputs and targets, validation inputs and targets."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=VALID_SAMPLES, stratify=labels, random_state=0)
    x_train, x_valid = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y_train, y_valid = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
    return x_train, y_train, x_valid, y_valid


def loader(inputs, targets):
    """Return batches in a new order each time it is gone through, as torch's tutorials do."""
    return DataLoader(TensorDataset(inputs, targets), batch_size=BATCH_SIZE, shuffle=True)


class InMemory:
    """The same without the loader's work on single samples."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __iter__(self):
        for rows in torch.randperm(len(self.inputs)).split(BATCH_SIZE):
            yield self.inputs[rows], self.targets[rows]


BATCHES = {"loader": loader, "tensors": InMemory}


def train(data, batches, lr):
    """Train once and yield the validation loss after each epoch."""
    x_train, y_train, x_valid, y_valid = data
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    for _ in range(EPOCHS):
        model.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        evaluate(model, x_train[:VALID_SAMPLES], y_train[:VALID_SAMPLES])
        yield evaluate(model, x_valid, y_valid)[0]


@torch.no_grad()
def evaluate(model, inputs, targets):
    """Return loss and accuracy."""
    model.eval()
    outputs = model(inputs)
    return cross_entropy(outputs, targets).item(), (outputs.argmax(1) == targets).float().mean().item()
