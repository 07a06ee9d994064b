"""Infinit's form of a command line, where the verb is a flag."""

import sys

import pytest

from infinitfs.cli import compat, main
from infinitfs.cli.compat import translate
from infinitfs.cli.main import root


@pytest.mark.parametrize(
    ("noun", "typed", "meant"),
    [
        ("user", "--create --name alice", "user create --name alice"),
        ("user", "--export --name alice --full", "user export --name alice --full"),
        ("user", "--import alice.json", "user import alice.json"),
        ("credentials", "--as alice --add --aws --name s3", "credentials add --as alice --aws --name s3"),
        ("storage", "--list", "storage list"),
        ("storage", "--delete --name s", "storage delete --name s"),
        ("volume", "--fetch --storage s --name v", "volume fetch --storage s --name v"),
        ("volume", "--mount --name v --mountpoint d", "mount --name v --mountpoint d"),
        ("volume", "--help", "volume --help"),
        ("volume", "--create --help", "volume create --help"),
    ],
)
def test_the_flag_becomes_the_verb(noun: str, typed: str, meant: str) -> None:
    assert translate(noun, typed.split()) == meant.split()


def test_only_the_first_verb_is_taken() -> None:
    assert translate("volume", ["--create", "--mount"]) == ["volume", "create", "--mount"]


@pytest.mark.parametrize("noun", ["user", "credentials", "storage", "volume"])
def test_each_script_runs_its_noun(
    noun: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"infinit-{noun}", "--help"])
    with pytest.raises(SystemExit) as end:
        getattr(compat, noun)()
    assert end.value.code == 0
    assert f"Usage: infinitfs {noun}" in capsys.readouterr().out


def test_every_verb_named_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for noun, verbs in compat.VERBS.items():
        for verb in verbs:
            with pytest.raises(SystemExit) as end:
                root.main(translate(noun, [f"--{verb}", "--help"]), prog_name="infinitfs")
            assert end.value.code == 0


def test_no_script_leaves_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = []
    monkeypatch.setattr(main, "no_core", lambda: limited.append(True))
    monkeypatch.setattr(sys, "argv", ["infinit-credentials", "--help"])
    with pytest.raises(SystemExit):
        compat.credentials()
    assert limited
