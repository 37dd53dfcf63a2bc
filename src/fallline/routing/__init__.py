"""Layer-wise optimizers: rules that say which parameters are stepped by what, as one optimizer."""

from fallline.routing.depth import layerwise_decay
from fallline.routing.route import Frozen, Route, RoutingError, route
from fallline.routing.routed import Routed
from fallline.routing.select import Selector, depth, named, ndim, rest, shaped, within

__all__ = [
    "Frozen", "Route", "Routed", "RoutingError", "Selector", "depth", "layerwise_decay", "named", "ndim",
    "rest", "route", "shaped", "within",
]  # fmt: skip
