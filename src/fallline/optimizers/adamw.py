from fallline.core.optimizer import Optimizer
from fallline.core.scalar import sqrt
from fallline.core.transform import per_tensor, transform
from fallline.core.hyperparameter import Hyperparameter as H

@per_tensor()
def bias_correction(*, step, beta1, beta2):
    return dict(bias1=1 - beta1**step, bias2=1 - beta2**step)


@transform(slots=("exp_avg", "exp_avg_sq"), per_tensor=bias_correction)
def scale_by_adam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, bias1, bias2):
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g
    return (exp_avg / bias1) / (sqrt(exp_avg_sq / bias2) + eps), exp_avg, exp_avg_sq

@transform()
def add_decayed_weights(g, p, *, weight_decay):
    return g + weight_decay * p

@transform()
def scale_by_learning_rate(g, *, lr):
    return lr * g

class AdamW(Optimizer):
    hyperparameters=(H("lr",1e-3,""),H("betas",(.9,.999),"",parts=(H("beta1",.9,"",low=0,high=1,open_high=True),H("beta2",.999,"",low=0,high=1,open_high=True))),H("eps",1e-8,"",low=0), H("weight_decay",1e-2,""))
    def __init__(self, params, lr=1e-3, betas=(.9,.999), eps=1e-8, weight_decay=1e-2, **kw):
        super().__init__(params, dict(lr=lr, betas=betas,eps=eps,weight_decay=weight_decay, **kw))
    @classmethod
    def rules(cls, group):
        return (scale_by_adam, *( [add_decayed_weights] if group["weight_decay"] else []), scale_by_learning_rate)
Adam=AdamW
