"""The constructor and the class itself look like torch's."""

import inspect

import torch

from drop_in.pairs import each_pair, each_run, make_params


@each_pair
def test_class_is_a_torch_optimizer_of_the_same_name(pair):
    assert issubclass(pair.ours, torch.optim.Optimizer)
    assert pair.ours.__name__ == pair.theirs.__name__
    assert pair.ours is not pair.theirs


@each_pair
def test_bases_among_the_drop_ins_are_those_of_torch(pair):
    theirs = {base.__name__ for base in pair.theirs.__mro__}
    ours = {base.__name__ for base in pair.ours.__mro__}
    assert theirs <= ours


@each_run
def test_defaults_are_the_same(pair, settings):
    assert pair.ours(make_params(), **settings).defaults == pair.theirs(make_params(), **settings).defaults


@each_run
def test_repr_is_the_same(pair, settings):
    assert repr(pair.ours(make_params(), **settings)) == repr(pair.theirs(make_params(), **settings))


@each_pair
def test_all_arguments_by_position_up_to_the_star(pair):
    by_position = [
        p.default
        for p in inspect.signature(pair.theirs).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "params"
    ]
    ours, theirs = pair.ours(make_params(), *by_position), pair.theirs(make_params(), *by_position)
    assert ours.defaults == theirs.defaults


@each_pair
def test_class_has_a_docstring_that_is_its_own(pair):
    assert pair.ours.__doc__
    assert pair.ours.__doc__ != pair.theirs.__doc__
