"""Completion in shells: a script that knows all commands and options."""

import argparse


class PrintCompletion(argparse.Action):
    """Prints the script of a shell for the installed program, and ends."""

    def __call__(self, parser, namespace, values, option_string=None):
        import shtab

        parser.prog = "delf_jax"
        _complete_paths(parser)
        print(shtab.complete(parser, values))
        parser.exit()


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """What has no other type or choices takes a path, or may well take one."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_paths(subparser)
        elif action.type is None and action.choices is None and action.nargs != 0:
            kind = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]  # Read by shtab.
