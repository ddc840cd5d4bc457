"""`python main.py COMMAND`; `python -m delf_jax COMMAND` is the same, installed."""

from delf_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
