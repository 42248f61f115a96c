"""A trained head as a folder: an adapter of a few MB beside the base that it names, or a whole model.

output/finetune.yaml   the whole configuration
output/metrics.jsonl   a line an epoch
output/base/           backbone, code and configuration, unless the source is a base on the Hub
output/adapter/        adapter_config.json, adapter_model.safetensors, README.md, report.json
output/model/          instead of adapter/: a whole model, with code, README.md and report.json
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from peft import PeftModel
from safetensors import safe_open

from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ..model.modeling_dinov3_ct import Dinov3CTForImageClassification
from ..tasks.adapter_files import LOCAL_BASE, save_adapter, set_in_json
from .export import AUTO_MAP, SHIPPED_CODE
from .head_card import render_head_card
from .publish import made_whole

FINISHED = "finished"


class HeadFolder:
    """The folder that one training fills; what is in it is whole at any time.

    Args:
        output: new, empty, or that of a training that did not end.
        is_adapter: whether peft saves what was trained, or the whole model is saved.

    Raises:
        ValueError: if the folder holds a finished head, or something that is none.
    """

    def __init__(self, output: Path, is_adapter: bool) -> None:
        self.output, self.is_adapter = output, is_adapter
        self.head = output / ("adapter" if is_adapter else "model")
        self.base = ""
        refuse_finished(output)

    def begin(self, config: dict[str, Any]) -> None:
        """Write the whole configuration, and forget the epochs of an interrupted training."""
        self.output.mkdir(parents=True, exist_ok=True)
        _write_text(self.output / "finetune.yaml", yaml.safe_dump(config, sort_keys=False))
        (self.output / "metrics.jsonl").unlink(missing_ok=True)

    def log(self, record: dict[str, float]) -> None:
        """One more line of metrics.jsonl."""
        with (self.output / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def choose_base(
        self,
        classifier: Dinov3CTForImageClassification,
        processor: Dinov3CTImageProcessor,
        source: Path,
        name: str,
    ) -> str:
        """What an adapter names as its base: the source itself if it can serve from the Hub, else a copy in base/.

        A copy keeps the output whole when it is moved. A whole model needs none beside it.

        Args:
            classifier: with the weights of the source, before anything was trained.
            processor: of the source.
            source: where its files lie.
            name: as the user wrote it.

        Returns:
            An id on the Hub, or `LOCAL_BASE`; of a whole model from a path "".
        """
        is_on_hub = not Path(name).exists()
        if not self.is_adapter:
            self.base = name if is_on_hub else ""
        elif is_on_hub and can_serve_as_base(source, classifier.config):
            self.base = name
        else:
            self.base = LOCAL_BASE
            with made_whole((self.output / "base").resolve()) as folder:
                classifier.model.save_pretrained(folder)
                _add_code(folder, classifier.config, processor)
        return self.base

    def save(
        self,
        model: PeftModel | Dinov3CTForImageClassification,
        processor: Dinov3CTImageProcessor,
        report: dict[str, Any],
    ) -> None:
        """Write what was trained, its report and its card in one move.

        Args:
            model: as `tasks.adaptation.adapt` made it, on any device.
            processor: of the backbone; a whole model carries it.
            report: what is known so far; its `status` is "finished" once the test part was looked at.
        """
        with made_whole(self.head.resolve()) as folder:
            if isinstance(model, PeftModel):
                save_adapter(model, folder, self.base)
                if self.base == LOCAL_BASE:
                    _link_base(folder, self.output / "base")
            else:
                model.save_pretrained(folder)
                _add_code(folder, model.config, processor)
            _write_report(folder, report)

    def finish(self, report: dict[str, Any], base_id: str | None = None) -> None:
        """Write the last report and card, and name the base as it is called on the Hub, where it is going there."""
        if base_id is not None and (self.head / "adapter_config.json").is_file():
            report["base"]["path"] = base_id
            set_in_json(self.head / "adapter_config.json", base_model_name_or_path=base_id)
        _write_report(self.head, report)


def _link_base(folder: Path, base: Path) -> None:
    """Let the files of the base stand beside the adapter too, as links.

    transformers looks for `../base` from the current folder, unless a whole model lies beside the adapter.
    """
    for file in base.iterdir():
        (folder / file.name).symlink_to(f"{LOCAL_BASE}/{file.name}")


def refuse_finished(output: Path) -> None:
    """Stop before a head would be replaced whose test part was looked at, or anything that is no head.

    Raises:
        ValueError: saying what was found.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "finetune.yaml").is_file():
        raise ValueError(
            f"Expected a new folder at {output}; found something else there, which is left alone. "
            f"Choose another with --output=…."
        )
    for report in output.glob("*/report.json"):
        if json.loads(report.read_text())["status"] == FINISHED:
            raise ValueError(
                f"Expected a new folder at {output}; found a finished head, whose test part has been looked at. "
                f"Choose another with --output=…, or remove it yourself."
            )


def can_serve_as_base(source: Path, config: Dinov3CTConfig) -> bool:
    """Whether a folder loads as the very classifier of this configuration, without a word of explanation."""
    try:
        entries = json.loads((source / "config.json").read_text())
    except (OSError, ValueError):
        return False
    same_head = (entries.get("pooling", "cls"), entries.get("num_slices", 1)) == (config.pooling, config.num_slices)
    if "AutoModelForImageClassification" not in entries.get("auto_map", {}) or not same_head:
        return False
    names: set[str] = set()
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names |= set(weights.keys())
    # Without the classifier's own prefix, or its blocks would stay random.
    return bool(names) and all(name.startswith(("embeddings.", "model.layer.", "norm.")) for name in names)


def _add_code(folder: Path, config: Dinov3CTConfig, processor: Dinov3CTImageProcessor) -> None:
    """The files of code, and the configurations that lead trusted readers to them."""
    for name in SHIPPED_CODE:
        shutil.copyfile(Path(__file__).parents[1] / "model" / name, folder / name)
    entries = config.to_dict() | {"auto_map": AUTO_MAP, "architectures": ["Dinov3CTForImageClassification"]}
    # The folder it was read from is a path of this machine.
    entries.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")
    processor.save_pretrained(folder)
    ours = {"AutoImageProcessor": "image_processing_dinov3_ct.Dinov3CTImageProcessor"}
    set_in_json(folder / "preprocessor_config.json", auto_map=ours)


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    _write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
    _write_text(folder / "README.md", render_head_card(report))


def _write_text(path: Path, text: str) -> None:
    """A text that is there as a whole, or as it was before."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
