"""Sizes as people write them; cores and memory as a container allows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secateur.errors import InputError, PlanError
from secateur.system import resources
from secateur.system.progress import Counter, within
from secateur.system.sizes import read_size, show_amount, show_bytes, show_count

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("12GiB", 12 * GIB), ("12G", 12 * 10**9), ("5gb", 5 * 10**9), ("1.5 MiB", 3 << 19),
        ("4096", 4096), ("7B", 7), ("2T", 2 * 10**12), ("500k", 500_000),
    ],
)  # fmt: skip
def test_every_way_to_write_a_size_is_read(text: str, nbytes: int) -> None:
    assert read_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "0", "0.4", "5X", "5 G B", "1,5G", "nan", "1e9", "9" * 400]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="expected an amount such as 12GiB, 16GB or 5G"):
        read_size(text, PlanError)
    with pytest.raises(InputError):
        read_size(text)


def test_sizes_are_shown_in_decimal_units() -> None:
    assert [show_bytes(n) for n in (999, 1000, 9_675_552, 2e12)] == [
        "999 B", "1.00 kB", "9.68 MB", "2.00 TB",
    ]  # fmt: skip
    counts = [show_count(n, "reply", "replies") for n in (0, 1, 2345)]
    assert counts == ["0 replies", "1 reply", "2,345 replies"]
    assert (show_count(1, "file"), show_count(2, "file")) == ("1 file", "2 files")
    assert (show_amount(12345, "tokens"), show_amount(2e9, "bytes")) == ("12,345 tokens", "2.00 GB")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores with 256 GiB of memory, 128 of them free."""
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(resources, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    pages = {"SC_PHYS_PAGES": 256 * GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    write(tmp_path, {"meminfo": f"MemTotal: 1 kB\nMemAvailable: {128 * GIB // 1024} kB\n"})
    return tmp_path


def found() -> tuple[int, int, int]:
    """Cores, GiB in all, GiB free."""
    return resources.cores(), resources.total_memory() // GIB, resources.free_memory() // GIB


def test_without_control_groups_all_of_the_machine_is_ours(machine: Path) -> None:
    assert found() == (64, 256, 128)


def test_the_affinity_mask_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert resources.cores() == 2


def test_a_container_of_version_2(machine: Path) -> None:
    """Docker: the container sees its own group as the root."""
    write(
        machine,
        {
            "own": "0::/\n",
            "cpu.max": "250000 100000\n",
            "memory.max": f"{16 * GIB}\n",
            "memory.current": f"{10 * GIB}\n",
            "memory.stat": f"anon 1\ninactive_file {4 * GIB}\n",
        },
    )
    assert found() == (3, 16, 10)


def test_the_tightest_of_nested_groups_counts(machine: Path) -> None:
    write(
        machine,
        {
            "own": "0::/jobs/17\n",
            "jobs/cpu.max": "400000 100000\n",
            "jobs/memory.max": f"{8 * GIB}\n",
            "jobs/memory.current": f"{6 * GIB}\n",
            "jobs/17/cpu.max": "max 100000\n",
            "jobs/17/memory.max": "max\n",
            "jobs/17/memory.current": f"{GIB}\n",
        },
    )
    assert found() == (4, 8, 2)


def test_a_container_of_version_1(machine: Path) -> None:
    write(
        machine,
        {
            "own": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n2:pids:/docker/ab\n",
            "cpu/docker/ab/cpu.cfs_quota_us": "50000\n",
            "cpu/docker/ab/cpu.cfs_period_us": "100000\n",
            "memory/docker/ab/memory.limit_in_bytes": f"{4 * GIB}\n",
            "memory/docker/ab/memory.usage_in_bytes": f"{3 * GIB}\n",
            "memory/docker/ab/memory.stat": f"total_inactive_file {GIB}\n",
        },
    )
    assert found() == (1, 4, 2)


def test_no_limit_in_version_1_is_a_huge_number(machine: Path) -> None:
    write(
        machine,
        {
            "own": "4:memory:/\n3:cpu:/\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "4096\n",
        },
    )
    assert found() == (64, 256, 128)


def test_a_group_that_used_all_it_may_has_nothing_left(machine: Path) -> None:
    write(machine, {"own": "0::/\n", "memory.max": "4096\n", "memory.current": "8192\n"})
    assert resources.free_memory() == 0


def test_the_user_decides_where_things_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert resources.cache_folder() == tmp_path / ".cache" / "secateur"
    assert resources.config_folder() == tmp_path / ".config" / "secateur"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "large disk"))
    assert resources.cache_folder() == tmp_path / "large disk" / "secateur"


def test_a_counter_adds_up_and_a_part_names_its_whole() -> None:
    calls: list[tuple[str, int, int, str]] = []
    count = Counter(within("original", lambda *call: calls.append(call)), "layers", 5, "layers")
    count(2)
    count(3)
    assert calls == [("original: layers", done, 5, "layers") for done in (0, 2, 5)]
