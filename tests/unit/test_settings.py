"""Where settings come from, which source wins, and what is refused."""

from pathlib import Path

import pytest

from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import CONFIG_DIR, load_settings, settings_and_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tmp_path / "config"
    (config / "profiles").mkdir(parents=True)
    (config / "server_config.yaml").write_text("port: 1001\nmax_waiting: 11\nhost: 1.1.1.1\n")
    (config / "profiles" / "staging.yaml").write_text("port: 1002\nmax_waiting: 12\n")
    return config


def test_each_source_outranks_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILI_PORT", "1003")
    settings, sources = settings_and_sources({"profile": "staging", "policy": "fair"}, folder)
    assert (settings.host, settings.max_waiting, settings.port, settings.policy) == ("1.1.1.1", 12, 1003, "fair")
    assert sources["host"] == "config/server_config.yaml"
    assert sources["max_waiting"] == "config/profiles/staging.yaml"
    assert sources["port"] == "MILI_PORT"
    assert sources["policy"] == "--policy"
    assert sources["top_p"] == "default"
    assert load_settings({"port": 1004}, folder).port == 1004


def test_the_profile_may_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILI_PROFILE", "staging")
    assert load_settings({}, folder).max_waiting == 12


@pytest.mark.parametrize(
    ("text", "named"), [("prot: 1", "prot"), ("port: many", "port"), ("port: [", "server_config"), ("- 1", "object")]
)
def test_a_wrong_file_is_named(folder: Path, text: str, named: str) -> None:
    (folder / "server_config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_settings({}, folder)


@pytest.mark.parametrize(("name", "value"), [("MILI_PROT", "1"), ("MILI_PORT", "many"), ("MILI_PROFILE", "test")])
def test_a_wrong_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        load_settings({}, folder)


def test_a_file_may_choose_the_profile(folder: Path) -> None:
    (folder / "server_config.yaml").write_text("profile: staging\n")
    assert load_settings({}, folder).max_waiting == 12


def test_a_profile_without_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--profile: there is no profile production in .*profiles"):
        load_settings({"profile": "production"}, folder)


@pytest.mark.parametrize("profile", ["development", "staging", "production"])
def test_the_profiles_that_come_along_are_valid(profile: str) -> None:
    assert (CONFIG_DIR / "profiles" / f"{profile}.yaml").exists()
    assert load_settings({"profile": profile}).profile == profile
