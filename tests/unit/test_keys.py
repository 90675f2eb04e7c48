"""API keys: what files and variables may hold, and that only the right key opens."""

import hashlib
from pathlib import Path

import pytest

from python_layer.server.keys import ApiKeys, load_keys, new_key
from python_layer.utils.errors import ConfigError, InvalidRequestError


def test_a_new_key_opens_through_its_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = dict(new_key(name) for name in ("alice", "bob"))
    file.write_text("# ours\n\n" + "".join(f"  {line}\n" for line in made.values()))
    keys = load_keys(str(file), "NONE", {})
    assert [keys.owner(key.encode()) for key in made] == ["alice", "bob"]
    assert keys.owner(b"mili-other") is None
    assert keys.owner(b"") is None
    assert all(key.startswith("mili-") and len(key) > 40 for key in made)
    assert not any(key in file.read_text() for key in made)


def test_two_keys_are_never_alike() -> None:
    assert len({new_key("x")[0] for _ in range(100)}) == 100


def test_the_environment_holds_plain_keys() -> None:
    keys = load_keys(None, "KEYS", {"KEYS": "one, two,"})
    assert (keys.owner(b"one"), keys.owner(b"two"), keys.owner(b"one, two")) == ("KEYS-1", "KEYS-2", None)
    assert b"one" not in str(vars(keys)).encode()  # only hashes are kept


def test_without_keys_there_are_none() -> None:
    assert not load_keys(None, "KEYS", {})
    assert not ApiKeys()
    assert ApiKeys().owner(b"") is None


DIGEST = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no key"),
        ("# only this\n", "holds no key"),
        (f"a:{DIGEST}\nmili-secret\n", "line 2"),
        (f"a:{DIGEST[1:]}", "line 1"),
        (f":{DIGEST}", "line 1"),
        (f"a b:{DIGEST}", "line 1"),
        (f"a:{DIGEST}\na:{DIGEST}", "twice"),
    ],
)
def test_a_wrong_file_is_named_and_not_shown(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        load_keys(str(file), "KEYS", {})
    assert "keys" in str(caught.value)
    assert "mili-secret" not in str(caught.value)


def test_a_file_that_is_not_there_and_a_variable_without_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_keys(str(tmp_path / "nowhere"), "KEYS", {})
    with pytest.raises(ConfigError, match="KEYS"):
        load_keys(None, "KEYS", {"KEYS": " , "})


@pytest.mark.parametrize("name", ["", "a b", "a:b", "#a", "x" * 65, "a\n"])
def test_names_fit_into_a_line(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        new_key(name)
