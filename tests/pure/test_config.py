# SPDX-License-Identifier: Apache-2.0
"""Bad configuration gets one clear error; a good one its defaults."""

from pathlib import Path

import pytest

from mamplus_host import config
from mamplus_host.errors import ConfigInvalid


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("")

    assert config.load(path) == config.Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[scope]\ncgrop = '/x'\n", r"\[scope\]: unknown key 'cgrop'; did you mean 'cgroup'\?"),
        ("[skope]\n", r"unknown key 'skope'; did you mean 'scope'\?"),
        ("[agent]\nmode = 'enforced'\n", r"Invalid enum value 'enforced'"),
        ("[limits]\noutbox_bytes = 'many'\n", r"Expected `int`, got `str`"),
        ("[scope\n", r"not TOML"),
        ("scope = 3\n", r"Expected `object`, got `int`"),
    ],
)
def test_bad_configuration_names_the_file_the_key_and_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)

    with pytest.raises(ConfigInvalid, match=message) as caught:
        config.load(path)

    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="name it with --config FILE"):
        config.load(tmp_path / "none.toml")


def test_a_missing_cgroup_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigInvalid, match=r"no cgroup at .*create it with mkdir"):
        config.cgroup_dir(config.parse({"scope": {"cgroup": "/mamplus-no-such-group"}}))
