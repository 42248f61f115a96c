"""Teacher targets and losses against the reference, gradients included."""

import pytest

from dinox_hf.losses.dino import dino_loss
from dinox_hf.losses.gram import gram_loss, resize_patch_grid
from dinox_hf.losses.ibot import ibot_loss, masked_patch_weights
from dinox_hf.losses.koleo import EPSILON, koleo_loss
from dinox_hf.losses.sinkhorn import centered_softmax, sinkhorn_knopp, update_center
from tests.parity.fixtures import assert_parity, cases, leaf, load


@pytest.mark.parametrize("case", cases("dino_targets", hyper="n_iterations"))
def test_sinkhorn_targets_match(case):
    inputs, outputs = load(case)
    hyper = case["hyper"]
    targets = sinkhorn_knopp(inputs["teacher_logits"], hyper["teacher_temp"], hyper["n_iterations"])
    assert_parity(targets, outputs["targets"], "targets")


@pytest.mark.parametrize("case", cases("dino_targets", hyper="center_momentum"))
def test_centred_softmax_targets_match_before_and_after_the_centre_moves(case):
    inputs, outputs = load(case)
    hyper, center = case["hyper"], inputs["center_before"]
    targets = centered_softmax(inputs["teacher_logits_1"], center, hyper["teacher_temp"])
    assert_parity(targets, outputs["targets_1"], "targets_1")
    center = update_center(center, inputs["teacher_logits_1"], hyper["center_momentum"])
    assert_parity(center, outputs["center_after"], "center_after")
    targets = centered_softmax(inputs["teacher_logits_2"], center, hyper["teacher_temp"])
    assert_parity(targets, outputs["targets_2"], "targets_2")


@pytest.mark.parametrize("case", cases("dino_cls_loss"))
def test_dino_loss_and_its_gradient_match(case):
    inputs, outputs = load(case)
    hyper, student = case["hyper"], leaf(inputs["student_logits"])
    loss = dino_loss(student, inputs["teacher_probs"], hyper["student_temp"], hyper["ignore_diagonal"])
    loss.backward()
    assert_parity(loss, outputs["loss"], "loss")
    assert_parity(student.grad, outputs["grad_student_logits"], "gradient")


@pytest.mark.parametrize("case", cases("ibot_loss", hyper="n_iterations"))
def test_ibot_targets_weights_loss_and_gradient_match(case):
    inputs, outputs = load(case)
    hyper, student = case["hyper"], leaf(inputs["student_logits_masked"])
    targets = sinkhorn_knopp(inputs["teacher_logits_masked"], hyper["teacher_temp"], hyper["n_iterations"])
    loss = ibot_loss(student, targets, inputs["masks"], hyper["student_temp"])
    loss.backward()
    assert_parity(targets, outputs["targets"], "targets")
    assert_parity(masked_patch_weights(inputs["masks"], len(student)), inputs["masks_weight"], "weights")
    assert_parity(loss, outputs["loss"], "loss")
    assert_parity(student.grad, outputs["grad_student_logits_masked"], "gradient")


@pytest.mark.parametrize("case", cases("ibot_loss", prefix="dense"))
def test_ibot_loss_of_the_selected_rows_matches_the_dense_form(case):
    inputs, outputs = load(case)
    masks, student = inputs["masks"], leaf(inputs["student_logits"])
    loss = ibot_loss(student[masks], inputs["teacher_probs"][masks], masks, case["hyper"]["student_temp"])
    loss.backward()
    assert_parity(loss, outputs["loss"], "loss")
    assert_parity(student.grad, outputs["grad_student_logits"], "gradient")


@pytest.mark.parametrize("case", cases("ibot_loss", hyper="center_momentum"))
def test_centred_softmax_of_patches_matches(case):
    inputs, outputs = load(case)
    hyper, logits, center = case["hyper"], inputs["teacher_logits"], inputs["center_before"]
    assert_parity(centered_softmax(logits, center, hyper["teacher_temp"]), outputs["targets"], "targets")
    assert_parity(update_center(center, logits, hyper["center_momentum"]), outputs["center_after"], "center_after")


@pytest.mark.parametrize("case", cases("koleo_loss"))
def test_koleo_loss_and_its_gradient_match(case):
    inputs, outputs = load(case)
    assert case["hyper"]["eps"] == EPSILON
    tokens = leaf(inputs["x"])
    loss = koleo_loss(tokens, topk=case["hyper"]["topk"])
    loss.backward()
    assert_parity(loss, outputs["loss"], "loss")
    # Between two equal points the gradient is the derivative of a rounding error.
    if "duplicate" not in case["case"]:
        assert_parity(tokens.grad, outputs["grad_x"], "gradient")


@pytest.mark.parametrize("case", cases("gram_loss"))
def test_gram_loss_and_its_gradient_match(case):
    inputs, outputs = load(case)
    hyper, student = case["hyper"], leaf(inputs["student"])
    loss = gram_loss(student, _gram_patches(hyper, inputs, outputs), **_options(hyper))
    loss.backward()
    assert_parity(loss, outputs["loss"], "loss")
    assert_parity(student.grad, outputs["grad_student"], "gradient")


def _gram_patches(hyper, inputs, outputs):
    if "teacher_hires" not in inputs:
        return inputs["teacher"]
    grid, new_grid = (_square(hyper[name]) for name in ("teacher_grid", "student_grid"))
    patches = resize_patch_grid(
        inputs["teacher_hires"], grid, new_grid, antialias=hyper["antialias"], mode=hyper["resize"]
    )
    assert_parity(patches, outputs["teacher_resized"], "resized")
    return patches


def _square(grid):
    return tuple(grid) if isinstance(grid, list) else (grid, grid)


def _options(hyper):
    names = {"img_level": "image_level"}
    options = ("normalized", "img_level", "remove_neg", "remove_only_teacher_neg")
    return {names.get(option, option): hyper[option] for option in options if option in hyper}
