"""Sinkhorn and KoLeo over several processes against the reference over as many; the processes start once for all."""

import pytest
import torch
import torch.distributed as dist

from dinox_hf.losses.koleo import koleo_loss
from dinox_hf.losses.sinkhorn import sinkhorn_knopp, update_center
from tests.parity.fixtures import assert_parity, cases, find, leaf, load
from tests.parity.ranks import run_on_ranks


def work(rank):
    """What one rank computes: every case of its world size."""
    results = {"world_size": torch.tensor(dist.get_world_size())}
    for case in find("dist"):
        if case["hyper"]["world"] == dist.get_world_size():
            own = load(case)[0][f"rank{rank}"]
            compute = _koleo if "topk" in case["hyper"] else _sinkhorn
            results |= {f"{case['case']}/{name}": value for name, value in compute(own, case["hyper"]).items()}
    return results


def _sinkhorn(logits, hyper):
    return {
        "targets": sinkhorn_knopp(logits, hyper["teacher_temp"], hyper["n_iterations"]),
        "center": update_center(torch.ones(logits.shape[1]), logits),
    }


def _koleo(tokens, hyper):
    tokens = leaf(tokens)
    loss = koleo_loss(tokens, hyper["topk"], hyper["ranks_per_group"])
    loss.backward()
    return {"loss": loss.detach(), "gradient": tokens.grad}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """World size -> what each of its ranks computed."""
    worlds = sorted({case["hyper"]["world"] for case in find("dist")})
    return {world: run_on_ranks(work, world, tmp_path_factory.mktemp("ranks")) for world in worlds}


def results_of(case, ranks):
    world = case["hyper"]["world"]
    assert [rank["world_size"].item() for rank in ranks[world]] == [world] * world
    return [{name: rank[f"{case['case']}/{name}"] for name in _names(case)} for rank in ranks[world]]


def _names(case):
    return ("loss", "gradient") if "topk" in case["hyper"] else ("targets", "center")


@pytest.mark.parametrize("case", cases("dist", hyper="n_iterations"))
def test_sinkhorn_over_all_ranks_matches_also_with_uneven_and_empty_shards(case, ranks):
    _, outputs = load(case)
    for rank, found in enumerate(results_of(case, ranks)):
        assert_parity(found["targets"], outputs[f"targets_rank{rank}"], f"rank {rank}")


@pytest.mark.parametrize("case", cases("dist", hyper="n_iterations"))
def test_shards_give_what_one_process_gives_on_their_rows_joined(case, ranks):
    inputs, _ = load(case)
    hyper, found = case["hyper"], results_of(case, ranks)
    joined = torch.cat([inputs[f"rank{rank}"] for rank in range(hyper["world"])])
    expected = _sinkhorn(joined, hyper)
    assert_parity(torch.cat([rank["targets"] for rank in found]), expected["targets"], "targets")
    for rank in found:
        assert_parity(rank["center"], expected["center"], "center")


@pytest.mark.parametrize("case", cases("dist", hyper="ranks_per_group"))
def test_koleo_over_groups_of_ranks_matches_with_the_gradient_that_comes_back_from_others(case, ranks):
    _, outputs = load(case)
    for rank, found in enumerate(results_of(case, ranks)):
        assert_parity(found["loss"], outputs[f"loss_rank{rank}"], f"loss of rank {rank}")
        assert_parity(found["gradient"], outputs[f"grad_rank{rank}"], f"gradient of rank {rank}")
