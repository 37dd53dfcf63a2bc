"""Tune AdamW on digits with Optuna in two processes on one journal, as its documentation tells.

``python with_optuna.py FOLDER TRIALS loader|tensors``
"""

import multiprocessing
import sys

import optuna
import torch
from digits import BATCHES, load, train
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

PROCESSES = 2


def storage(folder):
    """Return the journal that the processes share."""
    return JournalStorage(JournalFileBackend(f"{folder}/journal.log"))


def optimize(folder, trials, kind):
    """Run some of the study's trials in this process."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = load()
    batches = BATCHES[kind](*data[:2])

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        losses = []
        for epoch, loss in enumerate(train(data, batches, lr)):
            trial.report(loss, epoch)
            losses.append(loss)
        return min(losses)

    optuna.load_study(study_name="digits", storage=storage(folder)).optimize(objective, n_trials=trials)


if __name__ == "__main__":
    folder, trials, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="digits", storage=storage(folder))
    shares = [len(range(trials)[i::PROCESSES]) for i in range(PROCESSES)]
    processes = [multiprocessing.Process(target=optimize, args=(folder, share, kind)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(sum(trial.state.is_finished() for trial in study.trials), study.best_value)
