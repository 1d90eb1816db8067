"""`serve`: what it says when it can't listen."""

from __future__ import annotations

import pytest

from cerememory.cli.serve import OPTIONS, _listen
from cerememory.errors import ConfigInvalid
from cerememory.http.server import bind


@pytest.mark.parametrize(("key", "option"), OPTIONS.items())
def test_a_port_that_is_taken_is_named_with_the_option_that_takes_another(key: str, option: str) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigInvalid) as refused:
            _listen(key, "127.0.0.1", port)
    said = f"{key}: 127.0.0.1:{port} can't be listened on: Address already in use; {option} takes another"
    assert str(refused.value) == said


def test_an_address_that_isnt_this_machines_is_no_matter_of_the_port() -> None:
    with pytest.raises(ConfigInvalid, match=r"can't be listened on: [^;]*$"):
        _listen("http.port", "192.0.2.1", 1)
