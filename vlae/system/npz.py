"""Arrays of a .npz file: one is read only after its header is known to agree with its size and the memory."""

import math
import zipfile
from collections.abc import Iterable
from io import BufferedIOBase

import numpy as np
from numpy.lib import format as npy

from vlae.system.machine import available_memory

SUFFIX = ".npy"
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Archive:
    """An open .npz file, as ``numpy.savez`` writes it."""

    def __init__(self, file: BufferedIOBase) -> None:
        """Errors: zipfile.BadZipFile if it is none; ValueError if an array is in it twice."""
        self._zip = zipfile.ZipFile(file)
        names = [info.filename for info in self._zip.infolist()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is in it twice")
        self.names = [name.removesuffix(SUFFIX) for name in names]

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The arrays of these names that are there.

        Errors: ValueError if an array holds Python objects, if its header and its bytes disagree, or if all together
        are larger than the available memory. A damaged array fails in numpy, zipfile or zlib.
        """
        found = [info for info in self._zip.infolist() if info.filename.removesuffix(SUFFIX) in set(names)]
        needed = sum(info.file_size for info in found)
        if needed > (free := available_memory()):
            raise ValueError(f"its arrays need {needed:,} bytes of memory, of which {free:,} are available")
        for info in found:
            self._check(info)
        arrays = {}
        for info in found:
            with self._zip.open(info) as entry:
                arrays[info.filename.removesuffix(SUFFIX)] = npy.read_array(entry, allow_pickle=False)
        return arrays

    def _check(self, info: zipfile.ZipInfo) -> None:
        """ValueError if the header and the directory of the archive disagree about the bytes of the array."""
        with self._zip.open(info) as entry:
            version = npy.read_magic(entry)
            if version not in READERS:
                raise ValueError(f"{info.filename} is of format version {version}, expected 1.0 or 2.0")
            shape, _, dtype = READERS[version](entry)
            if dtype.hasobject:
                raise ValueError(f"{info.filename} holds Python objects")
            announced, there = math.prod(shape) * dtype.itemsize, info.file_size - entry.tell()
        if min(shape, default=0) < 0 or announced != there:
            said = f"{list(shape)} of {dtype}, {announced:,} bytes"
            raise ValueError(f"the header of {info.filename} says {said}, but it has {there:,}")
