"""Work that threads divide among themselves."""

import threading

import pytest
import torch

from fallline.backends import threads
from fallline.optimizers.preconditioning import decomposed


@pytest.mark.usefixtures("two_threads")
def test_each_item_has_its_result_and_two_work_at_a_time():
    met = threading.Barrier(2, timeout=30)

    def look(i: int) -> tuple[int, int]:
        met.wait()
        return i, threading.get_ident()

    found = threads.each(look, range(6))
    assert [i for i, _ in found] == [*range(6)]
    assert len({thread for _, thread in found}) == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_one_item_raises_is_raised_when_all_threads_have_ended(error):
    def look(i: int) -> None:
        if i == 3:
            raise error("the fourth")

    with pytest.raises(error, match="the fourth"):
        threads.each(look, range(6))


@pytest.mark.parametrize("function", [torch.linalg.eigh, torch.linalg.qr])
@pytest.mark.parametrize("shape", [(1, 3, 3), (7, 3, 3), (5, 2, 1, 4, 4), (0, 3, 3), (3, 0, 0)])
def test_decompositions_of_a_stack_have_the_same_bits_with_any_threads(function, shape, two_threads):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shared = decomposed(function, x + x.mT)
    torch.set_num_threads(1)
    for a, b in zip(shared, function(x + x.mT), strict=True):
        assert a.equal(b)


@pytest.mark.usefixtures("two_threads")
def test_decompositions_can_be_differentiated():
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decomposed(torch.linalg.eigh, x + x.mT)[0], x)
