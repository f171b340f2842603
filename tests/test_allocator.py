"""glibc's allocator as the command line sets it, in processes of their own: it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.system.allocator import count_heaps

_THREADS = 12
_CHILD = f"""
import ctypes, sys, threading
from secateur.system.allocator import return_large_blocks

libc = ctypes.CDLL(None)
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
libc.fclose.argtypes = libc.free.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
if sys.argv[1] == "set":
    return_large_blocks()
together = threading.Barrier({_THREADS})

def work():
    block = libc.malloc(1 << 16)
    together.wait()
    libc.free(block)

threads = [threading.Thread(target=work) for _ in range({_THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


def heaps(how: str, path: Path) -> int:
    """Heaps of a process in which twelve threads held memory at the same time."""
    subprocess.run([sys.executable, "-c", _CHILD, how, path], check=True, timeout=60)
    return path.read_text().count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_threads_share_a_few_heaps(tmp_path: Path) -> None:
    """Each heap keeps memory that was freed: a dozen of them kept 140 MiB of a small model's."""
    assert heaps("as it is", tmp_path / "before.xml") > count_heaps()
    assert 1 < heaps("set", tmp_path / "after.xml") <= count_heaps()
