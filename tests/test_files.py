"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spikecdl.files import locked, remove_leftovers, replacing, write_bytes, write_json


def fail_half_way(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise error


class TestReplacing:
    """Others find the old file or the new one."""

    def test_writes_and_replaces(self, tmp_path):
        path = tmp_path / "file.bin"
        for content in (b"old", b"new and longer", b""):
            write_bytes(path, content)
            assert path.read_bytes() == content
            assert os.listdir(tmp_path) == ["file.bin"]
        write_bytes(str(path), b"a path in a string")
        assert path.read_bytes() == b"a path in a string"

    @pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
    def test_a_failure_leaves_the_old_file(self, tmp_path, error):
        path = tmp_path / "file.bin"
        write_bytes(path, b"old")
        with pytest.raises(type(error)):
            fail_half_way(path, error)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file.bin"]

    def test_a_failure_leaves_nothing_where_there_was_nothing(self, tmp_path):
        with pytest.raises(OSError, match="full"):
            fail_half_way(tmp_path / "file.bin", OSError("full"))
        assert not os.listdir(tmp_path)

    def test_a_killed_writer_leaves_the_old_or_the_new_file(self, tmp_path):
        path = tmp_path / "file.bin"
        contents = [letter * 10**6 for letter in (b"a", b"b")]
        program = (
            "import sys; from spikecdl.files import write_bytes\n"
            "while True:\n"
            "    for letter in (b'a', b'b'): write_bytes(sys.argv[1], letter * 10**6)"
        )
        for pause in (0.0, 0.01, 0.03):
            path.unlink(missing_ok=True)
            with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
                while not path.exists() and writer.poll() is None:
                    time.sleep(0.001)
                deadline = time.monotonic() + pause
                assert path.read_bytes() in contents
                while time.monotonic() < deadline:
                    assert path.read_bytes() in contents
                writer.kill()
            assert path.read_bytes() in contents

    def test_permissions_are_those_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").write_bytes(b"")
        write_bytes(tmp_path / "file.bin", b"")
        modes = {file.stat().st_mode for file in tmp_path.iterdir()}
        assert len(modes) == 1

    def test_an_absent_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="absent"):
            write_bytes(tmp_path / "absent" / "file.bin", b"")

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="is a folder; name a file in it"):
            write_bytes(tmp_path, b"")


class TestLocked:
    """One process at a time."""

    def test_the_second_is_refused_and_told_of_the_first(self, tmp_path):
        path = tmp_path / ".lock"
        with locked(path, "`out`"):
            with (
                pytest.raises(ValueError, match=rf"`out` is in use by process {os.getpid()} on "),
                locked(path, "`out`"),
            ):
                pytest.fail("both have it")
            assert path.exists()
        assert not path.exists()
        with locked(path, "`out`"):
            pass

    def test_of_a_process_that_was_killed_is_void(self, tmp_path):
        path = tmp_path / ".lock"
        program = (
            "import os, sys, time, pathlib; from spikecdl.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), 'it'):\n"
            "    print('has it', flush=True); time.sleep(99)"
        )
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"has it\n"
            with pytest.raises(ValueError, match=f"process {other.pid} on"), locked(path, "it"):
                pytest.fail("both have it")
            other.kill()
        assert path.exists()
        with locked(path, "it"):
            assert f"process {os.getpid()} " in path.read_text()

    def test_leftovers_are_of_one_file(self, tmp_path):
        names = [
            ".a-0123abcd.tmp",
            ".a-0123abcd.nwb",
            ".ab-0123abcd.tmp",
            "a-0123abcd.tmp",
            "a.tmp",
        ]
        for name in names:
            (tmp_path / name).write_bytes(b"")
        remove_leftovers(tmp_path / "a.safetensors")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


class TestJson:
    """JSON that any reader takes."""

    CONTENT = {"format": 1, "name": "möhre", "list": [1, 2.5, None], "nested": {"a": True}}

    def test_comes_back(self, tmp_path):
        path = tmp_path / "summary.json"
        write_json(path, self.CONTENT)
        text = path.read_text("utf-8")
        assert json.loads(text) == self.CONTENT
        assert text.endswith("}\n")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_must_be_finite(self, tmp_path, value):
        path = tmp_path / "summary.json"
        write_json(path, {"a": 1})
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"a": value})
        assert json.loads(path.read_text()) == {"a": 1}
