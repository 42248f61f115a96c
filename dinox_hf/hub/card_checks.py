"""Whether a card says what it must: metadata that the Hub reads, and under which licences weights and data stand."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .card import validate_metadata
from .card_facts import CardFacts, metadata_of

_BLANK = re.compile(r"\$\{?[a-z_]+\}?|FOLDER_OR_REPOSITORY|\b(?:TODO|FIXME)\b")


def refuse_invalid_card(text: str) -> str:
    """Ask for the metadata of a model or head.

    Raises:
        ValueError: naming the field, or what was left to be filled in.
    """
    validate_metadata(text)
    _refuse_blanks(text)
    metadata = metadata_of(text)
    results = sum(len(result["metrics"]) for entry in metadata.get("model-index", []) for result in entry["results"])
    return f"licence {metadata['license']}, {metadata['pipeline_tag']}, {results} results"


def refuse_unstated_licences(facts: CardFacts) -> str:
    """Ask what stands on the card of a run: the licence of its weights and that of its data.

    Raises:
        ValueError: saying which of them is not known, and where it is to be written.
    """
    data = facts.dataset.get("license_name") or facts.dataset.get("license", "other")
    if data == "other":
        raise ValueError(
            f"The card should state the licence of the training data; found none for {facts.dataset_name}. Write "
            f"`license:` on top of that set's README.md, and have the set where run.yaml names it."
        )
    if facts.first_weights is None:
        return f"weights gpl-3.0, data {data}"
    name, licence = facts.first_weights
    if licence is None:
        raise ValueError(
            f"The card should state the licence of the weights that training began with; found none for {name}. Write "
            f"it to run.yaml, under lineage: origin: licence."
        )
    return f"weights {licence}, like {name} that they began with; data {data}"


def refuse_unstated_head_licences(report: dict[str, Any]) -> str:
    """The same of a head, from its report.

    Raises:
        ValueError: saying which of them is not known.
    """
    base, data = report["base"]["licence"], report["data"]["licence"]
    if not base or not data or data == "other":
        raise ValueError(
            f"The card should state the licences of base and data; found base {base!r}, data {data!r}. State them on "
            f"top of README.md of the backbone and of the set, and train the head again; or write them to report.json."
        )
    return f"weights {base}, like the base; data {data}"


def refuse_invalid_dataset_card(text: str, shards: dict[str, Path]) -> str:
    """Compare the metadata of a data set with its Parquet files: splits, columns, rows; and ask for the licence.

    Args:
        text: README.md.
        shards: Parquet files by path in the repository.

    Raises:
        ValueError: naming the field or the difference.
    """
    _refuse_blanks(text)
    metadata = metadata_of(text)
    for name in ("pretty_name", "license", "configs", "dataset_info"):
        if not metadata.get(name):
            raise ValueError(
                f"The card's metadata needs `{name}`; found {metadata.get(name)!r}. Build the set again, or add it "
                f"between the two --- lines on top of README.md."
            )
    licence = metadata.get("license_name") or metadata["license"]
    if licence == "other":
        raise ValueError(
            "The card should state the licence of the data; found `license: other` without a name. Write `license:` "
            "with an identifier of the Hub, or `license_name:` and `license_link:`, on top of README.md, and the "
            "terms under `Licence and citation`."
        )
    told = []
    for info in metadata["dataset_info"]:
        columns = {feature["name"] for feature in info["features"]}
        for split in info["splits"]:
            start = f"{info['config_name']}/{split['name']}-"
            told.append((start, split["num_examples"], columns))
    declared = {start for start, _, _ in told}
    strays = [name for name in shards if not any(name.startswith(start) for start in declared)]
    if strays:
        raise ValueError(
            f"Every shard should belong to a split of the card; found {', '.join(strays[:4])}. Build the set again."
        )
    for start, num_rows, columns in told:
        _refuse_other_rows(start, num_rows, columns, [path for name, path in shards.items() if name.startswith(start)])
    return f"licence {licence}; {len(told)} splits with the rows and columns that the card tells"


def _refuse_other_rows(start: str, num_rows: int, columns: set[str], files: list[Path]) -> None:
    found = sum(pq.read_metadata(path).num_rows for path in files)
    others = {name for path in files for name in pq.read_schema(path).names} ^ columns if files else set()
    if found != num_rows or others:
        raise ValueError(
            f"The card should tell what the shards hold; found {found} rows in {start}*, where it says {num_rows}"
            f"{f', and columns that stand in one of them only: {sorted(others)}' if others else ''}. Build again."
        )


def _refuse_blanks(text: str) -> None:
    # A line of code may well speak of $variables.
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    if found := _BLANK.search(prose):
        raise ValueError(
            f"A card should be filled in; found {found[0]!r} left in it. The card template and the code that fills it "
            f"are of different versions."
        )
