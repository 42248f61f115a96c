"""The search for the fastest micro-batch, number of workers and pinning, by short trials of the real run."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from .config import BatchConfig, PretrainConfig
from .trial import Setting, Trial

# Trials of a few steps scatter by some percent: within this share of the fastest, the cheapest setting is as good.
_AS_GOOD = 0.03

HEADER = f"{'batch':>6} {'accumulate':>11} {'workers':>8} {'pinned':>7} {'images/s':>9} {'waiting':>8} {'memory':>9}"


def default_batch_sizes(batch: BatchConfig) -> list[int]:
    """Half to four times the run's micro-batch, as far as they keep the images of an update."""
    images = batch.size * batch.accumulate
    candidates = {batch.size // 2, batch.size, 2 * batch.size, 4 * batch.size}
    return sorted(size for size in candidates if size >= 2 and images % size == 0)


def default_workers(configured: int, cores: int) -> list[int]:
    """The run's number, a quarter and half of the cores; none at all where there are few."""
    candidates = {configured, cores // 4, cores // 2} | ({0} if cores <= 4 else set())
    return sorted(candidates)


def settings(
    config: PretrainConfig, batch_sizes: Sequence[int], workers: Sequence[int], pins: Sequence[bool | None]
) -> list[Setting]:
    """Every combination, small micro-batches first. Accumulation keeps the images of an update where it can.

    A micro-batch that does not divide them makes an update of that micro-batch alone: another run, with another
    learning rate, which the table shows.
    """
    images = config.batch.size * config.batch.accumulate
    return [
        Setting(
            batch_size=size,
            accumulate=images // size if images % size == 0 else 1,
            num_workers=num_workers,
            pin_memory=pin,
        )
        for size, num_workers, pin in itertools.product(sorted(set(batch_sizes)), workers, pins)
    ]


def search(candidates: Sequence[Setting], measure: Callable[[Setting], Trial]) -> Iterator[Trial]:
    """Try all settings; what needs more memory than one that had too little is not tried again."""
    too_large: int | None = None
    for setting in candidates:
        if too_large is not None and setting.batch_size >= too_large:
            yield Trial(setting=setting, fault=f"not tried: batch {too_large} ran out of memory")
            continue
        trial = measure(setting)
        if trial.is_out_of_memory:
            too_large = setting.batch_size
        yield trial


def best(trials: Sequence[Trial], images_per_step: int) -> Trial | None:
    """The cheapest setting that is as fast as the fastest, of those that keep the run's images per update.

    Cheap is: little memory, then few workers. None if no trial has a number.
    """
    measured = [trial for trial in trials if not trial.fault]
    same = [trial for trial in measured if _images(trial.setting) == images_per_step]
    fastest = max((trial.images_per_second for trial in same or measured), default=None)
    if fastest is None:
        return None
    as_good = [trial for trial in same or measured if trial.images_per_second >= (1 - _AS_GOOD) * fastest]
    return min(as_good, key=lambda trial: (trial.setting.batch_size, trial.setting.num_workers))


def row(trial: Trial) -> str:
    """One line below `HEADER`."""
    setting = trial.setting
    pinned = {True: "yes", False: "no", None: "–"}[setting.pin_memory]
    begin = f"{setting.batch_size:>6} {setting.accumulate:>11} {setting.num_workers:>8} {pinned:>7}"
    if trial.fault:
        return f"{begin}   {trial.fault}"
    return f"{begin} {trial.images_per_second:>9.4g} {trial.share_waiting_for_data:>8.0%} {trial.memory_gb:>6.3g} GB"


def verdict(trial: Trial | None, images_per_step: int) -> str:
    """What to type, or why there is nothing to type.

    Raises:
        RuntimeError: if no trial has a number.
    """
    if trial is None:
        raise RuntimeError(
            "Expected images per second from at least one trial; found none, for the reasons in the table. Start "
            "training/pretrain.py with the same arguments, mend what it says, and tune again."
        )
    lines = [f"Best: {trial.images_per_second:.4g} images/s with {' '.join(trial.setting.arguments)}"]
    if _images(trial.setting) != images_per_step:
        lines.append(f"An update then has {_images(trial.setting)} images instead of {images_per_step}: another run.")
    return "\n".join(lines)


def _images(setting: Setting) -> int:
    return setting.batch_size * setting.accumulate
