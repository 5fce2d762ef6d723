"""The page of examples does what it shows. It needs what the extra `examples` installs."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from tests.docs.conftest import Place, place
from tests.docs.pages import DOCS
from tests.docs.shell import run_page

__all__ = ["place"]


@pytest.mark.slow
def test_the_examples_do_what_they_show(place: Place) -> None:
    for module in ("PIL", "sklearn"):
        pytest.importorskip(module, reason="pip install '.[examples]'")
    with Path(place.environ["VFSD_CONFIG"]).open("a") as config:
        config.write(f'pipeline_users = ["{getpass.getuser()}"]\n')  # who may use the Python that runs this
    assert run_page(DOCS / "examples.md", place.folder, place.environ, typed=True)
