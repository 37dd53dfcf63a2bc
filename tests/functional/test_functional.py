"""The functional form against the optimizers themselves, central differences and closed forms."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import fallline
from fallline.core.scalar import sqrt
from fallline.functional import init, update
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate
from optimizers.beyond import SUMMED
from optimizers.cases import CASES, IDS, run

each_case = pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)


def problem(steps: int, shape: tuple[int, ...], dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=dtype)
    return start, torch.randn((steps, *shape), generator=generator, dtype=dtype)


def course(rule, start, grads, settings, seen=()):
    """Return the parameter after each step of the pure function, and the last state."""
    p, state = start, init(rule, start, **settings)
    for g in grads:
        p, state = update(rule, p, g, state, **settings)
        seen = (*seen, p)
    return torch.stack(seen), state


@each_case
def test_equals_the_optimizer_on_the_cpu_backend(cls, settings):
    start, grads = problem(10, (19,), torch.float32)
    want, _ = run(cls, settings, start, grads, "cpu")
    # a kernel multiplies by reciprocals: 4 float32 roundings in each of ten steps of size 0.1
    torch.testing.assert_close(course(cls, start, grads, settings)[0], want, rtol=1e-6, atol=1e-6)


def test_gradients_reach_the_strength_of_a_penalty():
    """Each step moves an element that stays away from zero by lr · strength more."""
    optimizer = fallline.ProximalSGD([torch.zeros(1)], lr=0.1, prox=fallline.prox.L1(0.5))
    start = torch.tensor([2.0, -2.0], dtype=torch.float64)

    def final(strength):
        p, state = start, init(optimizer, start)
        for _ in range(3):
            p, state = update(optimizer, p, torch.zeros_like(p), state, strength=strength)
        return p

    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    slopes = torch.func.jacrev(final)(strength.detach())
    torch.testing.assert_close(slopes, torch.tensor([-0.3, 0.3], dtype=torch.float64))
    assert gradcheck(final, (strength,))


def test_nadams_slope_in_its_first_decay_rate_is_that_of_wide_differences():
    start, grads = problem(4, (3,))

    def final(beta1):
        betas = (beta1, torch.tensor(0.999, dtype=torch.float64))
        return course(fallline.NAdam, start, grads, {"lr": 1.0, "betas": betas})[0][-1]

    beta1 = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    # differences over 2e-3 err by 6e-8 / 2e-3 from rounding and by 1e-6 f''' from truncation
    assert gradcheck(final, (beta1,), eps=1e-3, atol=1e-3, rtol=1e-3)


def test_a_setting_of_zero_given_as_a_tensor_has_its_derivative():
    """d p₁ / d λ = -η p₀ for coupled decay."""
    p, g = torch.tensor([2.0]), torch.tensor([1.0])

    def final(decay):
        return update(fallline.SGD, p, g, init(fallline.SGD, p), lr=0.1, weight_decay=decay)[0].sum()

    assert torch.func.grad(final)(torch.tensor(0.0)).item() == pytest.approx(-0.2)


def test_hypergradient_of_one_sgd_step_in_closed_form():
    """On p'Ap/2, d loss(p - η A p) / d η = -(A p)' A (p - η A p)."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    matrix, p = root @ root.T, torch.randn(5, generator=generator, dtype=torch.float64)

    def loss_after(lr):
        new, _ = update(fallline.SGD, p, matrix @ p, init(fallline.SGD, p), lr=lr)
        return new @ matrix @ new / 2

    lr = torch.tensor(0.03, dtype=torch.float64)
    exact = -(matrix @ p) @ matrix @ (p - lr * (matrix @ p))
    torch.testing.assert_close(torch.func.grad(loss_after)(lr), exact)


def test_hypergradients_are_finite_where_a_gradient_is_zero():
    """The root of the second moment has an infinite slope at 0; the step there has none."""
    p, g = torch.ones(2), torch.tensor([0.0, 1.0])
    state = init(fallline.Adam, p)

    def final(lr, beta2, g):
        betas = (torch.tensor(0.9), beta2)
        return update(fallline.Adam, p, g, state, lr=lr, betas=betas)[0].sum()

    slopes = torch.func.grad(final, argnums=(0, 1, 2))(torch.tensor(0.1), torch.tensor(0.999), g)
    assert all(torch.isfinite(slope).all() for slope in slopes)


def test_a_root_of_a_negative_number_is_still_not_a_number():
    x = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    assert sqrt(x).isnan().tolist() == [False, False, True]


def configurations(settings, count=3):
    """Return ``count`` learning rates and weight decays, and copies of the start for each."""
    lrs = torch.linspace(0.5, 1.5, count, dtype=torch.float64) * settings.get("lr", 0.01)
    return lrs, torch.linspace(0.0, 0.1, count, dtype=torch.float64)


@pytest.mark.parametrize(("cls", "settings"), [*CASES, *SUMMED])
def test_vmap_over_configurations_equals_the_loop_over_them(cls, settings):
    start, grads = problem(6, (4,))
    lrs, decays = configurations(settings)
    starts = torch.stack([start + i for i in range(len(lrs))])
    decayed = "weight_decay" in settings

    def train(p, lr, decay):
        given = {**settings, "lr": lr, **({"weight_decay": decay} if decayed else {})}
        return course(cls, p, grads, given)[0][-1]

    loop = torch.stack([train(*one) for one in zip(starts, lrs, decays, strict=True)])
    torch.testing.assert_close(torch.vmap(train)(starts, lrs, decays), loop, rtol=1e-12, atol=1e-12)


@each_case
def test_vmap_steps_parameters_and_state_that_come_in_stacked(cls, settings):
    start, grads = problem(3, (4,))
    lrs = torch.tensor([0.1, 0.2], dtype=torch.float64)
    params = {"w": torch.stack([start, start])}
    state = torch.vmap(lambda p: init(cls, p, **settings))(params)
    for g in grads:

        def step(p, s, lr, g=g):
            return update(cls, p, {"w": g}, s, **{**settings, "lr": lr})

        params, state = torch.vmap(step)(params, state, lrs)
    for row, lr in zip(params["w"], lrs.tolist(), strict=True):
        alone = course(cls, start, grads, {**settings, "lr": lr})[0][-1]
        torch.testing.assert_close(row, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode calls it
def test_forward_mode_and_reverse_mode_agree():
    start, grads = problem(4, (3,))

    def final(lr):
        return course(fallline.NAdam, start, grads, {"lr": lr})[0][-1]

    lr = torch.tensor(0.1, dtype=torch.float64)
    torch.testing.assert_close(torch.func.jacfwd(final)(lr), torch.func.jacrev(final)(lr))


def test_a_whole_model_trains_as_with_the_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = fallline.AdamW(model.parameters(), lr=0.1, foreach=False)
    state = init(optimizer, params)

    def loss(p):
        return (torch.func.functional_call(model, p, (x,)) - y).square().mean()

    for _ in range(5):
        optimizer.zero_grad()
        loss(dict(model.named_parameters())).backward()
        optimizer.step()
        params, state = update(optimizer, params, torch.func.grad(loss)(params), state)
    for name, p in model.named_parameters():
        torch.testing.assert_close(params[name], p.detach(), rtol=1e-6, atol=1e-6)


def test_nothing_is_written_in_place():
    p, g = torch.ones(3), torch.ones(3)
    state = init(fallline.NAdam, [p])
    before = {name: value.clone() for name, value in state[0].items()}
    update(fallline.NAdam, [p], [g], state)
    assert torch.equal(p, torch.ones(3))
    assert torch.equal(g, torch.ones(3))
    assert all(torch.equal(state[0][name], value) for name, value in before.items())


@pytest.mark.parametrize("container", [list, tuple])
def test_a_parameter_without_gradient_stays_as_it_is(container):
    params = container([torch.ones(2), torch.ones(3)])
    state = init(fallline.Adam, params)
    params, state = update(fallline.Adam, params, [torch.ones(2), None], state, lr=0.5)
    assert type(params) is container
    assert [p[0].item() for p in params] == pytest.approx([0.5, 1.0])
    assert [s["step"].item() for s in state] == [1, 0]


def test_a_chain_is_a_rule():
    p, g = torch.ones(2), torch.ones(2)
    make = fallline.chain(scale_by_adam(beta1=0.5), scale_by_learning_rate(0.25))
    new, state = update(make, p, g, init(make, p))
    assert new.tolist() == pytest.approx([0.75, 0.75])
    assert state["exp_avg"].tolist() == [0.5, 0.5]


def test_a_step_that_is_not_finite_is_skipped_if_the_optimizer_says_so():
    optimizer = fallline.AdamW([torch.zeros(1)], skip_nonfinite=True)
    params = [torch.ones(2), torch.ones(2)]
    grads = [torch.ones(2), torch.tensor([1.0, float("nan")])]
    state = init(optimizer, params)
    same, after = update(optimizer, params, grads, state)
    assert all(torch.equal(a, b) for a, b in zip(same, params, strict=True))
    assert after[0]["step"].item() == 0
    assert update(optimizer, params, [grads[0]] * 2, state)[1][0]["step"].item() == 1


def one_step(rule, params=None, grads=None, **settings):
    params = torch.ones(2) if params is None else params
    return update(rule, params, torch.ones(2) if grads is None else grads, init(rule, params), **settings)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: one_step(torch.optim.Adam), TypeError, "Adam has no functional form; give a fallline"),
        (lambda: one_step(fallline.Lookahead), TypeError, "Lookahead has no functional form"),
        (lambda: one_step(fallline.Adam, lr=-1.0), ValueError, "Invalid learning rate: -1"),
        (lambda: one_step(fallline.Adam, lr=torch.tensor(-1.0)), ValueError, "Invalid learning rate: -1"),
        (lambda: one_step(fallline.Adam, weigth_decay=0.1), TypeError, "did you mean 'weight_decay'"),
        (lambda: one_step(fallline.Adam([torch.zeros(1)]), weigth_decay=0.1), TypeError, "did you mean"),
        (lambda: one_step(fallline.Adam([torch.zeros(1)]), lr=-1.0), ValueError, "Invalid learning rate"),
        (lambda: one_step(fallline.Adam, lr=torch.ones(3)), ValueError, "use vmap for many at once"),
        (lambda: one_step(fallline.Adam, grads=torch.ones(3)), ValueError, r"a gradient has shape \(3,\)"),
        (lambda: one_step(fallline.Adam, params=iter([])), TypeError, "params must be a tensor, or a list"),
        (lambda: one_step(fallline.Adam, params=[torch.ones(2)]), ValueError, "grads must have the form"),
        (lambda: one_step(fallline.SGD, lr=fallline.schedules.cosine(10)), ValueError, "schedule"),
        (
            lambda: one_step(fallline.SGD([torch.zeros(1)], lr=fallline.schedules.cosine(10))),
            ValueError,
            "the value at each step",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_remedy(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_optimizer_of_several_groups_has_no_one_rule():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.2)]
    with pytest.raises(ValueError, match="this SGD has 2 groups, and a pure function has one rule"):
        init(fallline.SGD(groups), torch.ones(1))
