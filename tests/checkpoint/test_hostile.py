"""Files made to run code, to exhaust memory or to hang: no code runs, memory stays small, one line says why.

Every file is read in one other process whose address space is limited and whose peak memory is measured.
"""

import builtins
import gzip
import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import ppsolo
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.errors import CheckpointError

COMMAND = "touch SENTINEL"
WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
ADDRESS_SPACE = 1 << 30
ALLOWED_GROWTH = 100 << 20  # 200 000 small objects, or the 16 MiB granted to a gzip; 44 MiB measured

READER = """
import json, re, resource, sys
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.errors import CheckpointError

def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = peak()
answers = {}
for name in json.loads(sys.argv[1]):
    try:
        answers[name] = "read " + " ".join(read_checkpoint(name))
    except CheckpointError as error:
        answers[name] = str(error)
print(json.dumps({"answers": answers, "growth": peak() - before}))
"""


class Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def touch() -> None:
    """A function of this module, for pickles that name one."""


def by_hand(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


RECONSTRUCT = named("numpy.core.multiarray", "_reconstruct")
NDARRAY = named("numpy", "ndarray")
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
FLOAT32 = named("numpy", "dtype") + text("f4") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNNK\x00K\x00K\x00tb"
FOUR_ZEROS = b"C\x04" + bytes(4)


def array(shape: bytes, kind: bytes = FLOAT32, data: bytes = FOUR_ZEROS) -> bytes:
    """The instructions of an array, the instructions of its shape, dtype and data given."""
    return EMPTY_ARRAY + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def one_weight(value: bytes) -> bytes:
    return by_hand(b"}", text("w"), value, b"s")


def pickles_that_call() -> dict[str, tuple[bytes, str]]:
    """Pickles that name functions, from the plain to the hidden."""
    attacks: dict[str, tuple[bytes, str]] = {}
    for protocol in (2, 3, 4, 5):
        system = pickle.dumps({"w": Calls(os.system, COMMAND)}, protocol=protocol)
        attacks[f"system{protocol}"] = system, f"'{os.system.__module__}.system'"
    for name in ("eval", "exec", "__import__", "getattr", "open"):
        function = getattr(builtins, name)
        call = Calls(function, f"__import__('os').system('{COMMAND}')")
        attacks[name] = pickle.dumps({**WEIGHTS, "x": call}), f"'{function.__module__}.{name}'"
    hidden = np.array([Calls(os.system, COMMAND)], dtype=object)
    attacks["object_array"] = pickle.dumps({"w": hidden}), "system"
    attacks["in_a_list"] = pickle.dumps({"model": {"w": (1, [Calls(os.system, COMMAND)])}}), "system"
    attacks["sizes"] = pickle.dumps({"w": Calls(np.zeros, 1 << 34)}), "numpy"
    attacks["own"] = pickle.dumps({"w": touch}), "touch"
    attacks["partial"] = by_hand(named("functools", "partial")), "'functools.partial'"
    attacks["dotted"] = by_hand(named("numpy", "ndarray.__class__")), "'numpy.ndarray.__class__'"
    attacks["dotted_module"] = by_hand(named("numpy.core.multiarray.os", "system")), "system"
    attacks["global"] = b"\x80\x02cposix\nsystem\n" + text(COMMAND) + b"\x85R.", "'posix.system'"
    attacks["global_without_end"] = b"\x80\x02c" + b"a" * 100_000, "does not end"
    attacks["name_is_no_text"] = by_hand(b"K\x01K\x02\x93"), "not a text"
    attacks["inst"] = b"\x80\x02(U\x0etouch SENTINELiposix\nsystem\n.", "INST"
    attacks["obj"] = by_hand(b"(", NDARRAY, b"K\x01o"), "OBJ"
    attacks["newobj"] = by_hand(NDARRAY, b"K\x01\x85\x81"), "NEWOBJ"
    attacks["newobj_ex"] = by_hand(NDARRAY, b")}\x92"), "NEWOBJ_EX"
    attacks["persistent"] = by_hand(text("key") + b"Q"), "BINPERSID"
    attacks["extension"] = by_hand(b"\x82\x01"), "EXT1"
    attacks["buffer"] = b"\x80\x05\x97.", "NEXT_BUFFER"
    attacks["dup"] = by_hand(b"}" + b"2" * 1000), "DUP"
    attacks["string"] = by_hand(b"S'text'\n"), "STRING"
    return attacks


def pickles_that_misuse() -> dict[str, tuple[bytes, str]]:
    """Pickles that call the functions that are known in ways that checkpoints do not."""
    encode = named("_codecs", "encode")
    in_tuple = b"\x85R"
    attacks = {
        "ndarray_of_4_gib": by_hand(NDARRAY, b"\x8a\x05" + struct.pack("<q", 1 << 30)[:5] + b"\x85\x85R"),
        "reconstruct_other": by_hand(RECONSTRUCT, named("builtins", "bytes"), b"K\x00\x85C\x01b\x87R"),
        "reconstruct_short": by_hand(RECONSTRUCT, NDARRAY, in_tuple),
        "codec": by_hand(encode, text("abc"), text("zlib"), b"\x86R"),
        "codec_is_dict": by_hand(encode, text("abc"), b"}\x86R"),
        "bytes_of_4_gib": by_hand(named("builtins", "bytes"), b"J\xff\xff\xff\x7f", in_tuple),
        "dtype_of_dict": by_hand(named("numpy", "dtype"), b"}", in_tuple),
        "tuple_of_list": by_hand(named("builtins", "tuple"), b"]", in_tuple),
        "ordered_dict_of_list": by_hand(named("collections", "OrderedDict"), b"]", in_tuple),
        "call_of_array": by_hand(EMPTY_ARRAY, b")R"),
        "call_without_tuple": by_hand(NDARRAY, b"}R"),
        "build_on_function": by_hand(NDARRAY, b"}b"),
        "build_on_dict": by_hand(b"}}b"),
        "build_with_dict": by_hand(EMPTY_ARRAY, b"}b"),
        "build_twice": by_hand(array(b")"), b"(K\x01)" + FLOAT32 + b"\x89" + FOUR_ZEROS + b"tb"),
        "dtype_twice": by_hand(FLOAT32, b"(K\x03" + text(">") + b"NNNtb"),
    }
    return {name: (content, "nothing was run") for name, content in attacks.items()}


def pickles_that_claim() -> dict[str, tuple[bytes, str]]:
    """Pickles that claim sizes which the file does not have, or grow when they are read."""
    huge = b"\x8a\x08" + struct.pack("<q", 1 << 62)
    gib = b"\x8a\x05" + struct.pack("<q", 1 << 30)[:5]
    attacks = {
        f"{name}_of_a_huge_length": (by_hand(code + length), "cut off")
        for name, code, length in [
            ("binunicode8", b"\x8d", struct.pack("<Q", 1 << 62)),
            ("binbytes8", b"\x8e", struct.pack("<Q", 1 << 62)),
            ("bytearray8", b"\x96", struct.pack("<Q", 1 << 62)),
            ("binbytes", b"B", struct.pack("<I", 0xFFFFFFFF)),
            ("binstring", b"T", struct.pack("<i", -1)),
            ("binunicode", b"X", struct.pack("<I", 0xFFFFFFFF)),
        ]
    }
    for name, shape in {
        "4_gib": gib + b"\x85",
        "4_gib_squared": gib + gib + b"\x86",
        "overflow": huge + huge + b"K\x04\x87",
        "overflow_to_zero": huge + b"K\x04\x86",
        "nothing_times_huge": b"K\x00" + huge + huge + b"\x87",
        "negative": b"J\xff\xff\xff\xff\x85",
        "minus_squared": b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86",
        "truth": b"\x88\x85",
        "float": b"G" + struct.pack(">d", 1.0) + b"\x85",
        "text": text("1") + b"\x85",
        "rank": b"(" + b"K\x01" * 100 + b"t",
        "huge_number": b"\x8a\xff" + b"\x7f" * 255 + b"\x85",
    }.items():
        attacks[f"shape_{name}"] = one_weight(array(shape)), "shape"
    attacks["shape_list"] = one_weight(array(b"]")), "incompletely"
    attacks["data_list"] = one_weight(array(b")", data=b"]")), "objects"
    attacks["object_dtype"] = one_weight(array(b")", kind=FLOAT32.replace(b"f4", b"O8"))), "'<O8'"
    attacks["subarray"] = one_weight(array(b")", kind=FLOAT32.replace(b"NNN", b")NN"))), "dtype"
    attacks["no_state"] = one_weight(EMPTY_ARRAY), "incompletely"
    attacks["frame"] = by_hand(b"\x95" + struct.pack("<Q", 1 << 62)), "frame"
    attacks["long4"] = by_hand(b"\x8b\xff\xff\xff\x7f"), "LONG4"
    attacks["memo_bomb"] = one_weight(array(b")") + b"r\xff\xff\xff\xff"), "read w"
    attacks["memo_missing"] = by_hand(b"j\xff\xff\xff\xff"), "memo entry"
    megabyte = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    first = array(b"J" + struct.pack("<i", 1 << 18) + b"\x85", data=megabyte) + b"q\x00"
    aliases = b"".join(text(f"w{index}") + b"h\x00s" for index in range(1000))
    attacks["aliases"] = by_hand(b"}", text("w"), first, b"s", aliases), "4 times"
    return attacks


def pickles_that_tangle() -> dict[str, tuple[bytes, str]]:
    """Pickles whose structure is deep, doubled, endless or broken."""
    laughs = b"N" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(200))
    return {
        "laughs": (one_weight(laughs), "a tuple under 'w'"),
        "deep_tuple": (one_weight(b"N" + b"\x85" * 100_000), "a tuple under 'w'"),
        "deep_list": (one_weight(b"]" * 50_000 + b"a" * 49_999), "a list under 'w'"),
        "deep_dict": (one_weight(b"}" + b"K\x00}" * 30_000 + b"s" * 30_000), "a dict under 'w'"),
        "marks": (by_hand(b"(" * 100_000), "wrong number"),
        "containers": (by_hand(b"}" * 3_000_000), "instructions"),
        "texts": (by_hand(b"\x8c\x01a" * 1_000_000), "instructions"),
        "itself": (by_hand(b"}q\x00", text("w"), b"h\x00s"), "a dict under 'w'"),
        "twice": (by_hand(b"}", text("w"), b"Ns", text("w"), b"Ns"), "'w' twice"),
        "list_key": (by_hand(b"}]Ns"), "key"),
        "items_of_list": (by_hand(b"](NNu"), "not a dict"),
        "odd_items": (by_hand(b"}(Nu"), "not a dict"),
        "append_to_dict": (by_hand(b"}Na"), "not a list"),
        "no_mark": (by_hand(b"}u"), "mark"),
        "empty_stack": (by_hand(b"}" + b"s"), "operand"),
        "stop_at_once": (by_hand(), "wrong number"),
        "protocol": (b"\x80\xff}.", "protocol 255"),
        "trailing": (pickle.dumps(WEIGHTS) + b"cos\nsystem\n.", "follow the end"),
        "no_instruction": (by_hand(b"\xff"), "not a pickle instruction"),
        "not_utf8": (by_hand(b"\x8c\x01\xff"), "UTF-8"),
        "wide_text": (one_weight(array(b")", data=text("a\u20ac"))), "Latin-1"),
        "control_names": (by_hand(named("os\n\x1b[31m", "system\r\n" * 100)), "os [31m.system system"),
        "control_name": (one_weight(array(b")")).replace(text("w"), text("\x1b[31m"), 1), "not a printable name"),
        "empty_name": (one_weight(array(b")")).replace(text("w"), text(""), 1), "not a printable name"),
        "control_key": (by_hand(b"}", text("a\nb\x1b" * 900), b"Ns"), "nothing under"),
    }


def tar_of(*entries: tuple[str, bytes, Mapping[str, object]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of (name, content, fields of its TarInfo)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for name, content, fields in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in fields.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def raw_variable(count: int, content: bytes) -> bytes:
    """`content` as a float32 variable that claims `count` values."""
    side = b"\x10" + bytes([count >> shift & 127 | 128 for shift in (0, 7, 14, 21)]) + bytes([count >> 28])
    return struct.pack("<IQIi", 0, 0, 0, 8) + b"\x08\x05" + side + content


def with_checksum(block: bytes) -> bytes:
    """A tar header of 512 bytes with its checksum put right."""
    blank = block[:148] + b" " * 8 + block[156:512]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def archives() -> dict[str, tuple[bytes, str]]:
    """Archives that leave their place, lie about sizes or unpack to more than they should."""
    variable = raw_variable(1, bytes(4))
    good = tar_of(("w", variable, {}))

    def size_field(field: bytes) -> bytes:
        return with_checksum(good[:124] + field + good[136:512]) + good[512:]

    megabyte = raw_variable(1 << 18, bytes(1 << 20))
    bomb = tar_of(*((f"w{index}", megabyte, {}) for index in range(64)))
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(64 << 20))
    long_header = ("w", variable, {"pax_headers": {"comment": "x" * 100_000}})
    sparse = ("w", variable, {"pax_headers": {"GNU.sparse.size": "9999999999"}})
    return {
        "good": (good, "read w"),
        "symlink": (tar_of(("w", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})), "link"),
        "hardlink": (tar_of(("w", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})), "link"),
        "device": (tar_of(("w", b"", {"type": tarfile.CHRTYPE})), "device"),
        "fifo": (tar_of(("w", b"", {"type": tarfile.FIFOTYPE})), "device"),
        "sparse": (tar_of(("w", variable, {"type": tarfile.GNUTYPE_SPARSE})), "special"),
        "pax_sparse": (tar_of(sparse, tar_format=tarfile.PAX_FORMAT), "sparse"),
        "pax_long": (tar_of(long_header, tar_format=tarfile.PAX_FORMAT), "too long"),
        "parent": (tar_of(("../w", variable, {})), "leaves the archive"),
        "parent_inside": (tar_of(("a/../../w", variable, {})), "leaves the archive"),
        "absolute": (tar_of(("/tmp/w", variable, {})), "leaves the archive"),
        "parent_folder": (
            tar_of(("../a", b"", {"type": tarfile.DIRTYPE}), ("w", variable, {})),
            "leaves the archive",
        ),
        "nested": (tar_of(("a/b/w", variable, {})), "several folders"),
        "two_folders": (tar_of(("a/v", variable, {}), ("b/w", variable, {})), "several folders"),
        "same_name": (tar_of(("w", variable, {}), ("w", variable, {})), "'w' twice"),
        "no_variable": (tar_of(("w", b"x" * 100, {})), "not a raw paddle variable"),
        "too_short": (tar_of(("w", b"x", {})), "not a raw paddle variable"),
        "entries": (tar_of(("a/", b"", {"type": tarfile.DIRTYPE}))[:512] * 10_001, "more than 10000 entries"),
        "claims_more": (tar_of(("w", raw_variable(1 << 30, bytes(4)), {})), "shape"),
        "huge_size": (size_field(b"77777777777\0"), "cut off"),
        "binary_size": (size_field(b"\x80" + bytes(10) + b"\x01"), "usable size"),
        "negative_size": (size_field(b"\xff" * 12), "usable size"),
        "signed_size": (size_field(b"-0000000010\0"), "usable size"),
        "zip_bomb": (compressed.getvalue(), "zip"),
        "gzip_bomb": (gzip.compress(bytes(64 << 20)), "compressed"),
        "gzip_tar_bomb": (gzip.compress(bomb), "4 times"),
        "gzip_tar_claim": (gzip.compress(size_field(b"77777777777\0")), "4 times"),
        "gzip_cut": (gzip.compress(good)[:-30], "cannot be read"),
        "safetensors_huge": (struct.pack("<Q", 1 << 31) + b'{"w":1}', "1 MiB"),
        "safetensors_lists": (
            struct.pack("<Q", 1 << 20) + b'{"w":[' + b"[]," * ((1 << 20) // 3 - 3) + b"[]]}  ",
            "does not describe",
        ),
        "safetensors_cut": (struct.pack("<Q", 1000) + b'{"w":1}', "cut off"),
    }


ATTACKS = pickles_that_call() | pickles_that_misuse() | pickles_that_claim() | pickles_that_tangle() | archives()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the other process said of every file, and the bytes by which its memory grew."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory is read from /proc, which only Linux has")
    folder = tmp_path_factory.mktemp("hostile")
    for name, (content, _) in ATTACKS.items():
        (folder / name).write_bytes(content)
    environment = os.environ | {
        "PYTHONPATH": str(Path(ppsolo.__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(list(ATTACKS)), str(ADDRESS_SPACE)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"files": sorted(os.listdir(folder))}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_gets_one_clear_line(outcome: dict, name: str) -> None:
    answer = outcome["answers"][name]
    assert ATTACKS[name][1] in answer
    assert answer.isprintable() and len(answer) < 500
    assert answer.startswith((f"{name}: ", "read "))


def test_nothing_was_run_or_written(outcome: dict) -> None:
    assert outcome["files"] == sorted(ATTACKS)


def test_little_memory_was_taken(outcome: dict) -> None:
    assert outcome["growth"] < ALLOWED_GROWTH


def test_the_attacks_would_work_on_python_s_own_unpickler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(ATTACKS["system4"][0])
    assert Path("SENTINEL").exists()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_folders_with_links_pipes_and_folders(tmp_path: Path, kind: str) -> None:
    (tmp_path / "variable").write_bytes(raw_variable(1, bytes(4)))
    assert list(read_checkpoint(tmp_path)) == ["variable"]
    inner = tmp_path / "w"
    if kind == "symlink":
        inner.symlink_to(tmp_path / "variable")
    elif kind == "fifo":
        os.mkfifo(inner)
    else:
        inner.mkdir()
    with pytest.raises(CheckpointError, match=r"link|pipe|folder"):
        read_checkpoint(tmp_path)


# Broken copies of good files


def good_files() -> dict[str, bytes]:
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    coded = json.dumps(header).encode()
    files = {f"pickle{protocol}": pickle.dumps(WEIGHTS, protocol=protocol) for protocol in (2, 3, 4, 5)}
    files["safetensors"] = struct.pack("<Q", len(coded)) + coded + WEIGHTS["w"].tobytes()
    files["tar"] = tar_of(("a/w", raw_variable(6, WEIGHTS["w"].tobytes()), {}), tar_format=tarfile.PAX_FORMAT)[:1500]
    files["tar"] = files["tar"].ljust(2048, b"\0")
    files["tar_gz"] = gzip.compress(files["tar"])
    return files


GOOD = good_files()


@pytest.mark.parametrize("name", GOOD)
def test_every_shorter_copy_is_refused(tmp_path: Path, name: str) -> None:
    content = GOOD[name]
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert "w" in read_checkpoint(path)
    needed = 1536 if name == "tar" else len(content)
    for length in range(0, needed, 1 if needed < 1000 else 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


@pytest.mark.parametrize("name", GOOD)
def test_random_damage_is_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    path = tmp_path / "weights"
    refused = 0
    for _ in range(300):
        content = bytearray(GOOD[name])
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            weights = read_checkpoint(path)
        except CheckpointError as error:
            assert str(error).isprintable()
            refused += 1
        else:
            assert sum(array.nbytes for array in weights.values()) < 16 << 20
    assert refused > 30


def test_every_instruction_of_python_s_pickle_is_understood_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for info in pickletools.opcodes:
        for before in (b"", b"}", b"}" + text("w"), b"(" + text("w") + b"N", EMPTY_ARRAY, b"K\x01K\x02"):
            path.write_bytes(by_hand(before, info.code.encode("latin-1"), bytes(20)))
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
