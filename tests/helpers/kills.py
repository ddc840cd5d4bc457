"""A process that dies between two changes of files, without being one."""

import contextlib
import itertools
import os
import pathlib

import pytest


class Killed(BaseException):
    """What a process that is killed does not live to see."""


@contextlib.contextmanager
def killed_at(number):
    """Lets so many files be renamed or deleted; the next one never comes about.

    Nor does any that follows. Gives a list, which is empty if all were let.
    """
    changes, died = itertools.count(), []
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):

        def until_then(change):
            def changed(*args, **kwargs):
                if next(changes) >= number:
                    died.append(args[0])
                    raise Killed
                return change(*args, **kwargs)

            return changed

        for owner, name in ((os, "replace"), (pathlib.Path, "unlink")):
            patch.setattr(owner, name, until_then(getattr(owner, name)))
        yield died
