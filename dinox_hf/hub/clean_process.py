"""Run a Python file in a process in which dinox_hf cannot be imported: the place where a stranger stands."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# None in sys.modules makes every `import dinox_hf` fail, from whichever folder or installation it would have come.
_BLOCKED = """
import runpy, sys
sys.modules["dinox_hf"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_in_clean_process(
    script: Path, *arguments: str | Path, folder: Path | None = None, is_online: bool = False
) -> str:
    """Run a script the way someone without our package would, and return what it prints.

    Nobody answers its questions. Remote code that the script trusts is cached in a folder of its own, which goes when
    the process ends: no older copy of our files can answer in place of the new ones.

    Args:
        script: a Python file.
        arguments: its command line.
        folder: its working directory; by default the current one.
        is_online: whether it may ask the Hub.

    Raises:
        RuntimeError: if the script fails; the message carries the end of its output.
    """
    command = [sys.executable, "-c", _BLOCKED, str(Path(script).resolve()), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as modules:
        offline = str(int(not is_online))
        own = {"HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": offline, "TRANSFORMERS_OFFLINE": offline}
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | own,
            stdin=subprocess.DEVNULL,  # a question whether to trust code would wait here for ever
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        last_lines = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise RuntimeError(
            f"{script.name} should run in a process without dinox_hf; it ended with exit code {done.returncode}:\n"
            f"{last_lines}\nIf the last line names dinox_hf, a file that ships to the Hub imports our package."
        )
    return done.stdout
