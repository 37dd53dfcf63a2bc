"""Tune AdamW on digits with Ray Tune, two trials at a time.

``python with_ray_tune.py FOLDER TRIALS loader|tensors``
"""

import sys

import ray
import torch
from digits import BATCHES, load, train
from ray import tune

PROCESSES = 2


def objective(config, data, kind):
    """Run one trial, in a process that Tune uses again for the next."""
    torch.set_num_threads(1)
    for loss in train(data, BATCHES[kind](*data[:2]), config["lr"]):
        tune.report({"loss": loss})


if __name__ == "__main__":
    folder, trials, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(objective, data=load(), kind=kind), {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-5, 1e-1)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=trials, max_concurrent_trials=PROCESSES, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    results = tuner.fit()
    print(len(results) - results.num_errors, results.get_best_result(scope="all").metrics["loss"])
