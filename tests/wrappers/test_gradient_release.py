"""GradientRelease against ordinary stepping, bit for bit."""

import copy
import pickle

import pytest
import torch
from nest import flat, reloaded
from torch import nn

import fallline
from fallline import schedules

OPTIMIZERS = {
    "AdamW": lambda p: fallline.AdamW(p, lr=0.01, weight_decay=0.1),
    "SGD": lambda p: fallline.SGD(p, lr=0.01, momentum=0.9),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "torch RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
    "torch Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
}
each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Tied(nn.Module):
    """A model whose first weight is used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))


def batch(t):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(t))


def two(make, **settings):
    """Return two equal models, one with a released optimizer and one with an ordinary one."""
    model, plain = Tied(), Tied()
    return (
        model,
        fallline.GradientRelease(make(model.parameters()), **settings),
        plain,
        make(plain.parameters()),
    )


def step(model, optimizer, t, factor=1.0):
    (model(batch(t)).square().mean() * factor).backward()
    optimizer.step()
    optimizer.zero_grad()


def assert_same(model, plain):
    assert all(map(torch.equal, model.parameters(), plain.parameters()))


@each
def test_equals_ordinary_stepping_bit_for_bit(make):
    model, release, plain, optimizer = two(make)
    for t in range(6):
        step(model, release, t)
        step(plain, optimizer, t)
        assert_same(model, plain)
    assert flat(release.state_dict()["optimizer"]) == flat(optimizer.state_dict())


def test_the_parameters_move_in_backward_and_at_most_one_gradient_exists():
    model, alive = Tied(), []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    before = [p.detach().clone() for p in model.parameters()]
    fallline.GradientRelease(fallline.AdamW(model.parameters()))
    model(batch(0)).square().mean().backward()
    assert alive == [1, 1, 1, 1]
    assert all(p.grad is None for p in model.parameters())
    assert not any(map(torch.equal, model.parameters(), before))


@each
def test_torchs_schedulers(make):
    model, release, plain, optimizer = two(make)
    sides = [
        (m, o, torch.optim.lr_scheduler.ExponentialLR(o, 0.7))
        for m, o in ((model, release), (plain, optimizer))
    ]
    for t in range(4):
        for m, o, scheduler in sides:
            step(m, o, t)
            scheduler.step()
    assert_same(model, plain)


def test_schedules_of_fallline():
    model, release, plain, optimizer = two(
        lambda p: fallline.AdamW(
            p, lr=0.1 * schedules.cosine(6), weight_decay=0.1 * schedules.linear(1.0, 0.2, 9)
        )
    )
    for t in range(5):
        step(model, release, t)
        step(plain, optimizer, t)
    assert_same(model, plain)
    assert flat(release.state_dict()["optimizer"]) == flat(optimizer.state_dict())


class Counting(torch.optim.Optimizer):
    """A plain optimizer that counts its steps in the group, as some do."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr, "step": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"] / group["step"])


def test_counters_in_groups_count_passes():
    model, release, plain, optimizer = two(Counting)
    for t in range(4):
        step(model, release, t)
        step(plain, optimizer, t)
    assert_same(model, plain)
    assert release.param_groups[0]["step"] == 4


@each
def test_accumulating_equals_the_sum(make):
    model, release, plain, optimizer = two(make)
    for t in range(4):
        with release.accumulating():
            model(batch(t)).square().mean().backward()
            assert model.first.weight.grad is not None
            with pytest.raises(RuntimeError, match="leave `accumulating"):
                release.step()
        plain(batch(t)).square().mean().backward()
        step(model, release, t + 9)
        step(plain, optimizer, t + 9)
    assert_same(model, plain)


def test_clips_by_the_norm_of_the_pass_before_and_of_this_one_so_far():
    values = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
    params = [nn.Parameter(torch.zeros_like(v)) for v in values]
    release = fallline.GradientRelease(fallline.SGD(params, lr=1.0), max_norm=2.0)
    for p, g in zip(params, values, strict=True):
        p.grad = g.clone()
    release.step()  # in order: norm 5 so far, then 13
    torch.testing.assert_close([-p.detach() for p in params], [values[0] * 2 / 5, values[1] * 2 / 13])
    assert release.norm == pytest.approx(13.0)
    before = [p.detach().clone() for p in params]
    for p, g in zip(params, values, strict=True):
        p.grad = g / 13
    release.step()
    moved = [b - p.detach() for b, p in zip(before, params, strict=True)]
    torch.testing.assert_close(moved, [v / 13 * 2 / 13 for v in values])
    assert release.norm == pytest.approx(1.0)


@pytest.mark.parametrize("through", ["scaler.step", "step"])
@each
def test_with_a_gradient_scaler_equals_the_unscaled_training(make, through):
    model, plain = Tied(), Tied()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    release, optimizer = (
        fallline.GradientRelease(make(model.parameters()), scaler=scaler),
        make(plain.parameters()),
    )
    for t in range(5):
        scaler.scale(model(batch(t)).square().mean()).backward()
        scaler.step(release) if through == "scaler.step" else release.step()
        scaler.update()
        step(plain, optimizer, t)
        assert_same(model, plain)  # scales are powers of two: unscaling is exact
    assert scaler.get_scale() == 2.0**12


def test_a_tensor_that_is_not_finite_is_left_out_and_the_scaler_told():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    release = fallline.GradientRelease(fallline.SGD(params, lr=1.0), max_norm=100.0, scaler=scaler)
    scaler.scale(params[0].sum() + (params[1] * float("inf")).sum()).backward()
    release.step()
    scaler.update()
    assert params[0].tolist() == [0.0, 0.0]
    assert params[1].tolist() == [1.0, 1.0, 1.0]
    assert scaler.get_scale() == 8.0
    assert release.norm == pytest.approx(2**0.5)


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_resumes_bit_for_bit(how):
    model, release, _, _ = two(OPTIMIZERS["AdamW"], max_norm=0.1)
    for t in range(3):
        step(model, release, t)
    if how == "state_dict":
        other = copy.deepcopy(model)
        again = fallline.GradientRelease(fallline.AdamW(other.parameters(), lr=3.0), max_norm=0.1)
        again.load_state_dict(reloaded(release.state_dict()))
    else:
        duplicate = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        other, again = duplicate((model, release))
    for t in range(3, 6):
        step(model, release, t)
        other(batch(t)).square().mean().backward()
        assert all(p.grad is None for p in other.parameters())
        again.step()
    assert_same(model, other)


def test_added_and_unfrozen_parameters_are_released_and_removed_ones_not():
    model = Tied()
    model.second.weight.requires_grad_(False)
    release = fallline.GradientRelease(fallline.SGD(model.first.parameters(), lr=0.01))
    release.add_param_group({"params": model.second.parameters()})
    step(model, release, 0)
    model.second.weight.requires_grad_(True)
    step(model, release, 1)
    model(batch(2)).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    release.step()
    release.remove()
    model(batch(3)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


REFUSED = {
    "put Lookahead around GradientRelease": lambda p: fallline.Lookahead(fallline.SGD(p)),
    "put EMA around GradientRelease": lambda p: fallline.EMA(fallline.SGD(p)),
    "one is enough": lambda p: fallline.GradientRelease(fallline.SGD(p)),
    "takes gradients as they are": lambda p: torch.optim.LBFGS(p),
    "max_norm=": lambda p: fallline.AdamW(p, skip_nonfinite=True),
}


@pytest.mark.parametrize("remedy", REFUSED)
def test_what_needs_all_gradients_is_refused_with_the_way_round(remedy):
    inner = REFUSED[remedy](Tied().parameters())
    with pytest.raises(ValueError, match=remedy):
        fallline.GradientRelease(inner)


def test_wrappers_that_need_gradients_refuse_it():
    release = fallline.GradientRelease(fallline.SGD(Tied().parameters()))
    nested = fallline.Lookahead(release)
    for make in (fallline.SAM, fallline.ScheduleFree, lambda o: fallline.Accumulate(o, 2)):
        with pytest.raises(ValueError, match="leaves none"):
            make(nested)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        fallline.GradientRelease(fallline.SGD(Tied().parameters()), max_norm=0.0)


def test_sparse_gradients_are_clipped_by_the_norm_of_their_sums():
    table = torch.nn.Embedding(4, 1, sparse=True)
    torch.nn.init.zeros_(table.weight)
    fallline.GradientRelease(fallline.SGD(table.parameters(), lr=1.0), max_norm=1.0)
    (table(torch.tensor([1, 1, 1, 2, 2, 2, 2])).sum()).backward()  # gradients 3 and 4
    assert table.weight.flatten().tolist() == pytest.approx([0.0, -0.6, -0.8, 0.0])


def test_what_is_no_scaler_is_refused():
    with pytest.raises(TypeError, match=r"give a torch\.amp.GradScaler"):
        fallline.GradientRelease(fallline.SGD([torch.nn.Parameter(torch.ones(1))]), scaler=65536.0)
