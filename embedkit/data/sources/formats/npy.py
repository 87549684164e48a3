"""Arrays: one a file (``.npy``) or several (``.npz``, safetensors, HDF5), a column each."""

from __future__ import annotations

from collections.abc import Iterator

from embedkit.data.schema.rows import Record
from embedkit.data.sources.registry import Format, readers
from embedkit.data.sources.remote import Location
from embedkit.data.vectors.arrays import columns_of_arrays, npy_array, npz_arrays, records_of, safetensors_arrays
from embedkit.data.vectors.chunked import hdf5_arrays
from embedkit.data.vectors.column import Piece


def _npy(path: Location) -> dict[str, Piece]:
    return columns_of_arrays({path.name[: -len(".npy")]: Piece(npy_array(path))}, str(path))


def _npz(path: Location) -> dict[str, Piece]:
    return columns_of_arrays({name: Piece(array) for name, array in npz_arrays(path).items()}, str(path))


def read_npy(path: Location) -> Iterator[Record]:
    """Rows of the array of a ``.npy`` file, in a column that is called like the file.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> np.save("queries.npy", np.eye(2))
    >>> [(number, cells["queries"].tolist()) for number, cells in read_npy(Path("queries.npy"))]
    [(1, [1.0, 0.0]), (2, [0.0, 1.0])]
    """
    yield from records_of(_npy(path))


def read_npz(path: Location) -> Iterator[Record]:
    """Rows of the arrays of a ``.npz`` file, a column each.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> np.savez("rows.npz", label=np.array([3, 4]), name=np.array(["a", "b"]))
    >>> list(read_npz(Path("rows.npz")))
    [(1, {'label': 3, 'name': 'a'}), (2, {'label': 4, 'name': 'b'})]
    """
    yield from records_of(_npz(path))


def _safetensors(path: Location) -> dict[str, Piece]:
    return columns_of_arrays(safetensors_arrays(path), str(path))


def read_safetensors(path: Location) -> Iterator[Record]:
    """Rows of the tensors of a safetensors file, a column each.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from safetensors.numpy import save_file
    >>> save_file({"label": np.array([3, 4])}, "rows.safetensors")
    >>> list(read_safetensors(Path("rows.safetensors")))
    [(1, {'label': 3}), (2, {'label': 4})]
    """
    yield from records_of(_safetensors(path))


def _hdf5(path: Location) -> dict[str, Piece]:
    return columns_of_arrays(hdf5_arrays(path), str(path))


def read_hdf5(path: Location) -> Iterator[Record]:
    """Rows of the arrays of an HDF5 file, a column each; those of groups are called ``group/name``.

    Examples
    --------
    >>> import h5py
    >>> from pathlib import Path
    >>> with h5py.File("rows.h5", "w") as file:
    ...     file["label"] = [3, 4]
    >>> list(read_hdf5(Path("rows.h5")))
    [(1, {'label': 3}), (2, {'label': 4})]
    """
    yield from records_of(_hdf5(path))


readers.add("npy")(Format((".npy",), read_npy, compressible=False, in_folders=False, columns=_npy))
readers.add("npz")(Format((".npz",), read_npz, compressible=False, in_folders=False, columns=_npz, uneven=True))
readers.add("safetensors")(
    Format((".safetensors",), read_safetensors, compressible=False, in_folders=False, columns=_safetensors, uneven=True)
)
readers.add("hdf5")(
    Format((".h5", ".hdf5", ".hdf"), read_hdf5, compressible=False, in_folders=False, columns=_hdf5, uneven=True)
)
