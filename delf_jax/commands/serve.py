"""The command serve: a search page and an API."""

import argparse
import contextlib
import os
from typing import Any

from delf_jax import extras
from delf_jax.commands.options import Parser, model_and_settings
from delf_jax.files import InputError
from delf_jax.progress import print_results

# Where a token is no secret in the list of processes.
_TOKEN = "DELF_JAX_TOKEN"


def add_serve_options(parser: Parser) -> None:
    parser.add_value("--index", "DIR", "folder of the index", required=True)
    parser.add_value(
        "--host", "ADDRESS", "to listen on (127.0.0.1)", default="127.0.0.1"
    )
    parser.add_number(
        "--port", "to listen on (8000); 0: any that is free", default=8000
    )
    meaning = f"what requests must bring where others reach the server (${_TOKEN})"
    parser.add_value("--token", "TOKEN", meaning)
    parser.add_flag("--writable", "photos can be added")
    meaning = "show photos from outside of the index's folder, too"
    parser.add_flag("--outside", meaning)
    parser.add_number("--queue", "searches that may wait (64)", default=64)
    meaning = "searches of one address in a minute (600); 0: any number"
    parser.add_number("--rate", meaning, default=600)
    parser.add_codebook()
    parser.add_settings()


def run_serve(options: argparse.Namespace) -> int:
    extras.require("serve", "serve")
    from delf_jax.serve import server
    from delf_jax.serve.engine import Engine

    local = server.is_loopback(options.host)
    token = options.token or os.environ.get(_TOKEN, "")
    _check(options, local, token)
    with server.listen(options.host, options.port) as listening:
        model, settings = model_and_settings(options, options.index)
        engine = Engine(options.index, model, settings, options.codebook)
        if options.writable:
            server.check_writable(engine.index)
        app = server.make_app(
            engine,
            token=token,
            hosts=("localhost", "127.0.0.1", "::1", options.host) if local else (),
            writable=options.writable,
            outside=options.outside,
            waiting=options.queue,
            rate=options.rate,
        )
        with contextlib.suppress(KeyboardInterrupt):  # As servers end.
            _print_start(options, engine.index, listening.getsockname()[1])
            server.run(app, listening)
    return 0


def _check(options: argparse.Namespace, local: bool, token: str) -> None:
    if not local and not token:
        raise InputError(
            f"--host={options.host}: others can reach that address: set a --token, or "
            f"the variable {_TOKEN}, that they must bring"
        )
    if options.queue < 1 or options.rate < 0:
        raise InputError("--queue and --rate: use positive numbers")


def _print_start(options: argparse.Namespace, index: Any, port: int) -> None:
    """Prints where the server is, and what of the index is not shown or not there."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    then = "shown" if options.outside else "not shown; --outside shows them"
    outsiders = index.outsiders(index.store.ids)
    notes = [f"{outsiders}: {then}" if outsiders else "", index.shortfall]
    print_results(*filter(None, notes), f"{index}: http://{host}:{port}/")
