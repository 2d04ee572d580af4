from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HEAP = """
import ctypes, re, sys
from pathlib import Path
from wafergpt.devices.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def heap():
    line = re.search("(\\\\w+)-(\\\\w+) .*\\\\[heap\\\\]", Path("/proc/self/maps").read_text())
    return range(int(line[1], 16), int(line[2], 16))

if sys.argv[1] == "keep":
    assert keep_freed_memory()
address = libc.malloc(24 << 20)
inside = address in heap()
libc.free(ctypes.c_void_p(address))
print(inside, len(heap()) >= 24 << 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc")
@pytest.mark.parametrize(("how", "kept"), [("leave", "False False"), ("keep", "True True")])
def test_a_large_block_comes_from_the_heap_and_stays_there(how: str, kept: str) -> None:
    command = [sys.executable, "-c", HEAP, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept
