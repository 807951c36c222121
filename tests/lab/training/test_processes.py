"""How the processes of a run part."""

import pytest
import torch.distributed as dist

from instancersr.lab.training.processes import Processes


@pytest.mark.parametrize(("ended_by", "joined"), [(None, False), (KeyboardInterrupt, False), (ValueError, True)])
def test_the_group_is_left_unless_the_others_may_still_be_in_it(ended_by, joined):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with Processes("cpu").together():
            assert dist.is_initialized()
            if ended_by is not None:
                raise ended_by
    except (KeyboardInterrupt, ValueError):
        pass
    assert dist.is_initialized() == joined
    if joined:
        dist.destroy_process_group()
