"""Followers of the mail log over real files and a child process: nothing is counted twice, nothing lost."""

import asyncio
import os
import shutil
from contextlib import aclosing
from pathlib import Path

import pytest

from stsguard.adapters.log_follower import FileFollower
from stsguard.adapters.log_follower.file import CHUNK_BYTES, FilePosition, losses

LIMIT_SECONDS = 30


class Daemon:
    """A daemon that stores each position with its lines, and can be killed between any two batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = ""
        self.lines: list[str] = []
        self.lost = 0
        self.follower = FileFollower(path)
        self.read()

    def read(self) -> list[str]:
        """All that there is now."""
        found: list[str] = []
        while (batch := self.follower.poll()) is not None:
            found += batch.lines
            self.position = batch.position
            self.lost += batch.lost
        self.lines += found
        return found

    def stop(self) -> None:
        self.follower.close()

    def start(self) -> None:
        self.follower = FileFollower(self.path, self.position)

    def restart(self) -> None:
        self.stop()
        self.start()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mail.log"


def write(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def set_age(path: Path, seconds: int) -> None:
    """Files of one test are written within one tick of the clock that stamps them: pull them apart."""
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_first_start_begins_at_the_end(path: Path) -> None:
    write(path, "old 1", "old 2")
    daemon = Daemon(path)
    assert daemon.position
    write(path, "new 1", "new 2")
    assert daemon.read() == ["new 1", "new 2"]


def test_lines_written_while_down_are_read_even_if_none_was_before(path: Path) -> None:
    write(path, "old")
    daemon = Daemon(path)
    daemon.stop()
    write(path, "new")
    daemon.start()
    assert daemon.read() == ["new"]


def test_log_that_appears_later_is_read_from_its_start(path: Path) -> None:
    daemon = Daemon(path)
    assert daemon.read() == []
    write(path, "first")
    batch = daemon.follower.poll()
    assert batch is not None
    assert batch.lines == ("first",)
    assert batch.from_start


def test_a_new_log_beside_a_rotated_one_is_not_the_start(path: Path) -> None:
    path.touch()
    write(path.with_name("mail.log.1"), "delivery that goes on")
    follower = FileFollower(path)
    write(path, "first")
    found = [follower.poll(), follower.poll()]
    assert not any(batch.from_start for batch in found if batch)


def test_partial_last_line_waits_for_its_end(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    with path.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert daemon.read() == ["one"]
        daemon.restart()
        assert daemon.read() == []
        file.write("o\n")
        file.flush()
        assert daemon.read() == ["two"]


def test_first_start_within_a_line_leaves_that_line_out(path: Path) -> None:
    path.write_text("old\nhalf ")
    daemon = Daemon(path)
    write(path, "a line", "next")
    assert daemon.read() == ["half a line", "next"]
    path.with_name("x").write_text("no line end at all")
    other = Daemon(path.with_name("x"))
    assert other.position.split(":")[2] == "18"


@pytest.mark.parametrize("restart", [False, True])
def test_rotation_by_renaming(path: Path, restart: bool) -> None:
    write(path, "a")
    daemon = Daemon(path)
    write(path, "b")
    daemon.read()
    rotated = path.rename(path.with_name("mail.log.1"))
    write(rotated, "c")  # the writer has it open still
    if restart:
        daemon.restart()
    assert daemon.read() == ([] if restart else ["c"])  # after a restart, when there is a new one
    path.touch()
    write(rotated, "d")
    set_age(rotated, 5)
    write(path, "e")
    if restart:
        daemon.restart()
    daemon.read()
    assert daemon.lines == ["b", "c", "d", "e"]
    daemon.restart()
    write(path, "f")
    daemon.read()
    assert daemon.lines == ["b", "c", "d", "e", "f"]
    assert daemon.lost == 0


def test_old_file_is_followed_until_the_new_one_is_written_to(path: Path) -> None:
    """logrotate makes the new file before it tells the writer."""
    write(path, "a")
    daemon = Daemon(path)
    rotated = path.rename(path.with_name("mail.log.1"))
    path.touch()
    assert daemon.read() == []
    write(rotated, "b")
    assert daemon.read() == ["b"]
    set_age(rotated, 5)
    write(path, "c")
    assert daemon.read() == ["c"]


@pytest.mark.parametrize("restart", [False, True])
def test_rotation_by_copying_and_truncating(path: Path, restart: bool) -> None:
    write(path, "a", "b")
    daemon = Daemon(path)
    write(path, "c")
    daemon.read()
    if restart:
        daemon.stop()
    write(path, "d")
    shutil.copy(path, path.with_name("mail.log.1"))
    set_age(path.with_name("mail.log.1"), 5)
    os.truncate(path, 0)
    write(path, "e")
    if restart:
        daemon.start()
    daemon.read()
    assert daemon.lines == ["c", "d", "e"]
    assert daemon.lost == 0


def test_truncated_file_that_has_outgrown_the_old_one_is_noticed(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a")
    daemon.read()
    shutil.copy(path, path.with_name("mail.log-20260504"))
    os.truncate(path, 0)
    write(path, "a longer line than before", "b")
    assert daemon.read() == ["a longer line than before", "b"]


def test_truncation_without_a_copy_is_told(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a")
    daemon.read()
    before = losses.value()
    os.truncate(path, 0)
    write(path, "b")
    assert daemon.read() == ["b"]
    assert daemon.lost == 1
    assert losses.value() == before + 1


def test_several_rotations_while_down(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a")
    daemon.read()
    daemon.stop()
    write(path, "b")
    write(path.with_name("mail.log.3"), "older than all")
    set_age(path.with_name("mail.log.3"), 30)
    path.rename(path.with_name("mail.log.2"))
    set_age(path.with_name("mail.log.2"), 20)
    write(path.with_name("mail.log.1"), "c")
    set_age(path.with_name("mail.log.1"), 10)
    for name in ("mail.log.bak", "mail.log.4.gz", "mail.logger", "mail.log.1~"):
        write(path.with_name(name), "not ours")
    path.with_name("mail.log.7").mkdir()
    write(path, "d")
    daemon.start()
    assert daemon.read() == ["b", "c", "d"]
    assert daemon.lost == 0


def test_two_rotations_between_two_looks(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a")
    daemon.read()
    write(path, "b")
    path.rename(path.with_name("mail.log.2"))
    set_age(path.with_name("mail.log.2"), 20)
    write(path.with_name("mail.log.1"), "c")
    set_age(path.with_name("mail.log.1"), 10)
    write(path, "d")
    assert daemon.read() == ["b", "c", "d"]


def test_position_that_is_gone_begins_at_the_new_file_and_says_so(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a")
    daemon.read()
    daemon.stop()
    path.rename(path.with_name("elsewhere"))
    write(path.with_name("mail.log.1"), "of another log")
    write(path, "b")
    daemon.start()
    assert daemon.read() == ["b"]
    assert daemon.lost == 1


def test_inode_that_is_used_again_is_noticed(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    write(path, "a", "b")
    daemon.read()
    daemon.stop()
    path.write_text("quite another content\n")  # the same inode
    daemon.start()
    assert daemon.read() == ["quite another content"]
    assert daemon.lost == 1


def test_unread_file_that_was_rotated_is_known_by_its_inode(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    daemon.stop()
    write(path, "a")
    path.rename(path.with_name("mail.log.1"))
    set_age(path.with_name("mail.log.1"), 5)
    write(path, "b")
    daemon.start()
    assert daemon.read() == ["a", "b"]
    assert daemon.lost == 0


@pytest.mark.parametrize("position", ["journal:s=1", "file:", "file:1:2:3:zz", "file:1:2:9999999:" + "0" * 32])
def test_position_of_something_else_is_none(path: Path, position: str) -> None:
    write(path, "old")
    follower = FileFollower(path, position)
    batch = follower.poll()
    assert batch is not None
    assert batch.lines == ()
    follower.close()


def test_position_is_text_and_back() -> None:
    position = FilePosition(12, 34, 34, "0123456789abcdef" * 2)
    assert FilePosition.parse(str(position)) == position


def test_more_than_a_chunk(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    lines = [f"{number} {'x' * 100}" for number in range(CHUNK_BYTES // 20)]
    write(path, *lines)
    assert daemon.read() == lines


def test_overlong_line_is_passed_over_also_when_killed_within_it(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    long = "x" * (3 * CHUNK_BYTES)
    write(path, "a")
    with path.open("a") as file:
        file.write(long)
    assert daemon.read() == ["a"]
    daemon.restart()
    assert daemon.read() == []
    write(path, long, "b")
    assert daemon.read() == ["b"]


def test_octets_that_are_no_utf_8_and_other_line_ends(path: Path) -> None:
    path.touch()
    daemon = Daemon(path)
    path.write_bytes("a\x0b\u2028b\r\n".encode() + b"\xff\n")
    assert daemon.read() == ["a\x0b\u2028b\r", "\ufffd"]


def test_what_can_not_be_read_is_waited_for(path: Path) -> None:
    path.mkdir()
    follower = FileFollower(path)
    assert follower.poll() is None
    assert follower.problem == f"{path} can't be read: it is no regular file"
    path.rmdir()
    write(path, "old")
    assert follower.poll() is not None
    assert follower.problem is None
    follower.close()


def test_killed_anywhere_through_everything(path: Path) -> None:
    """Each step with a restart before and after it: the lines are those written, each once."""
    path.touch()
    daemon = Daemon(path)
    written = []
    for number in range(40):
        line = f"{number:04} line"
        written.append(line)
        write(path, line)
        if number % 3 == 0:
            daemon.restart()
        if number % 5 == 0:
            daemon.read()
        if number % 7 == 6:
            for old in range(5, 0, -1):
                if (name := path.with_name(f"mail.log.{old}")).exists():
                    name.rename(path.with_name(f"mail.log.{old + 1}"))
            rotated = path.rename(path.with_name("mail.log.1"))
            set_age(rotated, 1000 - number)
            path.touch()
    daemon.read()
    assert daemon.lines == written
    assert daemon.lost == 0


async def test_batches_of_a_file(path: Path) -> None:
    path.touch()
    async with aclosing(FileFollower(path).batches()) as batches:
        first = await asyncio.wait_for(anext(batches), LIMIT_SECONDS)
        assert first.lines == ()
        pending = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        write(path, "a")
        assert (await asyncio.wait_for(pending, LIMIT_SECONDS)).lines == ("a",)
