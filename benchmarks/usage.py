"""`--help` of the benchmarks that take no options: what the page says of itself."""

import sys


def show_help(doc: str) -> None:
    """Print the docstring of a page and end, if that is what was asked for."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(doc.strip())
        sys.exit()
