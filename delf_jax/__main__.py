"""`python -m delf_jax COMMAND`."""

from delf_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
