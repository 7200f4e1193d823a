"""Memory of batches on the CPU: it comes back when nobody uses it, and never before."""

from __future__ import annotations

import numpy as np

from esans.train.prefetch import Memory

SHAPE, LONG = (4, 3), np.dtype(np.int64)


def test_memory_comes_back_when_its_tensor_is_gone() -> None:
    memory = Memory()
    tensor = memory.tensor(SHAPE, LONG)
    place = tensor.data_ptr()
    del tensor
    assert memory.tensor(SHAPE, LONG).data_ptr() == place


def test_a_view_keeps_the_memory_of_its_tensor() -> None:
    memory = Memory()
    tensor = memory.tensor(SHAPE, LONG)
    row, place = tensor.fill_(7)[1:2].T, tensor.data_ptr()
    del tensor
    other = memory.tensor(SHAPE, LONG).fill_(0)
    assert other.data_ptr() != place
    assert row.eq(7).all()


def test_memory_of_another_shape_or_type_is_not_taken() -> None:
    memory = Memory()
    place = memory.tensor(SHAPE, LONG).data_ptr()
    assert memory.tensor((3, 4), LONG).data_ptr() != place
    assert memory.tensor(SHAPE, np.dtype(np.float32)).data_ptr() != place


def test_many_tensors_at_once_share_nothing() -> None:
    memory = Memory()
    for _ in range(3):
        tensors = [memory.tensor(SHAPE, LONG).fill_(value) for value in range(5)]
        assert all(tensor.eq(value).all() for value, tensor in enumerate(tensors))
