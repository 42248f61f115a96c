"""Steps without a finite gradient: counted to the step, named to the slice, and none of it inside a step."""

import torch

from dinox_hf.data.loader import PretrainLoader
from dinox_hf.pretraining.skipped_steps import SkippedStep, SkippedSteps, in_words, slice_names
from tests.pretraining.test_no_host_sync import NoHostSync


def watched(skips, flags, first_step=0):
    for step, flag in enumerate(flags, first_step):
        skips.watch(step, torch.tensor(flag), [torch.tensor([10 * step]), torch.tensor([10 * step + 1])])
    return skips.settle()


def test_skipped_steps_are_counted_and_their_rows_named():
    skips = SkippedSteps()
    assert watched(skips, [True, False, True]) == [SkippedStep(1, [10, 11])]
    assert (skips.total, skips.in_a_row) == (1, 0)
    assert skips.settle() == []


def test_a_row_of_skipped_steps_is_counted_across_logs():
    skips = SkippedSteps()
    watched(skips, [True, False, False])
    watched(skips, [False, True, True], first_step=3)
    assert (skips.total, skips.in_a_row, skips.longest) == (3, 0, 3)
    watched(skips, [True], first_step=6)
    assert skips.longest == 0


def test_counts_go_on_after_a_resume():
    before, after = SkippedSteps(), SkippedSteps()
    watched(before, [True, False, False])
    after.load_state(before.state())
    watched(after, [False], first_step=3)
    assert (after.total, after.longest) == (3, 3)


def test_watching_never_waits_for_the_device():
    skips = SkippedSteps()
    with NoHostSync():
        skips.watch(0, torch.tensor(False), [torch.tensor([1])])
    assert len(skips.settle()) == 1


def test_slices_are_named_by_set_patient_series_and_number(loader):
    names = slice_names(loader, [7])
    assert names == [
        {"set": str(loader.slices.sets[0].folder), "patient_id": "P-2", "series_id": "P-2-1", "slice_index": 1}
    ]
    assert in_words(names * 5) == "; ".join(["patient P-2 series P-2-1 slice 1"] * 3) + " and 2 more"


def test_rows_of_a_stream_are_named_as_they_are():
    assert in_words(slice_names(object(), [7])) == "row 7"


def test_the_names_are_plain_values_that_json_can_write(loader):
    import json

    assert isinstance(loader, PretrainLoader)
    assert json.loads(json.dumps(slice_names(loader, [0])))[0]["slice_index"] == 0
