"""Configurations whose parts are fine each on its own and cannot work together stop here, before the first step."""

from ..data.crops import NUM_GLOBAL_CROPS
from ..data.crops_config import CropsConfig
from ..data.expectation import expect
from .config import HeadConfig, PretrainConfig
from .schedules import ramp


def refuse_what_cannot_work(config: PretrainConfig) -> None:
    """Hold the parts of a configuration against each other.

    Raises:
        ValueError: naming the field, what is needed and what to change.
    """
    _check_crops(config)
    for name, head in (("dino_head", config.dino_head), ("ibot_head", config.ibot_head)):
        _check_head(name, head)
    _check_gram(config)
    _check_masks(config)
    _check_lora(config)


def refuse_too_few_slices(config: PretrainConfig, num_slices: int, num_processes: int) -> None:
    """A step that holds a slice twice compares it with itself, in Sinkhorn and in KoLeo.

    Args:
        config: the run's.
        num_slices: slices in all sets.
        num_processes: that train together.

    Raises:
        ValueError: if one step needs more slices than there are, or KoLeo more neighbours than it can see.
    """
    needed = config.batch.size * config.batch.accumulate * num_processes
    expect(
        needed <= num_slices,
        "batch.size x batch.accumulate x processes",
        f"<= {num_slices}, the slices of the data",
        needed,
        f"lower batch.accumulate ({config.batch.accumulate}) or batch.size ({config.batch.size}), or add data",
    )
    _check_neighbours(config, num_processes)


def what_never_happens(config: PretrainConfig) -> list[str]:
    """Parts of a run that its number of steps leaves no room for: it works without them, and is told so."""
    steps, warmup, gram = config.steps, config.optimizer.warmup_steps, config.gram
    notes = []
    if warmup >= steps:
        notes.append(
            f"The learning rate never reaches its peak in this run: optimizer.warmup_steps is {warmup}, steps {steps}."
        )
    if gram.first_step is not None:
        last = ramp(steps - 1, before=0.0, after=1.0, begin_step=gram.first_step, num_steps=gram.ramp_steps)
        if last == 0:
            notes.append(
                f"Gram anchoring never begins in this run: gram.first_step is {gram.first_step}, steps {steps}."
            )
    return notes


def _check_crops(config: PretrainConfig) -> None:
    patch = config.model.backbone().patch_size
    for crops in config.crops.variants:
        for name in ("global_size", "local_size", "gram_size"):
            size = getattr(crops, name)
            near = max(1, round((size or 0) / patch)) * patch
            wanted, hint = f"a multiple of patch size {patch}", f"{near} is nearest"
            expect(size is None or size % patch == 0, f"crops.{name}", wanted, size, hint)


def _check_head(name: str, head: HeadConfig) -> None:
    # Fewer logits than dimensions leave directions of the bottleneck that no prototype looks into.
    few, many = head.num_prototypes, head.bottleneck_dim
    hint = f"raise {name}.num_prototypes to some thousands, or lower {name}.bottleneck_dim"
    expect(few >= many, f"{name}.num_prototypes", f">= {name}.bottleneck_dim, which is {many}", few, hint)


def _check_neighbours(config: PretrainConfig, num_processes: int) -> None:
    losses, batch, ranks = config.losses, config.batch, config.losses.koleo_ranks_per_group
    hint = "1 looks on each process alone, koleo_scope: step over all of them"
    divisor = f"a divisor of {num_processes}, the number of processes"
    expect(num_processes % ranks == 0, "losses.koleo_ranks_per_group", divisor, ranks, hint)
    is_step = losses.koleo_scope == "step"
    seen = batch.size * (batch.accumulate * num_processes if is_step else ranks)
    fewer = f"< {seen}, the slices that KoLeo compares"
    hint = "raise batch.size, or let koleo_scope be step"
    expect(losses.koleo_topk < seen, "losses.koleo_topk", fewer, losses.koleo_topk, hint)


def _check_masks(config: PretrainConfig) -> None:
    """Some patch has to be hidden, or iBOT costs its time and teaches nothing."""
    if config.losses.ibot == 0:
        return
    num_masked_crops = int(NUM_GLOBAL_CROPS * config.batch.size * config.masking.probability)
    for crops in config.crops.variants:
        num_patches = (crops.global_size // config.model.backbone().patch_size) ** 2
        most = int(num_patches * config.masking.ratio[1]) if num_masked_crops else 0
        hint = "raise masking.probability or masking.ratio (the recipe: 0.5 and [0.1, 0.5]), or set losses.ibot: 0"
        expect(most >= 1, "masking", f"enough to hide one of {num_patches} patches", most, hint)


def _check_gram(config: PretrainConfig) -> None:
    gram, init = config.gram, config.init
    for crops in config.crops.variants:
        _check_gram_crops(crops, is_read=gram.first_step is not None and gram.teacher == "snapshot")
    if init.gram_step is not None:
        hint = "anchoring starts with the run, or the teacher of that step would be copied over"
        expect(gram.first_step == 0, "gram.first_step", "0 with init.gram_step", gram.first_step, hint)
    if gram.first_step == 0 and gram.teacher == "snapshot":
        has_teacher = init.from_run is not None or init.weights is not None
        hint = "name the run before as init.from_run; or let gram.first_step be a later step of this run"
        expect(has_teacher, "gram.first_step", "> 0 where the weights start from a random draw", 0, hint)


def _check_gram_crops(crops: CropsConfig, is_read: bool) -> None:
    if crops.gram_size is None:
        return
    hint = "set gram.first_step, with gram.teacher: snapshot, or leave crops.gram_size out"
    expect(is_read, "crops.gram_size", "null where no gram teacher looks at its crops", crops.gram_size, hint)
    needed = f">= crops.global_size, which is {crops.global_size}"
    hint = "null lets the gram teacher see the global crops; the recipe takes twice their size"
    expect(crops.gram_size >= crops.global_size, "crops.gram_size", needed, crops.gram_size, hint)


def _check_lora(config: PretrainConfig) -> None:
    """Adapters adapt something; and they are drawn anew, so nothing that belongs to others can come along."""
    if config.lora is None:
        return
    is_trained = config.init.from_run is not None or config.init.weights is not None
    hint = "name weights with --init, or leave `lora` out: frozen random weights would learn little"
    expect(is_trained, "init.weights", "a trained backbone with `lora`", None, hint)
    hint = "with `teacher` the run before is merged into plain weights and adapted anew"
    expect(config.init.take == "teacher", "init.take", "teacher with `lora`", config.init.take, hint)
