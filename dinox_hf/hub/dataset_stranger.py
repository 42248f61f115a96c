"""What a stranger gets out of a built data set; packing.py runs this file where dinox_hf cannot be imported.

    python dataset_stranger.py FOLDER

Streamed, so that no copy of a large set is made. The answer is one line of JSON: columns of the first row by split.
"""

import json
import sys

from datasets import get_dataset_config_names, load_dataset


def main(folder: str) -> None:
    """Open every configuration with plain `load_dataset` and read one row of each split."""
    columns = {}
    for configuration in get_dataset_config_names(folder):
        for split, rows in load_dataset(folder, configuration, streaming=True).items():
            columns[f"{configuration}/{split}"] = len(next(iter(rows)))
    print(json.dumps(columns))


if __name__ == "__main__":
    main(*sys.argv[1:])
