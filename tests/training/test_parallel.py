from __future__ import annotations

import math

import pytest
import torch

from headwater.core.errors import MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.training.parallel import disagreement, set_up


@pytest.mark.parametrize("compiled", [math.nan, math.inf, 4.2, 4.098])
def test_compiled_code_with_another_loss_is_distrusted(compiled):
    assert f"is {compiled:.5f}, the plain one 4.10000" in str(disagreement(compiled, 4.1, 1e-3))


@pytest.mark.parametrize(("compiled", "plain"), [(4.1005, 4.1), (math.nan, math.nan), (4.1, math.inf)])
def test_compiled_code_is_not_blamed_for_anything_else(compiled, plain):
    assert disagreement(compiled, plain, 1e-3) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MismatchError, match=r"machine\.device: torch finds no CUDA device.*machine\.device=auto"):
        set_up(Workspace(tmp_path, Machine(device="cuda")))
