"""Every transform that a chain may be made of, by optax's grammar; one's own, by `fallline.transform`, too.

What changes the gradient comes first, then one rule that scales it, then decay, then the learning rate; what
changes the parameter itself (`fallline.prox`) comes last.

Example:
    >>> import torch, fallline
    >>> from fallline import transforms as t
    >>> make = fallline.chain(
    ...     t.clip_by_global_norm(1.0),
    ...     t.scale_by_adam(beta2=0.99),
    ...     t.mask_cautiously,
    ...     t.add_decayed_weights(0.01),
    ...     t.scale_by_learning_rate(1e-3),
    ... )
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> p.grad = torch.tensor([3.0, -4.0])
    >>> make([p]).step()
    >>> [round(x, 5) for x in p.tolist()]
    [0.99899, 1.00099]
"""

from fallline.core.finite import skip_nonfinite
from fallline.gradients import (
    add_noise,
    centralize,
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_quantile,
    clip_by_value,
)
from fallline.optimizers.adabelief import scale_by_adabelief
from fallline.optimizers.adabound import scale_by_adabound
from fallline.optimizers.adadelta import scale_by_adadelta
from fallline.optimizers.adafactor import scale_by_factored_rms, scale_by_relative_step
from fallline.optimizers.adagrad import scale_by_root_sum_of_squares
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.adam_mini import scale_by_adam_mini
from fallline.optimizers.adamax import scale_by_adamax
from fallline.optimizers.adopt import scale_by_adopt
from fallline.optimizers.came import clip_by_threshold, scale_by_confidence, scale_by_factored_moment
from fallline.optimizers.cautious import mask_cautiously
from fallline.optimizers.lion import scale_by_lion
from fallline.optimizers.mars import reduce_variance
from fallline.optimizers.muon import average_nesterov, orthogonalize, orthogonalize_matching_adamw
from fallline.optimizers.nadam import scale_by_nadam
from fallline.optimizers.nadamw import scale_by_nesterov_adam
from fallline.optimizers.normuon import orthogonalize_evenly, orthogonalize_evenly_matching_adamw
from fallline.optimizers.novograd import scale_by_running_norm
from fallline.optimizers.psgd_kron import scale_by_kron
from fallline.optimizers.radam import scale_by_radam
from fallline.optimizers.rmsprop import accumulate, scale_by_rms, scale_by_stddev
from fallline.optimizers.rprop import scale_by_rprop
from fallline.optimizers.sgd import scale_by_learning_rate, trace, trace_nesterov
from fallline.optimizers.signum import average, scale_by_sign
from fallline.optimizers.soap import scale_by_soap
from fallline.optimizers.sophia import scale_by_sophia
from fallline.optimizers.trust_ratio import scale_by_trust_ratio
from fallline.optimizers.update_clipping import clip_update_by_rms
from fallline.optimizers.yogi import scale_by_yogi
from fallline.penalties.decay import (
    add_decayed_weights,
    add_decoupled_decay,
    add_independent_decay,
    add_l2,
)
from fallline.wrappers.averaging import follow_parameters
from fallline.wrappers.lookahead import pull_to_slow

__all__ = [
    "accumulate", "add_decayed_weights", "add_decoupled_decay", "add_independent_decay", "add_l2",
    "add_noise", "average", "average_nesterov", "centralize", "clip_adaptively", "clip_by_global_norm",
    "clip_by_norm", "clip_by_quantile", "clip_by_threshold", "clip_by_value", "clip_update_by_rms",
    "follow_parameters", "mask_cautiously", "orthogonalize", "orthogonalize_evenly",
    "orthogonalize_evenly_matching_adamw", "orthogonalize_matching_adamw", "pull_to_slow",
    "reduce_variance", "scale_by_adabelief", "scale_by_adabound", "scale_by_adadelta", "scale_by_adam",
    "scale_by_adam_mini", "scale_by_adamax", "scale_by_adopt", "scale_by_confidence",
    "scale_by_factored_moment", "scale_by_factored_rms", "scale_by_kron", "scale_by_learning_rate",
    "scale_by_lion", "scale_by_nadam", "scale_by_nesterov_adam", "scale_by_radam",
    "scale_by_relative_step", "scale_by_rms", "scale_by_root_sum_of_squares", "scale_by_rprop",
    "scale_by_running_norm", "scale_by_sign", "scale_by_soap", "scale_by_sophia", "scale_by_stddev",
    "scale_by_trust_ratio", "scale_by_yogi", "skip_nonfinite", "trace", "trace_nesterov",
]  # fmt: skip
