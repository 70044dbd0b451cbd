"""The restricted unpickler: what plain pickle writes of arrays it gives back; anything else is refused, unexecuted."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
import pickletools

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fluxcube.errors import SourceError
from fluxcube.sources.towers import arraypickle
from fluxcube.sources.towers.arraypickle import read_array_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.floating_dtypes(endianness="?")


def same(one: object, other: object) -> bool:
    """Whether two values are equal in type, elements and order."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_plain_containers_come_back_as_pickle_reads_them(value, protocol):
    data = pickle.dumps(value, protocol=protocol)
    assert same(read_array_pickle(data, "x"), pickle.loads(data))


@given(
    hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    st.sampled_from(PROTOCOLS),
    st.booleans(),
)
def test_arrays_come_back_whole_and_shared(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    got = read_array_pickle(pickle.dumps({"a": array, "b": [array, array]}, protocol=protocol), "x")
    assert same(got["a"], array) and same(got["b"][0], array)
    assert got["b"][0] is got["b"][1]  # the same object was pickled once


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dates_become_datetime64(protocol):
    noon = datetime.datetime(2010, 7, 1, 12, 0, 5)
    written = {pd.Timestamp(noon): 1, noon + datetime.timedelta(days=1): 2, "scalar": np.float32(0.25)}
    got = read_array_pickle(pickle.dumps(written, protocol=protocol), "x")
    assert list(got)[:2] == [np.datetime64("2010-07-01T12:00:05"), np.datetime64("2010-07-02T12:00:05")]
    assert got["scalar"] == np.float32(0.25) and got["scalar"].dtype == np.float32


def test_pandas_of_old_wrote_timestamps_by_the_class():
    data = b"cpandas._libs.tslibs.timestamps\nTimestamp\n(I1277985600000000000\nNNtR."
    assert read_array_pickle(data, "x") == np.datetime64("2010-07-01T12:00")


class Runs:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": (Runs(os.system, "true"), f"{os.system.__module__}.system"),
    "eval": (Runs(eval, "1"), "eval"),
    "getattr": (Runs(getattr, "x", "upper"), "getattr"),
    "class": (collections.OrderedDict(a=1), "OrderedDict"),
    "set": ({1, 2}, "EMPTY_SET|set"),
    "frame": (pd.Series([1.0]), "pandas|_reconstructor"),
    "objects": (np.array([{}, None], object), "elements of type 'O"),
    "text": (np.array(["a"]), "elements of type 'U"),
    "record": (np.zeros(2, [("a", "f4"), ("b", "O")]), "elements of type 'V"),
    "matrix": (np.ma.masked_array([1.0]), "numpy.ma"),
    "zone": (pd.Timestamp("2020-01-01", tz="UTC"), "zone|pytz|tz|utc|UTC|timezone"),
    "key": ({(1, 2): 3}, "a tuple as key"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_else_is_refused_by_name(kind, protocol):
    value, named = HOSTILE[kind]
    with pytest.raises(SourceError, match=named) as error:
        read_array_pickle(pickle.dumps(value, protocol=protocol), "modis.pkl")
    assert str(error.value).startswith("modis.pkl: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_hostile_runs(protocol, tmp_path):
    trace = tmp_path / "ran"
    for value in (Runs(os.mkdir, str(trace)), {"a": [Runs(os.mkdir, str(trace))]}):
        with pytest.raises(SourceError):
            read_array_pickle(pickle.dumps(value, protocol=protocol), "x")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut or broken"),
        (b"\x80\x04", "cut or broken"),
        (b"]", "cut or broken"),  # no STOP
        (b".", "cut or broken"),  # nothing on the stack
        (b"]].", "cut or broken"),  # two values
        (b"(.", "cut or broken"),  # a mark is no value
        (b"h\x00.", "cut or broken"),  # a memo that was never filled
        (b"a.", "cut or broken"),
        (b"]0.", "cut or broken"),
        (b"(K\x01d.", "cut or broken"),  # key without value
        (b"Pid\n.", "opcode PERSID"),
        (b"]Q.", "opcode BINPERSID"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"(cos\nsystem\no.", "os.system"),
        (b"cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"cnumpy\nndarray\n.", "numpy.ndarray as a value"),
        (b"cnumpy\nndarray\n)R.", "from bytes only"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tVb\ntR.", "subclass"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tVb\ntR.", "without its bytes"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "codec"),
        (b"K\x01)R.", "not an admitted name"),
        (b"]}b.", "state for a list"),
    ],
)
def test_hand_made_programs_are_refused(data, match):
    with pytest.raises(SourceError, match=match):
        read_array_pickle(data, "x")


def array_pickle(shape: tuple, raw: bytes) -> bytes:
    """An array pickle whose shape and bytes are as told."""
    whole = pickle.dumps(np.zeros(3), protocol=2)
    state = pickle.dumps((1, shape, np.dtype("f8"), False, raw), protocol=2)[2:-1]
    return whole[: whole.index(b"K\x01K\x03\x85q") - 1] + state + b"b."


@pytest.mark.parametrize(
    "shape", [(10**9,), (-3,), (2, 2), (1 << 62, 4), (0, 1 << 62), (True, 3), (3.0,), "3", (1,) * 40]
)
def test_a_shape_that_its_bytes_do_not_fill_takes_no_memory(shape):
    assert read_array_pickle(array_pickle((3,), b"\0" * 24), "x").shape == (3,)
    with pytest.raises(SourceError, match="fill its shape"):
        read_array_pickle(array_pickle(shape, b"\0" * 24), "x")


#: Memo 0 is 1, and each further one a pair of the one before; the stack is left empty.
DOUBLING = b"K\x01q\x000" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(60))


def test_bombs_are_refused_before_they_grow(monkeypatch):
    # t = (t, t), sixty times, takes 2**60 steps to hash: never a key
    with pytest.raises(SourceError, match="a tuple as key"):
        read_array_pickle(DOUBLING + b"}h\x3cK\x01s.", "x")
    monkeypatch.setattr(arraypickle, "MAX_OPS", 1000)
    with pytest.raises(SourceError, match="more than 1000 opcodes"):
        read_array_pickle(b"(" + b"}" * 2000 + b"l.", "x")
    monkeypatch.setattr(arraypickle, "MAX_BYTES", 100)
    with pytest.raises(SourceError, match="more than 0 MiB"):
        read_array_pickle(b"]" * 101, "x")


def test_a_tuple_that_holds_itself_many_times_is_read_once():
    got = read_array_pickle(DOUBLING + b"h\x3c.", "x")
    assert got[0] is got[1]


def whole() -> bytes:
    chips = {pd.Timestamp("2010-01-01 12:00") + pd.Timedelta(days=n): np.full((9, 2, 2), n, "f4") for n in range(3)}
    return pickle.dumps(chips, protocol=4)


def test_every_cut_is_refused():
    data = whole()
    for end in range(len(data)):
        with pytest.raises(SourceError):
            read_array_pickle(data[:end], "x")


ALLOWED = (dict, list, tuple, str, bytes, bytearray, int, float, bool, type(None), np.ndarray, np.generic)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_bytes_give_plain_data_or_a_source_error(data):
    raw = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = read_array_pickle(bytes(raw), "x")
    except SourceError:
        return
    assert isinstance(got, ALLOWED)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
@example(b"\x8d" + b"\xff" * 8 + b".")  # text of 2**64 bytes
def test_noise_is_no_pickle(noise):
    try:
        got = read_array_pickle(noise, "x")
    except SourceError:
        return
    assert isinstance(got, ALLOWED)


def test_every_opcode_is_admitted_or_refused_by_name():
    """No opcode of the language is forgotten: each is handled, or named in the refusal."""
    machine = arraypickle._Machine("x")
    sets = arraypickle._SKIPPED | set(arraypickle._EMPTY) | set(arraypickle._CONSTANT)
    handled = sets | set(arraypickle._SHORT_TUPLE) | arraypickle._LITERAL | {"STOP"}
    refused = {
        op.name
        for op in pickletools.opcodes
        if op.name not in handled and not hasattr(machine, f"_do_{op.name.lower()}")
    }
    assert refused == {
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "PERSID",
        "BINPERSID",
        "EXT1",
        "EXT2",
        "EXT4",
        "NEXT_BUFFER",
        "READONLY_BUFFER",
        "EMPTY_SET",
        "ADDITEMS",
        "FROZENSET",
    }


def nested_many_times(levels, fan=10):
    """Return opcodes of a list whose text has fan ** levels elements, in a few hundred bytes."""
    out = b"]q\x00(" + b"K\x01" * fan + b"e"
    for i in range(1, levels):
        out += b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * fan + b"e"
    return out


@pytest.mark.parametrize("values", [nested_many_times(12), b"]" * 200_000 + b"a" * 199_999], ids=["wide", "deep"])
@pytest.mark.parametrize("use", [b"\x8c\x01x\x93.", b"cnumpy\ndtype\n%s\x85R."], ids=["as a name", "as a type"])
def test_messages_do_not_contain_endless_values(values, use):
    data = b"\x80\x04" + (values + use if b"%s" not in use else use.replace(b"%s", values))
    with pytest.raises(SourceError) as error:
        read_array_pickle(data, "a.pkl")
    assert len(str(error.value)) < 500
