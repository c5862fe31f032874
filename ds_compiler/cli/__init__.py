"""The command line ``dsc``: one file for each command, and what they share.

In: arguments. Out: text or JSON on stdout, errors on stderr, an exit code (see `errors`).
Read: `group` (finding commands, turning errors into one line), `options`, `output`, then any command's file.
Nothing heavy is imported before a command runs, so that ``dsc --help`` answers at once.
"""

from ds_compiler.cli.group import dsc


def main() -> None:
    """Entry point of the installed script."""
    dsc.main(prog_name="dsc")
