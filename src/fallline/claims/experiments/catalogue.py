"""The experiments by name."""

from collections.abc import Mapping
from types import MappingProxyType

from fallline.claims.experiments.experiment import Experiment
from fallline.claims.experiments.functions import FUNCTIONS
from fallline.claims.experiments.networks import NETWORKS
from fallline.claims.experiments.processes import PROCESSES

#: Every experiment, the quick ones first, so that claims are judged as early as possible.
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {each.name: each for each in (*FUNCTIONS, *PROCESSES, *NETWORKS)}
)
